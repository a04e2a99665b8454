"""Mean absolute error of predicted value maps (regression), for each case, in the unit of the values.

Lower is better: name the metric in `lower_is_better` of `nnunet_mtl.evaluation.runs.multitask_gain`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.file_integrity import file_problem
from nnunet_mtl.datasets.grid import grid_difference, grid_of_image
from nnunet_mtl.evaluation.missing_values import mean_of_present

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


class RegressionEvaluationError(UserError):
    """Value maps cannot be compared."""


@dataclass(frozen=True)
class RegressionScores:
    """Errors of a folder of value maps.

    Attributes:
        mae: Mean absolute error by case, in the unit of the values; NaN if no voxel of the case counts.
    """

    mae: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean over the cases that have an error; NaN if no case has one."""
        return mean_of_present(self.mae.values())


def mean_absolute_error(
    predicted: npt.NDArray[Any], reference: npt.NDArray[Any], inside: npt.NDArray[np.bool_]
) -> float:
    """Return the mean absolute error over the voxels of a mask, NaN if it is empty.

    Raises:
        ValueError: If the three arrays differ in shape.
    """
    if not predicted.shape == reference.shape == inside.shape:
        raise ValueError(f"predicted {predicted.shape}, reference {reference.shape} and inside {inside.shape} differ")
    if not inside.any():
        return float("nan")
    return float(np.abs(predicted[inside].astype(np.float64) - reference[inside].astype(np.float64)).mean())


def mae_of_folder(
    predicted: Path, reference: Path, inside: Path | None = None, *, labels: Collection[int] | None = None
) -> RegressionScores:
    """Compare every reference map of a folder with the predicted map of the same name.

    Args:
        predicted: Folder of predicted maps, such as `out/regression/dose`; maps without a reference are not read.
        reference: Folder of reference maps, one for every case to measure.
        inside: Folder of label maps of the same names; voxels with a label other than 0 count. None counts every voxel.
        labels: Voxels with one of these labels count, in place of every label but 0.

    Raises:
        RegressionEvaluationError: If there is no reference, or a map is missing, unreadable or on another grid.
    """
    files = sorted(path for path in reference.glob("[!.]*") if path.name.endswith(_ENDINGS))
    if not files:
        raise RegressionEvaluationError(f"{reference}: holds no value map; give the folder of the references")
    missing = [path.name for path in files if not (predicted / path.name).is_file()]
    if missing:
        raise RegressionEvaluationError(f"{predicted}: {listed(missing)} not there; predict these cases first")
    errors = {}
    for path in files:
        image, truth = _read(predicted / path.name), _read(path)
        mask = None if inside is None else _read(inside / path.name)
        _refuse_other_grid(predicted / path.name, image, truth)
        values, true_values = (SimpleITK.GetArrayFromImage(map_image) for map_image in (image, truth))
        counts = np.ones(true_values.shape, dtype=bool)
        if mask is not None:
            _refuse_other_grid(path, truth, mask)
            label_map = SimpleITK.GetArrayFromImage(mask)
            counts = label_map != 0 if labels is None else np.isin(label_map, list(labels))
        errors[_case(path)] = mean_absolute_error(values, true_values, counts)
    return RegressionScores(errors)


def _case(path: Path) -> str:
    return next(path.name.removesuffix(ending) for ending in _ENDINGS if path.name.endswith(ending))


def _read(path: Path) -> Any:
    if problem := file_problem(path):
        raise RegressionEvaluationError(f"{path}: cannot be read ({problem}); write or predict it again")
    try:
        return SimpleITK.ReadImage(str(path))
    except RuntimeError:
        raise RegressionEvaluationError(f"{path}: cannot be read as an image; is it there and whole?") from None


def _refuse_other_grid(path: Path, image: Any, other: Any) -> None:
    difference = grid_difference(grid_of_image(image), grid_of_image(other))
    if difference:
        raise RegressionEvaluationError(
            f"{path}: is not on the grid of the map it is compared with ({difference.text}); resample it first"
        )
