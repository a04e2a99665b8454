import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.datasets import label_pairs
from nnunet_mtl.datasets.label_pairs import CasesError, find_pairs, refuse, region_masks
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.metrics.region_metrics import MetricOptions
from nnunet_mtl.evaluation.runs.case_metrics import check_cases, measure_cases
from nnunet_mtl.tasks import TaskSet

DESCRIPTION = {
    "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2], "vessel": [3], "ignore": 4},
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
            "vessel": {"regions": ["vessel"], "slots": ["organ"]},
        },
        "cases": {"a": {"annotated": ["liver"]}, "b": {"annotated": ["vessel"]}, "c": {"annotated": []}},
    },
}
TABLE = LabelTable(DESCRIPTION, TaskSet.from_dataset_json(DESCRIPTION))


def write(folder, case, values, *, spacing_mm=(1.0, 1.0, 3.0), dtype=np.uint8, shape=(2, 2, -1), ending=".nii.gz"):
    folder.mkdir(exist_ok=True, parents=True)
    image = SimpleITK.GetImageFromArray(np.array(values, dtype).reshape(shape))
    image.SetSpacing(spacing_mm[: image.GetDimension()])
    SimpleITK.WriteImage(image, str(folder / f"{case}{ending}"))


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "pred", tmp_path / "ref"


def pairs_of(folders, **options):
    pairs, problems = find_pairs(*folders, TABLE, **options)
    refuse(problems)
    return pairs


def masks_of(pair, table=TABLE):
    return {table.taskset.regions[found.region]: found for found in region_masks(pair, table)}


def test_only_what_is_annotated_in_a_case_counts_whatever_the_prediction_holds(folders):
    predictions, references = folders
    for case in "abc":
        write(references, case, [1, 2, 3, 0, 0, 0, 0, 0])
        write(predictions, case, [1, 1, 3, 3, 3, 2, 2, 0])
    found = {pair.case: set(masks_of(pair)) for pair in pairs_of(folders)}
    assert found == {"a": {"liver", "liver_tumour"}, "b": {"vessel"}, "c": set()}
    everything = pairs_of(folders, fully_labelled=True)
    assert all(set(masks_of(pair)) == {"liver", "liver_tumour", "vessel"} for pair in everything)


def test_masks_of_nested_regions_without_ignored_voxels(folders):
    predictions, references = folders
    write(references, "a", [1, 2, 4, 4, 0, 0, 0, 1])
    write(predictions, "a", [1, 1, 2, 2, 0, 2, 0, 0])
    masks = masks_of(*pairs_of(folders))
    liver, tumour = (masks[region] for region in ("liver", "liver_tumour"))
    assert liver.spacing_mm == (3.0, 1.0, 1.0)
    assert liver.reference.ravel().astype(int).tolist() == [1, 1, 0, 0, 0, 0, 0, 1]
    assert liver.prediction.ravel().astype(int).tolist() == [1, 1, 0, 0, 0, 1, 0, 0]
    assert tumour.prediction.ravel().astype(int).tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_a_map_of_a_task_of_its_own_is_used_instead_of_the_one_of_all_tasks(folders):
    predictions, references = folders
    write(references, "a", [1, 1, 1, 2, 0, 0, 0, 0])
    # the vessel painted over the liver in the map of all tasks
    write(predictions, "a", [1, 3, 3, 2, 0, 0, 0, 0])
    assert masks_of(*pairs_of(folders))["liver"].prediction.sum() == 2
    write(predictions / "liver", "a", [1, 1, 1, 2, 0, 0, 0, 0])
    (pair,) = pairs_of(folders)
    masks = masks_of(pair)
    assert masks["liver"].prediction.sum() == 4
    assert masks["liver_tumour"].prediction.sum() == 1
    assert check_cases([pair], TABLE, 1) == ([], [])


def test_the_map_of_all_tasks_is_read_once_however_many_tasks_need_it(folders, monkeypatch):
    (pair, _) = two_pairs(folders)
    reads = []
    reader = type(label_pairs.determine_reader_writer_from_dataset_json(DESCRIPTION, verbose=False)())
    read_seg = reader.read_seg
    monkeypatch.setattr(reader, "read_seg", lambda self, path: reads.append(path) or read_seg(self, path))
    assert len(masks_of(pair)) == 3
    assert sorted(reads) == sorted([str(pair.reference), str(pair.prediction.path)])


def test_the_table_beside_the_references_says_what_is_annotated(folders):
    predictions, references = folders
    write(references, "new", [0] * 8)
    write(predictions, "new", [0] * 8)
    with pytest.raises(CasesError, match=r"new: not in dataset\.json.*--fully_labelled"):
        pairs_of(folders)
    beside = {**DESCRIPTION, "nnunet_mtl": {**DESCRIPTION["nnunet_mtl"], "cases": {"new": {"annotated": ["vessel"]}}}}
    references.with_name(f"{references.name}.json").write_text(json.dumps(beside))
    assert pairs_of(folders)[0].annotated == (False, False, True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.9999999, "1.9999999"), (0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf"), (2.0000002, "2.0000002")],
)
def test_values_that_are_no_labels_are_shown_as_they_are(value, shown):
    (problem,) = label_pairs._value_problems(Path("a.nrrd"), np.array([[0, value]], np.float32), {0, 1, 2})
    assert problem == f"a.nrrd is a float image and no label map: it holds {shown}; give the exported labels"


def test_everything_that_is_wrong_is_named_per_case_and_at_once(folders):
    predictions, references = folders
    for case in "abc":
        write(references, case, [0] * 8)
    description = {**DESCRIPTION["nnunet_mtl"], "cases": {name: {"annotated": []} for name in "abcdefg"}}
    table = LabelTable(DESCRIPTION, TaskSet.from_dataset_json({**DESCRIPTION, "nnunet_mtl": description}))
    for case in "defg":
        write(references, case, [0] * 8 if case != "g" else [9] + [0] * 7)
    write(predictions, "b", [0] * 8, spacing_mm=(1, 1, 2))
    write(predictions, "c", [0] * 12)
    write(predictions, "d", [7] + [0] * 7)
    write(predictions, "e", [0.5] + [0] * 7, dtype=np.float32)
    write(predictions, "g", [0] * 8)
    (predictions / "f.nii.gz").write_bytes(b"no image")
    pairs, missing = find_pairs(*folders, table)
    problems, _ = check_cases(pairs, table, 1)
    with pytest.raises(CasesError) as error:
        refuse([*missing, *problems])
    lines = str(error.value).splitlines()
    assert lines[0] == "7 problem(s), nothing was scored:"
    for line, expected in zip(
        lines[1:],
        (
            "a: no prediction",
            "b: .*not on the grid of the reference .spacing .2, 1, 1. against .3, 1, 1.",
            "c: .*not on the grid of the reference ..2, 2, 3. voxels against .2, 2, 2.",
            "d: .*holds 7, not among the labels",
            "e: .*float image and no label map: it holds 0.5",
            "f: .*cannot be read",
            "g: .*ref.*holds 9, not among the labels",
        ),
        strict=True,
    ):
        assert re.search(expected, line), (expected, line)


OFF = {
    "origin": ((0, 0, 5), None),
    "direction": ((0, 0, 0), (np.cos(0.17), -np.sin(0.17), 0, np.sin(0.17), np.cos(0.17), 0, 0, 0, 1)),
    "flip": ((0, 0, 0), (-1, 0, 0, 0, 1, 0, 0, 0, 1)),
}


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_a_map_at_another_place_is_refused_whatever_the_reader(folders, reader, off):
    for folder in folders:
        write(folder, "a", [0] * 32, shape=(2, 4, 4))
    path = folders[0] / "a.nii.gz"
    image = SimpleITK.ReadImage(str(path))
    origin, direction = OFF[off]
    image.SetOrigin(origin)
    image.SetDirection(direction or image.GetDirection())
    SimpleITK.WriteImage(image, str(path))
    table = LabelTable({**DESCRIPTION, "overwrite_image_reader_writer": reader}, TABLE.taskset)
    (problem,), _ = check_cases(pairs_of(folders), table, 1)
    assert re.search("pred/a.nii.gz is not on the grid of the reference .(origin|direction) .* voxels apart", problem)


def test_the_ignore_label_is_one_of_references_and_not_of_predictions(folders):
    predictions, references = folders
    write(references, "a", [4] * 8)
    write(predictions, "a", [4] * 8)
    problems, _ = check_cases(pairs_of(folders), TABLE, 1)
    assert len(problems) == 1
    assert "pred" in problems[0]


def test_labels_stored_as_floats_are_warned_of(folders):
    predictions, references = folders
    write(references, "a", [1] * 8)
    write(predictions, "a", [1] * 8, dtype=np.float32)
    problems, warnings = check_cases(pairs_of(folders), TABLE, 1)
    assert problems == []
    assert len(warnings) == 1
    assert warnings[0].startswith("a: ")
    assert "float image" in warnings[0]


def test_no_reference_at_all_is_an_error(folders):
    folders[1].mkdir()
    with pytest.raises(CasesError, match=r"named \*\.nii\.gz"):
        find_pairs(*folders, TABLE)


def two_pairs(folders):
    predictions, references = folders
    for case in "ab":
        write(references, case, [1, 2, 3, 0, 0, 0, 0, 0])
        write(predictions, case, [1, 1, 3, 3, 0, 0, 0, 0])
    return pairs_of(folders, fully_labelled=True)


def test_scores_come_in_the_order_of_cases_and_tasks_in_one_process_or_two(folders):
    pairs = two_pairs(folders)
    scores = measure_cases(pairs, TABLE, MetricOptions(), 1)
    assert [(one.case, one.task, one.region) for one in scores] == [
        (case, *rest) for case in "ab" for rest in (("liver", "liver"), ("liver", "liver_tumour"), ("vessel", "vessel"))
    ]
    assert [one.metrics["dice"] for one in scores[:3]] == pytest.approx([1.0, 0.0, 2 / 3])
    assert (scores[2].overlap.common, scores[2].overlap.prediction, scores[2].overlap.reference) == (1, 2, 1)


@pytest.mark.slow
def test_two_processes_find_what_one_does(folders):
    pairs = two_pairs(folders)
    assert repr(measure_cases(pairs, TABLE, MetricOptions(), 2)) == repr(
        measure_cases(pairs, TABLE, MetricOptions(), 1)
    )
    assert check_cases(pairs, TABLE, 2) == ([], [])


def test_a_data_set_without_regions_is_scored_label_by_label(folders):
    predictions, references = folders
    description = {"labels": {"background": 0, "liver": 1, "tumour": 2}, "file_ending": ".nii.gz"}
    table = LabelTable(description, TaskSet.from_dataset_json(description))
    write(references, "a", [1, 1, 2, 0, 0, 0, 0, 0])
    write(predictions, "a", [1, 2, 2, 0, 0, 0, 0, 0])
    ((pair,), problems) = find_pairs(*folders, table)
    assert problems == []
    assert {name: int(found.prediction.sum()) for name, found in masks_of(pair, table).items()} == {
        "liver": 1,
        "tumour": 2,
    }
