"""Values per voxel from the sliding window to the file, as floats.

nnU-Net's export turns logits into labels, and its writers cast to integers. Here nnU-Net's resampling of probabilities
(linear) and the inverse of its crop and its transposition are applied to the values, and the values are written beside
the label map with the geometry of the label map.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import Tensor, cat

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks import RegressionTask

FOLDER = "regression"
# Readers whose arrays have the axes of their files. Other readers turn the axes, or cannot write floats.
_READERS = ("SimpleITKIO", "NibabelIO")


class RegressionExportError(UserError):
    """Values cannot be written in the format of the data set."""


def regressions_of(architecture: Mapping[str, Any], block: Mapping[str, Any]) -> tuple[RegressionTask, ...]:
    """Return the regression tasks that a network predicts, in the network's order.

    Args:
        architecture: The network's arguments in the plans.
        block: The plans' compact block, which holds the scales of the tasks.
    """
    tasks = ((name, block["tasks"][name]) for name in architecture.get("regressions", ()))
    return tuple(RegressionTask(name, task["channel"], task.get("inside"), task["scale"]) for name, task in tasks)


def beside_logits(output: MultiTaskOutput, regressions: Sequence[RegressionTask]) -> Tensor:
    """Return logits and values as channels of a new tensor, (B, R + D, *spatial), of the logits' dtype.

    nnU-Net then mirrors the values as it mirrors the logits, and the logits stay equal bit by bit.
    """
    assert isinstance(output.segmentation, Tensor)  # a list is for training
    values = [output.regression[task.name].to(output.segmentation.dtype) for task in regressions]
    return cat([output.segmentation, *values], dim=1)


class ValueWindow:
    """Averages the values of a sliding window with nnU-Net's weights, but in single precision.

    nnU-Net adds logits in half precision. Towards the corners of a patch the Gaussian weights become too small for half
    precision. In the corners of the image, which only one patch covers, values would be rounded to multiples of up to
    1. For logits this does not matter, because only their sign counts.

    Args:
        n_values: Number of regression tasks, D.
        shape: Shape of the image with nnU-Net's padding, (Z, Y, X).
        slicers: Places of the patches in the image, in the order of prediction.
        patch_size: Size of a patch in voxels.
        gaussian: Whether the weights of a patch fall towards its border.
        device: Device of the sums.
    """

    def __init__(
        self,
        n_values: int,
        shape: Sequence[int],
        slicers: Iterable[Any],
        patch_size: Sequence[int],
        *,
        gaussian: bool,
        device: torch.device,
    ) -> None:
        self._slicers = iter(slicers)
        self._sum = torch.zeros((n_values, *shape), device=device)
        self._weights = torch.zeros(tuple(shape), device=device)
        weight = {"sigma_scale": 1 / 8, "value_scaling_factor": 10, "dtype": torch.float32, "device": device}
        self._weight = compute_gaussian(tuple(patch_size), **weight) if gaussian else 1.0

    def add(self, values: Tensor) -> None:
        """Add the next patch's values, (D, *patch)."""
        place = next(self._slicers)
        self._sum[place] += values.to(self._sum) * self._weight
        self._weights[place[1:]] += self._weight

    def mean(self, shape: Sequence[int]) -> Tensor:
        """Return the values, (D, Z, Y, X) on the CPU, without the padding around an image of this shape."""
        before = [(padded - size) // 2 for padded, size in zip(self._weights.shape, shape, strict=True)]
        inner = tuple(slice(start, start + size) for start, size in zip(before, shape, strict=True))
        return (self._sum[(slice(None), *inner)] / self._weights[inner]).cpu()


def refuse_unwritable(reader_writer: type[Any], regressions: Sequence[RegressionTask]) -> None:
    """Refuse a data set whose files cannot hold values, before a case is predicted.

    Raises:
        RegressionExportError: If the data set's reader is neither SimpleITKIO nor NibabelIO.
    """
    if regressions and reader_writer.__name__ not in _READERS:
        raise RegressionExportError(
            f"dataset.json: {reader_writer.__name__} cannot write the values of {regressions[0].name!r}; plan with "
            '"overwrite_image_reader_writer": "SimpleITKIO"'
        )


def on_original_grid(
    values: npt.NDArray[np.floating[Any]], plans_manager: Any, configuration_manager: Any, properties: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    """Undo what preprocessing did to the grid; zero outside of nnU-Net's crop.

    Args:
        values: Values at the spacing of the configuration, (D, *spatial).
        plans_manager: nnU-Net's `PlansManager`.
        configuration_manager: nnU-Net's `ConfigurationManager`.
        properties: Properties of the case from nnU-Net's preprocessing.

    Returns:
        Values on the grid of the image as nnU-Net's reader returns it, (D, Z, Y, X).
    """
    spacing = [properties["spacing"][axis] for axis in plans_manager.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    current = configuration_manager.spacing
    if len(current) < len(shape):  # a 2D configuration does not change the distance of slices
        current = [spacing[0], *current]
    resampled = configuration_manager.resampling_fn_probabilities(values.astype(np.float32), shape, current, spacing)
    whole = np.zeros((len(values), *properties["shape_before_cropping"]), dtype=np.float32)
    for target, of_task in zip(whole, np.asarray(resampled), strict=True):
        insert_crop_into_image(target, of_task, properties["bbox_used_for_cropping"])
    return whole.transpose(0, *(axis + 1 for axis in plans_manager.transpose_backward))


def write_values(values: npt.NDArray[np.float32], path: Path, label_map: Path) -> None:
    """Write values, (Z, Y, X), as float32 with the geometry of the label map that nnU-Net wrote for the same case."""
    reference = SimpleITK.ReadImage(str(label_map))
    image = SimpleITK.GetImageFromArray(values[0] if reference.GetDimension() == values.ndim - 1 else values)
    image.CopyInformation(reference)
    SimpleITK.WriteImage(image, str(path), True)
