import copy
import json
import pickle

import pytest

from nnunet_mtl.tasks import Case, TaskSet, TaskSetError, read_dataset_json, without_cases, write_dataset_json


@pytest.fixture
def abdomen():
    """Three tasks, a vessel tree inside the liver, an ignore label, one question about the image."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {
            "background": 0,
            "liver": [1, 2, 3],
            "liver_tumour": [2],
            "kidney": [4, 5],
            "kidney_tumour": 5,
            "vessel": [3, 3],
            "ignore": 6,
        },
        "regions_class_order": [1, 2, 4, 5, 3],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "vessel": {"regions": ["vessel"], "slots": ["tree"], "overlaps": ["liver"]},
                "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
                "kidney": {"regions": ["kidney_tumour", "kidney"], "slots": ["tumour", "organ"], "parent": "liver"},
            },
            "classification": {
                "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"},
                "signs": {"kind": "multilabel", "classes": ["cyst", "stone"]},
            },
            "cases": {
                "liver_000": {"annotated": ["liver"], "classes": {"malignancy": "benign"}, "patient": "P17"},
                "both": {"annotated": ["kidney_tumour", "vessel"], "classes": {"signs": ["stone"]}, "source": "kits"},
                "ct_17": {"annotated": [], "classes": {"malignancy": "malignant", "signs": []}},
                "organ_only": {"annotated": ["liver/liver"]},
            },
        },
        "numTraining": 4,
    }


@pytest.fixture
def stock():
    """A data set without regions and without the block, its labels not in the order of their values."""
    return {"labels": {"b": 2, "background": 0, "z": [1], "ignore": 3}}


def test_that_regions_are_the_labels_in_json_order(abdomen):
    task_set = TaskSet.from_dataset_json(abdomen)
    assert task_set.regions == ("liver", "liver_tumour", "kidney", "kidney_tumour", "vessel")
    assert task_set.region_labels == ((1, 2, 3), (2,), (4, 5), (5,), (3,))
    assert task_set.regions_class_order == (1, 2, 4, 5, 3)
    assert task_set.ignore_label == 6
    assert task_set.has_regions
    assert task_set.has_block
    assert task_set.has_cases


def test_that_tasks_are_numbered_as_written_and_slots_as_first_named(abdomen):
    task_set = TaskSet.from_dataset_json(abdomen)
    assert [task.name for task in task_set.tasks] == ["vessel", "liver", "kidney"]
    assert task_set.task_of_region == (1, 1, 2, 2, 0)
    assert task_set.slot_names == ("tree", "organ", "tumour")
    assert task_set.slot_of_region == (1, 2, 1, 2, 0)
    assert (task_set.tasks[0].overlaps, task_set.tasks[2].parent) == (("liver",), "liver")
    assert {task.type for task in task_set.tasks} == {"segmentation"}


def test_that_slots_default_to_positions_shared_by_all_tasks(abdomen):
    for task in abdomen["nnunet_mtl"]["tasks"].values():
        del task["slots"]
    task_set = TaskSet.from_dataset_json(abdomen)
    assert task_set.slot_names == ("slot_0", "slot_1")
    assert task_set.slot_of_region == (0, 1, 1, 0, 0)


def test_that_a_task_name_annotates_its_regions_and_a_region_name_only_itself(abdomen):
    task_set = TaskSet.from_dataset_json(abdomen)
    assert task_set.annotated("liver_000") == (True, True, False, False, False)
    assert task_set.annotated("both") == (False, False, False, True, True)
    assert task_set.annotated("ct_17") == (False,) * 5
    assert task_set.annotated("organ_only") == (True, False, False, False, False)
    assert task_set.annotated_tasks("both") == (0, 2)
    assert task_set.annotated_tasks("ct_17") == ()


def test_that_a_class_that_is_not_there_is_missing(abdomen):
    cases = TaskSet.from_dataset_json(abdomen).cases
    assert cases["liver_000"] == Case(("liver",), {"malignancy": "benign"}, "P17", None)
    assert cases["both"] == Case(("kidney_tumour", "vessel"), {"signs": ("stone",)}, None, "kits")
    assert cases["ct_17"].classes == {"malignancy": "malignant", "signs": ()}


def test_that_classification_keeps_kind_classes_and_evidence(abdomen):
    malignancy, signs = TaskSet.from_dataset_json(abdomen).classification
    assert (malignancy.name, malignancy.kind, malignancy.classes) == ("malignancy", "nominal", ("benign", "malignant"))
    assert malignancy.evidence == "liver_tumour"
    assert (signs.kind, signs.evidence) == ("multilabel", None)


def test_that_an_unknown_case_is_refused_and_never_assumed(abdomen):
    task_set = TaskSet.from_dataset_json(abdomen, "raw/dataset.json")
    for ask in (task_set.annotated, task_set.annotated_tasks, lambda case: task_set.check_leaves(case, [0])):
        with pytest.raises(
            TaskSetError, match=r"^raw/dataset\.json: nnunet_mtl\.cases: 1 case.* missing: spleen_1; add"
        ):
            ask("spleen_1")
    task_set.require_cases(["both", "ct_17"])
    with pytest.raises(TaskSetError, match=r"2 case\(s\) missing: x, y; add each"):
        task_set.require_cases(["both", "x", "y"])


def test_that_leaves_must_lie_in_a_region_of_an_annotated_task(abdomen):
    task_set = TaskSet.from_dataset_json(abdomen)
    task_set.check_leaves("liver_000", [0, 1, 2, 3, 6])
    task_set.check_leaves("organ_only", [2])
    task_set.check_leaves("both", [0, 3, 4])
    for case, leaves, strange in (("liver_000", [0, 1, 4, 7], "4, 7"), ("ct_17", [1], "1"), ("both", [2.5], "2.5")):
        with pytest.raises(
            TaskSetError, match=rf"nnunet_mtl\.cases\.{case}: the label file of '{case}' holds {strange},"
        ):
            task_set.check_leaves(case, leaves)


def test_that_a_softmax_data_set_is_one_task_of_every_class(stock):
    task_set = TaskSet.from_dataset_json(stock)
    assert task_set.regions == ("background", "z", "b")
    assert task_set.region_labels == ((0,), (1,), (2,))
    assert (task_set.has_regions, task_set.has_block, task_set.has_cases) == (False, False, False)
    assert [(task.name, task.regions) for task in task_set.tasks] == [("all", ("background", "z", "b"))]
    assert task_set.annotated("whatever") == (True, True, True)
    assert task_set.annotated_tasks("whatever") == (0,)
    task_set.require_cases(["whatever"])
    task_set.check_leaves("whatever", [0, 1, 2, 3])
    with pytest.raises(TaskSetError, match=r"^dataset\.json: labels: the label file of 'whatever' holds 4"):
        task_set.check_leaves("whatever", [4])


def test_that_regions_without_the_block_are_one_task(abdomen):
    del abdomen["nnunet_mtl"]
    task_set = TaskSet.from_dataset_json(abdomen)
    assert task_set.has_regions
    assert not task_set.has_block
    assert task_set.regions == ("liver", "liver_tumour", "kidney", "kidney_tumour", "vessel")
    assert task_set.task_of_region == (0,) * 5
    assert task_set.annotated("whatever") == (True,) * 5


def test_that_the_number_of_regions_is_nnunets_number_of_heads(abdomen, stock):
    label_handling = pytest.importorskip("nnunetv2.utilities.label_handling.label_handling")
    for dataset in (abdomen, stock):
        manager = label_handling.LabelManager(dataset["labels"], dataset.get("regions_class_order"))
        task_set = TaskSet.from_dataset_json(
            {key: dataset[key] for key in dataset if key != "numTraining"}, source="dataset.json"
        )
        assert len(task_set.regions) == manager.num_segmentation_heads
        assert task_set.ignore_label == manager.ignore_label
        assert task_set.has_regions == manager.has_regions


def test_that_the_block_written_is_the_block_read(abdomen):
    task_set = TaskSet.from_dataset_json(abdomen)
    abdomen["nnunet_mtl"] = json.loads(json.dumps(task_set.to_block()))
    assert TaskSet.from_dataset_json(abdomen) == task_set
    assert TaskSet.from_dataset_json(abdomen, "elsewhere.json") == task_set
    assert pickle.loads(pickle.dumps(task_set)) == task_set


def test_that_an_empty_case_list_is_not_a_missing_one(abdomen):
    abdomen["nnunet_mtl"]["cases"] = {}
    task_set = TaskSet.from_dataset_json(abdomen)
    assert task_set.has_cases
    assert task_set.to_block()["cases"] == {}
    with pytest.raises(TaskSetError, match="1 case"):
        task_set.annotated("liver_000")


def test_that_the_fingerprint_tells_no_cases_from_cases_left_out(abdomen):
    abdomen["nnunet_mtl"]["cases"] = {}
    left_out = TaskSet.from_dataset_json(without_cases(abdomen))
    assert TaskSet.from_dataset_json(abdomen).fingerprint() != left_out.fingerprint()


def test_that_compact_holds_defaults_but_no_case(abdomen):
    del abdomen["nnunet_mtl"]["tasks"]["vessel"]["slots"]
    compact = TaskSet.from_dataset_json(abdomen).compact()
    assert list(compact) == ["version", "tasks", "classification"]
    assert compact["tasks"]["vessel"] == {
        "regions": ["vessel"],
        "slots": ["slot_0"],
        "overlaps": ["liver"],
        "type": "segmentation",
    }
    assert "liver_000" not in json.dumps(compact)
    assert "P17" not in json.dumps(compact)


def test_that_a_copy_without_cases_keeps_everything_else(abdomen):
    before = copy.deepcopy(abdomen)
    cut = without_cases(abdomen)
    assert abdomen == before
    assert list(cut) == list(abdomen)
    assert cut["nnunet_mtl"] == {key: abdomen["nnunet_mtl"][key] for key in ("version", "tasks", "classification")}
    full, small = TaskSet.from_dataset_json(abdomen), TaskSet.from_dataset_json(cut)
    assert not small.has_cases
    assert (small.compact(), small.tasks) == (full.compact(), full.tasks)
    assert small.to_block() == small.compact()
    with pytest.raises(TaskSetError, match=r"is missing, so nothing is known of liver_000; use the dataset\.json of"):
        small.annotated("liver_000")


@pytest.mark.parametrize("block", [None, 3, "cases", ["cases"]])
def test_that_a_copy_without_cases_can_be_taken_of_anything(stock, block):
    assert without_cases(stock) == stock
    assert without_cases({**stock, "nnunet_mtl": block}) == {**stock, "nnunet_mtl": block}


def test_that_the_fingerprint_ignores_the_order_of_cases(abdomen):
    first = TaskSet.from_dataset_json(abdomen)
    block = abdomen["nnunet_mtl"]
    block["cases"] = {
        name: {key: case[key] for key in reversed(case)} for name, case in reversed(list(block["cases"].items()))
    }
    block["cases"]["both"]["annotated"].reverse()
    second = TaskSet.from_dataset_json({key: abdomen[key] for key in reversed(abdomen)}, "elsewhere.json")
    assert second.fingerprint() == first.fingerprint()
    assert len(first.fingerprint()) == 64


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(
            labels={"kidney": d["labels"].pop("kidney"), **d["labels"]}, regions_class_order=[4, 1, 2, 5, 3]
        ),
        lambda d: d["regions_class_order"].__setitem__(0, 1) or d["labels"].__setitem__("liver_tumour", [2, 3]),
        lambda d: d["labels"].pop("ignore"),
        lambda d: d["nnunet_mtl"].update(tasks=dict(reversed(d["nnunet_mtl"]["tasks"].items()))),
        lambda d: d["nnunet_mtl"]["tasks"]["liver"].update(parent="vessel"),
        lambda d: d["nnunet_mtl"]["classification"]["malignancy"]["classes"].reverse(),
        lambda d: d["nnunet_mtl"]["classification"]["malignancy"].pop("evidence"),
        lambda d: d["nnunet_mtl"]["cases"].pop("ct_17"),
        lambda d: d["nnunet_mtl"]["cases"]["ct_17"]["annotated"].append("liver"),
        lambda d: d["nnunet_mtl"]["cases"]["ct_17"]["classes"].pop("signs"),
        lambda d: d["nnunet_mtl"]["cases"]["liver_000"].update(patient="P18"),
        lambda d: d["nnunet_mtl"]["cases"]["both"].pop("source"),
        lambda d: d["nnunet_mtl"].update(cases={}),
        lambda d: d["nnunet_mtl"].pop("cases"),
    ],
)
def test_that_the_fingerprint_changes_with_what_is_said(abdomen, change):
    before = TaskSet.from_dataset_json(copy.deepcopy(abdomen)).fingerprint()
    change(abdomen)
    assert TaskSet.from_dataset_json(abdomen).fingerprint() != before


def test_that_a_file_is_written_in_key_order_and_read_back(abdomen, tmp_path):
    path = tmp_path / "dataset.json"
    write_dataset_json(path, abdomen)
    content = read_dataset_json(path)
    assert content == abdomen
    assert list(content["labels"]) == list(abdomen["labels"])
    assert path.read_text().startswith('{\n    "channel_names": {')


def test_that_a_file_that_cannot_be_written_is_one_error(abdomen, tmp_path):
    with pytest.raises(
        TaskSetError, match=r"nowhere.dataset\.json: cannot be written \(No such file or directory\); check"
    ):
        write_dataset_json(tmp_path / "nowhere" / "dataset.json", abdomen)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ('{"labels": {"x": 0, "a": 1, "b": 2, "a": 1}}', "labels.a: this key is in its object twice; remove one"),
        (
            '{"nnunet_mtl": {"cases": {"c 1": {}, "c 1": {}}}}',
            'nnunet_mtl.cases["c 1"]: this key is in its object twice',
        ),
        ('{"labels": 1, "labels": 2}', ": labels: this key is in its object twice"),
        ('{"a": [{}, [{"k": 1, "k": 1}]]}', "a[1][0].k: this key is in its object twice"),
        ("[1, 2]", "must hold a JSON object, holds a list of 2"),
        ("NaN", "must hold a JSON object, holds nan"),
        ('{"labels": ', "is not valid JSON (Expecting value"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON ("),
        ("[" * 200_000, "is nested too deeply to be read; correct it"),
        ("\ufeff{}", "is not valid JSON ("),
    ],
)
def test_that_a_file_that_is_no_plain_json_object_is_refused(tmp_path, text, fragment):
    path = tmp_path / "dataset.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TaskSetError) as refusal:
        read_dataset_json(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert fragment in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_that_a_file_that_is_missing_a_folder_or_binary_is_refused(tmp_path):
    with pytest.raises(TaskSetError, match=r"cannot be read \(No such file or directory\); check the path"):
        read_dataset_json(tmp_path / "dataset.json")
    with pytest.raises(TaskSetError, match=r"cannot be read \(Is a directory\)"):
        read_dataset_json(tmp_path)
    (tmp_path / "dataset.json").write_bytes(b"\x80\xff")
    with pytest.raises(TaskSetError, match="is not valid JSON"):
        read_dataset_json(tmp_path / "dataset.json")
