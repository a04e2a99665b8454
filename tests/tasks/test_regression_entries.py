"""Regression tasks in the block: what they mean, and one fault each with the place its message must name."""

import copy

import pytest

from nnunet_mtl.tasks import RegressionTask, TaskSet, TaskSetError, without_cases

DOSE = {"type": "regression", "channel": 1, "inside": "body"}
VALID = {
    "channel_names": {"0": "CT", "1": "noNorm"},
    "labels": {"background": 0, "body": [1, 2], "target": [2]},
    "regions_class_order": [1, 2],
    "nnunet_mtl": {
        "version": 1,
        "tasks": {"body": {"regions": ["body"]}, "dose": DOSE, "target": {"regions": ["target"]}},
        "cases": {
            "c1": {"annotated": ["body", "dose"]},
            "c2": {"annotated": ["dose"]},
            "c3": {"annotated": ["target"]},
        },
    },
}


def changed(**keys):
    """Return the valid data set with `dose` changed, or a channel's name, or the whole of `tasks`."""
    dataset = copy.deepcopy(VALID)
    for key, value in keys.items():
        if key in ("channel_names", "labels"):
            dataset[key] = value
        elif key == "tasks":
            dataset["nnunet_mtl"]["tasks"] = value
        elif value is None:
            del dataset["nnunet_mtl"]["tasks"]["dose"][key]
        else:
            dataset["nnunet_mtl"]["tasks"]["dose"][key] = value
    return dataset


def test_that_regression_tasks_stand_beside_the_segmentation_tasks():
    tasks = TaskSet.from_dataset_json(VALID)
    assert [task.name for task in tasks.tasks] == ["body", "target"]
    assert tasks.regressions == (RegressionTask("dose", 1, "body"),)
    assert tasks.task_of_region == (0, 1)


def test_that_a_case_has_the_target_or_not_and_no_region_with_it():
    tasks = TaskSet.from_dataset_json(VALID)
    assert [tasks.regressed(case) for case in ("c1", "c2", "c3")] == [(True,), (True,), (False,)]
    assert tasks.annotated("c1") == (True, False)
    assert tasks.annotated_tasks("c2") == ()


def test_that_nothing_is_regressed_without_regression_tasks():
    assert TaskSet.from_dataset_json({"labels": {"background": 0, "a": 1}}).regressed("whatever") == ()


def test_that_the_block_is_read_as_it_was_written():
    dataset = changed(scale=60)
    tasks = TaskSet.from_dataset_json(dataset)
    assert tasks.regressions[0].scale == 60.0
    assert TaskSet.from_dataset_json(dataset | {"nnunet_mtl": tasks.to_block()}) == tasks


@pytest.mark.parametrize("changes", [{"channel_names": {"0": "CT"}}, {}])
def test_that_a_models_copy_may_have_its_target_channels_cut_off(changes):
    model = without_cases(changed(**changes))
    assert TaskSet.from_dataset_json(model).regressions == (RegressionTask("dose", 1, "body"),)


def test_that_two_targets_are_the_last_two_channels_in_any_order():
    names = {"0": "CT", "1": "nonorm", "2": "noNorm"}
    two = {**VALID["nnunet_mtl"]["tasks"], "dose": {**DOSE, "channel": 2}, "let": {"type": "regression", "channel": 1}}
    tasks = TaskSet.from_dataset_json(changed(tasks=two, channel_names=names))
    assert [(task.name, task.channel, task.inside) for task in tasks.regressions] == [
        ("dose", 2, "body"),
        ("let", 1, None),
    ]


PLACE = "nnunet_mtl.tasks.dose"
ONLY = {"dose": DOSE}
TWICE = {"body": {"regions": ["body", "target"]}, "dose": DOSE, "more": DOSE}
PARENT = {"body": {"regions": ["body", "target"], "parent": "dose"}, "dose": DOSE}
FAULTS = [
    ({"regions": ["body"]}, f'{PLACE}.regions: a task of type "regression" has no such key; remove it'),
    ({"slots": ["a"]}, f'{PLACE}.slots: a task of type "regression" has no such key; remove it'),
    ({"parent": "body"}, f'{PLACE}.parent: a task of type "regression" has no such key; remove it'),
    ({"overlaps": ["body"]}, f'{PLACE}.overlaps: a task of type "regression" has no such key; remove it'),
    ({"unit": "Gy"}, f"{PLACE}.unit: unknown key; remove it or write one of type, channel, inside, scale"),
    ({"channel": None}, f'{PLACE}: "channel" is missing; add it'),
    ({"channel": True}, f"{PLACE}.channel: must be the number of an image channel, is true"),
    ({"channel": "1"}, f"{PLACE}.channel: must be the number of an image channel, is '1'"),
    ({"channel": 2}, f"{PLACE}.channel: there is no channel 2; channel_names has 0, 1"),
    ({"channel": -1}, f"{PLACE}.channel: there is no channel -1; channel_names has 0, 1"),
    ({"channel": 0}, f"{PLACE}.channel: channel 0 is not among the last ones; targets come after all images"),
    ({"channel": 0, "channel_names": {"0": "noNorm"}}, f"{PLACE}.channel: channel 0 is not among the last ones"),
    ({"inside": "lung"}, f"{PLACE}.inside: unknown region 'lung'; write one of body, target"),
    ({"scale": 0}, f"{PLACE}.scale: must be a positive number, is 0"),
    ({"scale": True}, f"{PLACE}.scale: must be a positive number, is true"),
    ({"scale": 10**400}, f"{PLACE}.scale: must be a positive number, is an integer of 1329 bits"),
    ({"scale": float("nan")}, f"{PLACE}.scale: must be a positive number, is nan"),
    ({"channel_names": {"0": "CT", "1": "dose"}}, "channel_names.1: is 'dose', but a target must not be normalised"),
    ({"channel_names": {"0": "CT", "1": 5}}, "channel_names.1: is 5, but a target must not be normalised"),
    (
        {"tasks": ONLY},
        "nnunet_mtl.tasks: holds regression tasks only, and nnU-Net trains labels; add a task with regions",
    ),
    ({"tasks": TWICE}, "nnunet_mtl.tasks.more.channel: channel 1 is that of 'dose' too; give each its own"),
    ({"tasks": PARENT}, "nnunet_mtl.tasks.body.parent: unknown other task 'dose'"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_that_a_fault_is_refused_with_place_and_remedy(changes, message):
    with pytest.raises(TaskSetError) as error:
        TaskSet.from_dataset_json(changed(**changes))
    assert str(error.value).startswith(f"dataset.json: {message}")
    assert "\n" not in str(error.value)


def test_that_channels_must_be_named_where_there_is_a_target():
    dataset = copy.deepcopy(VALID)
    del dataset["channel_names"]
    with pytest.raises(TaskSetError, match='"channel_names" is missing'):
        TaskSet.from_dataset_json(dataset)
    assert TaskSet.from_dataset_json(dataset | {"modality": VALID["channel_names"]}).regressions


def test_that_a_data_set_with_cases_must_have_the_channels():
    with pytest.raises(TaskSetError, match="there is no channel 1"):
        TaskSet.from_dataset_json(changed(channel_names={"0": "CT"}))


def test_that_a_region_must_not_have_a_regression_tasks_name():
    labels = {"background": 0, "body": [1, 2], "dose": [2]}
    tasks = {"body": {"regions": ["body", "dose"]}, "dose": {**DOSE, "inside": "body"}}
    with pytest.raises(TaskSetError, match=r"nnunet_mtl\.tasks\.dose: a region of task 'body' has this name"):
        TaskSet.from_dataset_json(changed(labels=labels, tasks=tasks))


def test_that_a_regression_task_has_no_slash_in_its_name():
    tasks = {"body": {"regions": ["body", "target"]}, "a/b": DOSE}
    with pytest.raises(TaskSetError, match="must not contain a slash"):
        TaskSet.from_dataset_json(changed(tasks=tasks))
