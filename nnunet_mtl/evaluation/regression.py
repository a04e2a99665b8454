"""How far predicted values per voxel are off: the mean absolute error of each case, in the unit of the values.

Lower is better: in `nnunet_mtl.evaluation.multitask_gain` a regression task is one of those.
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
from nnunet_mtl.evaluation.missing import mean_of_present

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


class RegressionEvaluationError(UserError):
    """Maps of values cannot be compared."""


@dataclass(frozen=True)
class RegressionScores:
    """Errors of a folder of maps.

    Attributes:
        mae: Mean absolute error of each case, by name, in the unit of the values; NaN where no voxel counts.
    """

    mae: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean over cases, each weighing the same; NaN if there is none."""
        return mean_of_present(self.mae.values())


def mean_absolute_error(
    predicted: npt.NDArray[Any], reference: npt.NDArray[Any], inside: npt.NDArray[np.bool_]
) -> float:
    """Return the mean absolute error over the voxels inside, NaN of none; all three of one shape."""
    if not predicted.shape == reference.shape == inside.shape:
        raise ValueError(f"predicted {predicted.shape}, reference {reference.shape} and inside {inside.shape} differ")
    if not inside.any():
        return float("nan")
    return float(np.abs(predicted[inside].astype(np.float64) - reference[inside].astype(np.float64)).mean())


def mae_of_folder(
    predicted: Path, reference: Path, inside: Path | None = None, *, labels: Collection[int] | None = None
) -> RegressionScores:
    """Compare every map of a folder of references with the map of the same name.

    Args:
        predicted: Holds the predicted maps, such as `out/regression/dose`; others than those asked for may be there.
        reference: Holds the reference maps, one for each case that is scored.
        inside: Holds label maps of the same names: what counts is where they are not 0; None for every voxel.
        labels: The label values that count instead.

    Raises:
        RegressionEvaluationError: If there is no reference, or a map is missing, unreadable or on another grid.
    """
    files = sorted(path for path in reference.glob("[!.]*") if path.name.endswith(_ENDINGS))
    if not files:
        raise RegressionEvaluationError(f"{reference}: no map of values in it; give the folder of the references")
    missing = [path.name for path in files if not (predicted / path.name).is_file()]
    if missing:
        raise RegressionEvaluationError(f"{predicted}: {listed(missing)} not there; predict these cases first")
    errors = {}
    for path in files:
        image, truth = _read(predicted / path.name), _read(path)
        mask = None if inside is None else _read(inside / path.name)
        _refuse_other_grid(predicted / path.name, image, truth)
        values, wanted = (SimpleITK.GetArrayFromImage(each) for each in (image, truth))
        counts = np.ones(wanted.shape, dtype=bool)
        if mask is not None:
            _refuse_other_grid(path, truth, mask)
            label_map = SimpleITK.GetArrayFromImage(mask)
            counts = label_map != 0 if labels is None else np.isin(label_map, list(labels))
        errors[_case(path)] = mean_absolute_error(values, wanted, counts)
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
            f"{path}: is not on the grid of what it is compared with ({difference.text}); resample it first"
        )
