import math

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.evaluation.metrics.regression_error import (
    RegressionEvaluationError,
    RegressionScores,
    mae_of_folder,
    mean_absolute_error,
)
from nnunet_mtl.evaluation.runs.multitask_gain import multitask_gain


def write(folder, case, values, spacing=(1.0, 1.0, 1.0), ending=".nii.gz"):
    folder.mkdir(exist_ok=True)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(folder / f"{case}{ending}"))


@pytest.fixture
def folders(tmp_path):
    """Two cases: the first is off by 1 and 3 inside and by 100 outside, the second exact."""
    predicted, reference, inside = (tmp_path / name for name in ("predicted", "reference", "inside"))
    truth = np.array([[[10, 20, 30]]], np.float32)
    write(predicted, "a", truth + np.array([1, -3, 100], np.float32))
    write(predicted, "b", truth)
    write(predicted, "unasked", truth)
    for case in ("a", "b"):
        write(reference, case, truth)
        write(inside, case, np.array([[[1, 2, 0]]], np.uint8))
    return predicted, reference, inside


def test_that_the_error_is_the_mean_inside():
    predicted, truth = np.array([1.0, 5.0, 7.0]), np.array([2.0, 2.0, 0.0])
    assert mean_absolute_error(predicted, truth, np.array([True, True, False])) == 2.0
    assert math.isnan(mean_absolute_error(predicted, truth, np.zeros(3, bool)))
    with pytest.raises(ValueError, match="differ"):
        mean_absolute_error(predicted, truth, np.ones(2, bool))


def test_that_integers_are_not_subtracted_as_integers():
    assert mean_absolute_error(np.array([0], np.uint8), np.array([1], np.uint8), np.array([True])) == 1.0


def test_that_every_case_of_the_references_is_scored(folders):
    scores = mae_of_folder(*folders)
    assert scores.mae == {"a": pytest.approx(2.0), "b": 0.0}
    assert scores.mean == pytest.approx(1.0)


def test_that_all_voxels_count_without_a_mask_and_chosen_labels_with_one(folders):
    predicted, reference, inside = folders
    assert mae_of_folder(predicted, reference).mae["a"] == pytest.approx(104 / 3)
    assert mae_of_folder(predicted, reference, inside, labels=[2]).mae["a"] == pytest.approx(3.0)


def test_that_a_case_without_a_voxel_inside_is_not_averaged_in(folders):
    scores = mae_of_folder(*folders, labels=[7])
    assert math.isnan(scores.mean)
    assert RegressionScores({"a": math.nan, "b": 4.0}).mean == 4.0


def test_that_less_error_is_a_gain(folders):
    multi, single = {"dose": mae_of_folder(*folders).mean}, {"dose": 2.0}
    assert multitask_gain(multi, single, lower_is_better=["dose"]).delta == pytest.approx(0.5)


def test_that_what_is_missing_or_damaged_is_named(folders, tmp_path):
    predicted, reference, inside = folders
    with pytest.raises(RegressionEvaluationError, match="holds no value map"):
        mae_of_folder(predicted, tmp_path)
    (predicted / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(RegressionEvaluationError, match=r"a\.nii\.gz: cannot be read"):
        mae_of_folder(predicted, reference, inside)
    (predicted / "b.nii.gz").unlink()
    with pytest.raises(RegressionEvaluationError, match=r"\"b\.nii\.gz\" not there; predict"):
        mae_of_folder(predicted, reference, inside)


@pytest.mark.parametrize("place", [0, 2])
def test_that_maps_on_another_grid_are_refused(folders, place):
    write(folders[place], "a", np.zeros((1, 1, 3), np.float32 if place == 0 else np.uint8), (1.0, 1.0, 2.0))
    with pytest.raises(RegressionEvaluationError, match="not on the grid"):
        mae_of_folder(*folders)
    write(folders[place], "a", np.zeros((1, 1, 4), np.float32 if place == 0 else np.uint8))
    with pytest.raises(RegressionEvaluationError, match="not on the grid"):
        mae_of_folder(*folders)


def test_that_a_truncated_map_is_refused(folders):
    path = folders[0] / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(RegressionEvaluationError, match=r"predicted/a\.nii\.gz: cannot be read \(the compressed file"):
        mae_of_folder(*folders)
