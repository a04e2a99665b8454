import math

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_mtl.datasets.label_pairs import CasesError
from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.runs.case_metrics import CaseMetrics
from nnunet_mtl.evaluation.runs.run_dice import run_dice
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.tasks import TaskSet

DESCRIPTION = {
    "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2], "spleen": [3], "ignore": 4},
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
            "spleen": {"regions": ["spleen"], "slots": ["organ"]},
        },
        "cases": {"a": {"annotated": ["spleen"]}, "b": {"annotated": ["liver"]}, "c": {"annotated": ["liver"]}},
    },
}
TASKSET = TaskSet.from_dataset_json(DESCRIPTION)
TWO_REGIONS = {"labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".nii.gz"}


def write(folder, case, leaves, *, spacing_mm=(1.0, 1.0, 3.0), origin_mm=(0.0, 0.0, -777.5)):
    folder.mkdir(exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.array(leaves, np.uint8).reshape(1, 1, -1))
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin_mm)
    SimpleITK.WriteImage(image, str(folder / f"{case}.nii.gz"))


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "predictions", tmp_path / "references"


def run_of(cases):
    """A run with these Dice by case and region."""
    rows = [
        CaseMetrics(case, "task", region, {"dice": value}, Overlap(0, 0, 0))
        for case, regions in cases.items()
        for region, value in regions.items()
    ]
    return RunMetrics(tuple(rows), TaskSet.from_dataset_json(TWO_REGIONS))


def dice_of(run, case):
    return {row.region: row.metrics["dice"] for row in run.rows if row.case == case}


def score(folders, **options):
    return run_dice(*folders, TASKSET, DESCRIPTION, **{"fully_labelled": True, **options})


def test_dice_by_hand_with_nested_regions(folders):
    predictions, references = folders
    # liver is 1 or 2: 3 predicted, 4 in truth, 3 common -> 6/7; tumour: 1, 2, 1 -> 2/3; spleen: 2, 1, 1 -> 2/3
    write(references, "a", [1, 1, 2, 2, 0, 3, 0])
    write(predictions, "a", [1, 1, 0, 2, 3, 3, 0])
    scores = score(folders)
    assert dice_of(scores, "a") == pytest.approx({"liver": 6 / 7, "liver_tumour": 2 / 3, "spleen": 2 / 3})
    assert scores.mean_over_regions(["liver", "spleen"]) == pytest.approx((6 / 7 + 2 / 3) / 2)
    assert scores.tasks == {"liver": ("liver", "liver_tumour"), "spleen": ("spleen",)}
    assert scores.slots == {"organ": ("liver", "spleen"), "tumour": ("liver_tumour",)}


def test_empty_in_both_is_nan_and_in_one_is_zero(folders):
    predictions, references = folders
    write(references, "a", [1, 0, 0])
    write(predictions, "a", [1, 3, 0])
    write(references, "b", [1, 3, 0])
    write(predictions, "b", [1, 0, 0])
    write(references, "c", [1, 0, 0])
    write(predictions, "c", [1, 0, 0])
    scores = score(folders)
    assert [dice_of(scores, case)["spleen"] for case in "ab"] == [0.0, 0.0]
    assert math.isnan(dice_of(scores, "c")["spleen"])
    assert scores.mean_over_regions(["spleen"]) == 0.0
    assert scores.number_of_cases("spleen") == 2
    assert math.isnan(scores.mean_over_regions(["liver_tumour"]))
    assert scores.number_of_cases("liver_tumour") == 0
    # a region without any Dice does not weigh on the mean of the others
    assert scores.mean_over_regions(["liver", "liver_tumour"]) == 1.0


def test_a_mean_over_regions_weighs_a_rare_region_as_a_common_one():
    cases = {"a": {"liver": 1.0, "spleen": 0.0}, "b": {"liver": 1.0}, "c": {"liver": 0.4}}
    scores = run_of(cases)
    assert scores.mean_over_regions(scores.regions) == pytest.approx((0.8 + 0.0) / 2)


def test_only_annotated_regions_count(folders):
    predictions, references = folders
    # "a" is annotated for the spleen alone: its reference says nothing about the predicted liver.
    write(references, "a", [0, 0, 3])
    write(predictions, "a", [1, 2, 3])
    write(references, "b", [1, 2, 0])
    write(predictions, "b", [1, 0, 3])
    scores = score(folders, fully_labelled=False)
    assert dice_of(scores, "a") == {"spleen": 1.0}
    assert set(dice_of(scores, "b")) == {"liver", "liver_tumour"}
    assert scores.mean_over_regions(["spleen"]) == 1.0
    assert scores.number_of_cases("liver") == 1


def test_a_reference_that_nobody_described_is_not_assumed_to_be_annotated(folders):
    for folder in folders:
        write(folder, "stranger", [1, 2, 3])
    with pytest.raises(CasesError, match="stranger"):
        score(folders, fully_labelled=False)


def test_ignored_voxels_count_for_nothing(folders):
    predictions, references = folders
    write(references, "a", [1, 4, 4, 0])
    write(predictions, "a", [1, 1, 3, 0])
    scores = score(folders)
    assert dice_of(scores, "a")["liver"] == 1.0
    assert math.isnan(dice_of(scores, "a")["spleen"])


def test_every_missing_prediction_is_named(folders):
    predictions, references = folders
    for case in "abc":
        write(references, case, [1, 0])
    write(predictions, "b", [1, 0])
    with pytest.raises(CasesError, match=r"(?s)a: no prediction.*c: no prediction"):
        score(folders)


def test_predictions_without_reference_are_not_read(folders):
    for folder in folders:
        write(folder, "a", [1, 0])
    (folders[0] / "b.nii.gz").write_bytes(b"not an image")
    (folders[0] / "plans.json").write_text("{}")
    assert list(score(folders).cases) == ["a"]


def test_every_prediction_on_another_grid_is_named_with_the_difference(folders):
    predictions, references = folders
    for case in ("fine", "longer", "moved", "stretched"):
        write(references, case, [1, 0])
    write(predictions, "fine", [1, 0], origin_mm=(0.0, 0.0, -777.5001))
    write(predictions, "longer", [1, 0, 0])
    write(predictions, "moved", [1, 0], origin_mm=(0.5, 0.0, -777.5))
    write(predictions, "stretched", [1, 0], spacing_mm=(1.0, 1.0, 3.5))
    with pytest.raises(CasesError, match=r"(?s)longer: .*voxels.*moved: .*\(origin.*stretched: .*\(spacing") as refusal:
        score(folders)
    assert "fine" not in str(refusal.value)


def test_a_folder_without_references_is_refused(folders):
    folders[1].mkdir()
    with pytest.raises(CasesError, match=r"expected references named \*\.nii\.gz"):
        score(folders)


def test_without_regions_background_is_no_structure(folders):
    description = TWO_REGIONS
    predictions, references = folders
    write(references, "a", [0, 1, 1, 2])
    write(predictions, "a", [0, 1, 0, 2])
    taskset = TaskSet.from_dataset_json(description)
    scores = run_dice(predictions, references, taskset, description, fully_labelled=False)
    assert dice_of(scores, "a") == pytest.approx({"liver": 2 / 3, "spleen": 1.0})
    assert scores.regions == ("liver", "spleen")


def test_cases_are_ranked_from_worst_to_best():
    cases = {
        "best": {"liver": 0.9, "spleen": math.nan},
        "none": {"liver": math.nan},
        "worst": {"liver": 0.1, "spleen": 0.5},
    }
    scores = run_of(cases)
    assert scores.ranked_cases() == ["worst", "best"]
    assert scores.mean_of_case("worst") == pytest.approx(0.3)
    assert scores.mean_of_case("best") == pytest.approx(0.9)
    assert math.isnan(scores.mean_of_case("none"))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=12))
def test_every_dice_is_that_of_nnunets_own_evaluation(tmp_path_factory, voxels):
    folder = tmp_path_factory.mktemp("pair")
    folders = folder / "predictions", folder / "references"
    write(folders[1], "a", [truth for truth, _ in voxels])
    write(folders[0], "a", [predicted for _, predicted in voxels])
    files = (str(folder / name / "a.nii.gz") for name in ("references", "predictions"))
    stock = compute_metrics(*files, SimpleITKIO(), list(TASKSET.region_labels), ignore_label=4)["metrics"]
    found = dice_of(score(folders), "a")
    for region, leaves in zip(TASKSET.regions, TASKSET.region_labels, strict=True):
        assert found[region] == pytest.approx(stock[leaves]["Dice"], nan_ok=True)
