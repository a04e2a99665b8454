"""Values per voxel on their way from the sliding window to a file: nnU-Net's own steps, without its integers.

nnU-Net's export turns what it is given into labels, and its writers cast to integers. Here its resampling of
probabilities (linear), the inverse of its crop and of its transposition are done with the values, and they are written
beside the label map, with the label map's geometry.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from torch import Tensor, cat

from nnunet_mtl.errors import UserError
from nnunet_mtl.networks.output import MultiTaskOutput
from nnunet_mtl.tasks import RegressionTask

FOLDER = "regression"
# Readers whose arrays have the axes of the files that they write; the others turn them, or write no such values.
_READERS = ("SimpleITKIO", "NibabelIO")


class RegressionExportError(UserError):
    """Values cannot be written in the format of the data set."""


def regressions_of(architecture: Mapping[str, Any], block: Mapping[str, Any]) -> tuple[RegressionTask, ...]:
    """Return the regression tasks that a network predicts, in the network's order.

    Args:
        architecture: The network's arguments in the plans.
        block: The plans' compact block of tasks, in which their scales stand.
    """
    tasks = ((name, block["tasks"][name]) for name in architecture.get("regressions", ()))
    return tuple(RegressionTask(name, task["channel"], task.get("inside"), task["scale"]) for name, task in tasks)


def beside_logits(output: MultiTaskOutput, regressions: Sequence[RegressionTask]) -> Tensor:
    """Return logits and values as channels of one tensor, (B, R + D, *spatial), fresh, of the logits' dtype.

    Gaussian weighting, mirroring and overlapping patches are then nnU-Net's for the values as well, and the logits are
    bit by bit what they are alone.
    """
    assert isinstance(output.segmentation, Tensor)  # a list is for training
    values = [output.regression[task.name].to(output.segmentation.dtype) for task in regressions]
    return cat([output.segmentation, *values], dim=1)


class _MoreHeads:
    """nnU-Net's label manager that counts further channels."""

    def __init__(self, label_manager: Any, more: int) -> None:
        self._label_manager = label_manager
        self.num_segmentation_heads = label_manager.num_segmentation_heads + more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._label_manager, name)


@contextmanager
def more_heads(predictor: Any, more: int) -> Iterator[None]:
    """Let a predictor of nnU-Net allocate so many further channels while the `with` block runs."""
    label_manager = predictor.label_manager
    predictor.label_manager = _MoreHeads(label_manager, more) if more else label_manager
    try:
        yield
    finally:
        predictor.label_manager = label_manager


def refuse_unwritable(reader_writer: type[Any], regressions: Sequence[RegressionTask]) -> None:
    """Refuse a data set whose files cannot hold values, before anything is predicted.

    Raises:
        RegressionExportError: If its reader is none of nnU-Net's that write NIfTI, NRRD or MHA as they read them.
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
        values: At the spacing of the configuration, (D, *spatial).
        plans_manager: nnU-Net's.
        configuration_manager: nnU-Net's.
        properties: Of the case, as its preprocessing gave them.

    Returns:
        (D, Z, Y, X), as nnU-Net's reader gave the image.
    """
    spacing = [properties["spacing"][axis] for axis in plans_manager.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    current = configuration_manager.spacing
    if len(current) < len(shape):  # a 2D configuration leaves the distance of slices as it is
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
