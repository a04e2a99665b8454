"""`nnunet_mtl extract --with_block`: what is left of the block, of the label maps and of the channels."""

import json

import numpy as np
import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.extract import extract
from nnunet_mtl.tasks import TaskSet

ORACLE = np.arange(16).reshape(2, 2, 4) % 5
QUESTIONS = {
    "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"},
    "signs": {"kind": "multilabel", "classes": ["fat", "blood"]},
}


@pytest.fixture
def asked(union):
    """The union with questions, a parent, an overlap, and cases of which only a label is known."""
    block = union.description["nnunet_mtl"]
    block["tasks"]["vessel"] |= {"parent": "liver", "overlaps": ["kidney"]}
    block["classification"] = QUESTIONS
    block["cases"]["liver_0"] |= {"classes": {"malignancy": "benign"}, "patient": "P1", "source": "here"}
    block["cases"]["vessel_0"] |= {"classes": {"malignancy": "malignant", "signs": ["fat"]}}
    block["cases"]["kidney_0"] |= {"classes": {"signs": []}}
    union.write_description()
    return union


def made(union, number):
    path = union.made(number) / "dataset.json"
    return TaskSet.from_dataset_json(json.loads(path.read_text()), str(path))


def fingerprint(union):
    folder = union.root / "pre" / union.folder.name
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text('{"spacings": [[3, 1, 1]]}')


def test_a_task_alone_keeps_its_regions_its_cases_and_no_question(asked):
    text = extract(asked.folder, ["liver"], 901, with_block=True)
    tasks = made(asked, 901)
    assert tasks.regions == ("liver", "liver_tumour")
    assert tasks.region_labels == ((1, 2, 3), (3,))
    assert (tasks.regions_class_order, tasks.ignore_label) == ((1, 3), 4)
    assert [task.name for task in tasks.tasks] == ["liver"]
    assert tasks.classification == ()
    # what is annotated in part teaches its part
    assert sorted(tasks.cases) == ["liver_0", "liver_1", "organ_0", "whole_0"]
    assert tasks.annotated("organ_0") == (True, False)
    assert tasks.cases["whole_0"].annotated == ("liver",)
    assert (tasks.cases["liver_0"].patient, tasks.cases["liver_0"].source) == ("P1", "here")
    assert dict(tasks.cases["liver_0"].classes) == {}
    assert "liver: 4 of 6 training cases are annotated for it; left out: 2 of which nothing" in text.splitlines()[0]


def test_the_block_that_is_written_reads_back_as_it_was(asked):
    extract(asked.folder, ["vessel", "liver"], 901, questions=["malignancy"], with_block=True)
    tasks, before = made(asked, 901), TaskSet.from_dataset_json(asked.description)
    assert tasks.to_block() == json.loads((asked.made(901) / "dataset.json").read_text())["nnunet_mtl"]
    # in the order of the data set, which numbers tasks and channels
    assert [task.name for task in tasks.tasks] == ["liver", "vessel"]
    assert tasks.regions == ("liver", "vessel", "liver_tumour")
    assert tasks.tasks[0] == before.tasks[0]
    assert (tasks.tasks[1].parent, tasks.tasks[1].overlaps) == ("liver", ())
    assert tasks.classification == before.classification[:1]
    for case in tasks.cases:
        for region in tasks.regions:
            known = tasks.annotated(case)[tasks.regions.index(region)]
            assert known == before.annotated(case)[before.regions.index(region)]


def test_single_values_are_written_as_the_regions_our_trainers_need(asked):
    extract(asked.folder, ["kidney"], 902, with_block=True)
    labels = json.loads((asked.made(902) / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "kidney": [1, 1], "ignore": 2}
    assert made(asked, 902).has_regions
    np.testing.assert_array_equal(asked.label(902, "whole_0"), np.where(ORACLE == 4, 1, 0))


def test_what_points_outside_is_dropped_with_a_word(asked):
    text = extract(asked.folder, ["vessel"], 901, questions=["malignancy"], with_block=True)
    tasks = made(asked, 901)
    assert (tasks.tasks[0].parent, tasks.tasks[0].overlaps) == (None, ())
    assert tasks.classification[0].evidence is None
    lines = text.splitlines()[1:4]
    assert [line.split(":")[0] for line in lines] == ["vessel", "vessel", "malignancy"]
    assert "its parent liver is not kept" in lines[0]
    assert "kidney, which it overlaps, not kept" in lines[1]
    assert "its evidence liver_tumour is not kept" in lines[2]
    assert "not kept" not in extract(asked.folder, ["liver"], 902, questions=["malignancy"], with_block=True)


def test_a_case_that_is_kept_for_its_answer_holds_no_label_of_what_is_not_annotated(asked):
    # the vessel's value is in the liver's region too, and the liver is not annotated in vessel_0
    extract(asked.folder, ["liver"], 901, questions=["malignancy"], with_block=True)
    tasks = made(asked, 901)
    assert tasks.annotated("vessel_0") == (False, False)
    assert dict(tasks.cases["vessel_0"].classes) == {"malignancy": "malignant"}
    assert not asked.label(901, "vessel_0").any()
    assert (asked.label(901, "whole_0")[ORACLE == 2] == 2).all()
    for case in tasks.cases:
        tasks.check_leaves(case, np.unique(asked.label(901, case)).tolist())


def test_a_question_alone_has_empty_maps_and_the_sources_fingerprint(asked):
    fingerprint(asked)
    text = extract(asked.folder, [], 905, questions=["signs"], with_block=True)
    tasks = made(asked, 905)
    assert asked.made(905).name == "Dataset905_Union_signs"
    assert [task.name for task in tasks.tasks] == ["nothing"]
    assert sorted(tasks.cases) == ["kidney_0", "vessel_0"]  # answered with none of the labels is answered
    for case in tasks.cases:
        assert tasks.annotated(case) == (False,)
        assert not asked.label(905, case).any()
    planned = asked.root / "pre" / "Dataset905_Union_signs" / "dataset_fingerprint.json"
    assert json.loads(planned.read_text()) == {"spacings": [[3, 1, 1]]}
    assert "train with the joint trainer it is compared with, or nnUNetTrainerSTLCls" in text
    assert "planned as Dataset900_Union" in text


def test_without_the_sources_fingerprint_a_question_alone_is_refused(asked):
    with pytest.raises(UserError, match=r"no foreground to plan by.*nnUNetv2_extract_fingerprint -d 900"):
        extract(asked.folder, [], 905, questions=["signs"], with_block=True)
    assert asked.raw_names() == ["Dataset900_Union"]
    asked.root.joinpath("pre").rmdir()
    extract(asked.folder, ["liver"], 901, with_block=True)  # has foreground of its own


def test_a_stock_extract_is_planned_by_itself(asked):
    fingerprint(asked)
    extract(asked.folder, ["liver"], 901)
    assert [path.name for path in (asked.root / "pre").iterdir()] == ["Dataset900_Union"]


def test_several_tasks_make_a_stock_data_set_of_what_has_them_all(asked):
    extract(asked.folder, ["kidney", "liver"], 901)
    labels = json.loads((asked.made(901) / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "liver": [1, 2, 3], "liver_tumour": [3], "kidney": [4], "ignore": 5}
    assert [path.name for path in (asked.made(901) / "labelsTr").iterdir()] == ["whole_0.nii.gz"]


def test_what_is_painted_for_a_region_is_no_inner_regions_value(asked):
    # Both values of `outer` are an inner region's, so either may be painted; with `half` gone one is its own.
    description = asked.description
    description["labels"] = {"background": 0, "outer": [1, 2], "half": [1], "inner": [2], "rest": [3, 4], "ignore": 5}
    description["regions_class_order"] = [2, 1, 2, 3]
    block = description["nnunet_mtl"]
    block["tasks"] = {"pair": {"regions": ["outer", "inner"]}, "rest": {"regions": ["half", "rest"]}}
    block["cases"] = {"kidney_0": {"annotated": ["rest"]}, "whole_0": {"annotated": ["pair", "rest"]}}
    del block["classification"]
    for path in asked.folder.glob("*Tr/*"):
        if path.name[:8] not in ("kidney_0", "whole_0_", "whole_0."):
            path.unlink()
    asked.write_description()
    extract(asked.folder, ["pair"], 901, with_block=True)
    assert made(asked, 901).regions_class_order == (1, 2)
    extract(asked.folder, ["rest"], 902, with_block=True)
    assert made(asked, 902).regions_class_order == (1, 2)


def test_references_come_with_the_table_of_what_is_known_of_them(asked):
    block = asked.description["nnunet_mtl"]
    for part in ("images", "labels"):
        (asked.folder / f"{part}Ts").mkdir()
        for case in ("whole_0", "kidney_0", "vessel_0"):
            for path in (asked.folder / f"{part}Tr").glob(f"{case}*"):
                path.rename(asked.folder / f"{part}Ts" / path.name)
    tests = {case: block["cases"].pop(case) for case in ("whole_0", "kidney_0", "vessel_0")}
    asked.write_description()
    (asked.folder / "labelsTs.json").write_text(
        json.dumps(asked.description | {"nnunet_mtl": block | {"cases": tests}})
    )
    text = extract(asked.folder, ["liver"], 901, questions=["malignancy"], with_block=True)
    folder = asked.made(901) / "labelsTs"
    assert "and 2 annotated test cases" in text
    assert sorted(path.name for path in folder.iterdir()) == ["vessel_0.nii.gz", "whole_0.nii.gz"]
    table = TaskSet.from_dataset_json(json.loads((asked.made(901) / "labelsTs.json").read_text()))
    assert sorted(table.cases) == ["vessel_0", "whole_0"]
    assert table.cases["vessel_0"].classes == {"malignancy": "malignant"}
    assert table.regions == made(asked, 901).regions
    np.testing.assert_array_equal(asked.label(901, "whole_0", "labelsTs"), np.where(ORACLE == 4, 0, ORACLE))
    assert not asked.label(901, "vessel_0", "labelsTs").any()
    assert sorted({path.name[:7] for path in (asked.made(901) / "imagesTs").iterdir()}) == [
        "kidney_",
        "vessel_",
        "whole_0",
    ]


@pytest.fixture
def dosed(asked):
    """The second channel is a target: a dose inside the liver."""
    asked.description["channel_names"] = {"0": "CT", "1": "noNorm"}
    block = asked.description["nnunet_mtl"]
    block["tasks"]["dose"] = {"type": "regression", "channel": 1, "inside": "liver"}
    for case in ("liver_0", "kidney_0"):
        block["cases"][case]["annotated"].append("dose")
    asked.write_description()
    fingerprint(asked)
    return asked


def channels(union, number, case="liver_0"):
    return sorted(path.name for path in (union.made(number) / "imagesTr").glob(f"{case}*"))


def test_a_target_is_an_image_of_the_task_that_learns_it_alone(dosed):
    extract(dosed.folder, ["liver"], 901, with_block=True)
    assert channels(dosed, 901) == ["liver_0_0000.nii.gz"]
    assert made(dosed, 901).regressions == ()
    assert json.loads((dosed.made(901) / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
    extract(dosed.folder, ["liver"], 902)
    assert channels(dosed, 902) == ["liver_0_0000.nii.gz"]
    assert json.loads((dosed.made(902) / "dataset.json").read_text())["channel_names"] == {"0": "CT"}


def test_a_regression_alone_and_with_the_region_it_counts_in(dosed):
    text = extract(dosed.folder, ["dose"], 901, with_block=True)
    tasks = made(dosed, 901)
    assert channels(dosed, 901) == ["liver_0_0000.nii.gz", "liver_0_0001.nii.gz"]
    assert [(task.name, task.channel, task.inside) for task in tasks.regressions] == [("dose", 1, None)]
    assert sorted(tasks.cases) == ["kidney_0", "liver_0"]
    assert tasks.regressed("liver_0") == (True,)
    assert "counts everywhere: liver, inside which it counts, is not kept" in text
    assert "or nnUNetTrainerSTLCls" not in text  # which learns no regression
    extract(dosed.folder, ["dose", "liver"], 902, with_block=True)
    assert made(dosed, 902).regressions[0].inside == "liver"
    assert made(dosed, 902).regressed("liver_1") == (False,)


def test_targets_are_numbered_behind_the_images(dosed):
    block = dosed.description["nnunet_mtl"]
    for path in list((dosed.folder / "imagesTr").glob("*_0000.nii.gz")):
        path.with_name(path.name.replace("_0000", "_0002")).hardlink_to(path)
    dosed.description["channel_names"] = {"0": "CT", "1": "noNorm", "2": "noNorm"}
    block["tasks"]["late"] = {"type": "regression", "channel": 2}
    block["cases"]["liver_0"]["annotated"].append("late")
    dosed.write_description()
    extract(dosed.folder, ["late"], 901, with_block=True)
    assert made(dosed, 901).regressions[0].channel == 1
    assert channels(dosed, 901) == ["liver_0_0000.nii.gz", "liver_0_0001.nii.gz"]
    kept = dosed.made(901) / "imagesTr" / "liver_0_0001.nii.gz"
    assert kept.samefile(dosed.folder / "imagesTr" / "liver_0_0002.nii.gz")


@pytest.mark.parametrize(
    ("tasks", "options", "match"),
    [
        (["liver"], {"questions": ["malignancy"]}, "malignancy: stock nnU-Net learns segmentations alone; add --with_"),
        ([], {"questions": ["age"], "with_block": True}, "-q 'age': no such question in .*; it has malignancy, signs"),
        ([], {"with_block": True}, r"name at least one task with -t .there are liver, vessel, kidney., or a question"),
    ],
)
def test_what_is_asked_wrongly_is_refused_in_one_line(asked, tasks, options, match):
    with pytest.raises(UserError, match=match) as error:
        extract(asked.folder, tasks, 901, **options)
    assert len(str(error.value).splitlines()) == 1
    assert asked.raw_names() == ["Dataset900_Union"]


def test_a_broken_fingerprint_is_not_handed_on(asked):
    fingerprint(asked)
    (asked.root / "pre" / "Dataset900_Union" / "dataset_fingerprint.json").write_text("")
    with pytest.raises(UserError, match=r"dataset_fingerprint\.json: is no fingerprint .*_extract_fingerprint -d 900"):
        extract(asked.folder, ["liver"], 905, with_block=True)
    assert asked.raw_names() == ["Dataset900_Union"]
