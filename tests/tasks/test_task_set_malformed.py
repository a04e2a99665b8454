"""One fault each, put into a valid `dataset.json`, with the place and the remedy its message must name."""

import copy
import time

import pytest

from nnunet_mtl.tasks import TaskSet, TaskSetError

VALID = {
    "labels": {"background": 0, "liver": [1, 2], "tumour": [2], "kidney": [3, 3]},
    "regions_class_order": [1, 2, 3],
    "nnunet_mtl": {
        "version": 1,
        "tasks": {"liver": {"regions": ["liver", "tumour"]}, "kidney": {"regions": ["kidney"], "slots": ["organ"]}},
        "classification": {
            "grade": {"kind": "ordinal", "classes": ["low", "high"], "evidence": "tumour"},
            "signs": {"kind": "multilabel", "classes": ["cyst", "stone"]},
        },
        "cases": {"c1": {"annotated": ["liver"], "classes": {"grade": "low"}}, "c2": {"annotated": []}},
    },
}
REMOVE = object()
HUGE = 10**5000
DEEP: list = []
for _ in range(3000):
    DEEP = [DEEP]

BLOCK, LABELS, ORDER = "nnunet_mtl", "labels", "regions_class_order"
LIVER, GRADE, C1 = f"{BLOCK}/tasks/liver", f"{BLOCK}/classification/grade", f"{BLOCK}/cases/c1"
FLAT = {"background": 0, "liver": 1, "tumour": [2], "kidney": 3}

# Where the fault is put (keys joined by slashes), the value put there, how the message goes on after "dataset.json: ".
FAULTS = [
    ("", None, "must be an object with nnU-Net's names as keys, is null"),
    ("", [1], "must be an object with nnU-Net's names as keys, is a list of 1"),
    # nnU-Net's labels
    (LABELS, REMOVE, '"labels" is missing; add nnU-Net\'s labels'),
    (LABELS, [], "labels: must be an object with label names as keys, is an empty list"),
    (LABELS, {}, 'labels: "background" is missing; add "background": 0'),
    (LABELS, {"background": 0}, 'labels: names nothing but background; add a label such as "liver": [1, 1]'),
    (
        LABELS,
        FLAT,
        'labels: no label is a list of more than one integer, so nnU-Net would not train regions; write "liver": [1, ',
    ),
    (f"{LABELS}/background", 1, "labels.background: must be 0, is 1; renumber the labels"),
    (f"{LABELS}/background", False, "labels.background: must be the integer 0, is false; write it without quotes"),
    (f"{LABELS}/background", 0.0, "labels.background: must be the integer 0, is 0.0"),
    (f"{LABELS}/background", [0], "labels.background: must be the integer 0, is a list of 1"),
    (f"{LABELS}/liver", [1, True], "labels.liver[1]: must be an integer, is true; write it without quotes"),
    (
        f"{LABELS}/liver",
        [1, 2.0],
        "labels.liver[1]: must be an integer, is 2.0; write it without quotes or decimal point",
    ),
    (f"{LABELS}/liver", [1, "2"], "labels.liver[1]: must be an integer, is '2'"),
    (f"{LABELS}/liver", [1, float("nan")], "labels.liver[1]: must be an integer, is nan"),
    (f"{LABELS}/liver", DEEP, "labels.liver[0]: must be an integer, is a list of 1"),
    (f"{LABELS}/liver", None, "labels.liver: must be an integer or a list of integers, is null"),
    (f"{LABELS}/liver", [], "labels.liver: is an empty list; give the label values of this region"),
    (f"{LABELS}/liver", [0, 1, 2], "labels.liver: contains 0; use values of 1 and above, 0 is the background's alone"),
    (f"{LABELS}/liver", [-1, 1, 2], "labels.liver: contains -1; use values of 1 and above"),
    (f"{LABELS}/liver", [1, 2, 2], "labels.liver: contains a value twice; write each once"),
    (
        f"{LABELS}/kidney",
        [2, 2],
        "labels.kidney: has the same label values as 'tumour', so the two are one structure; give one",
    ),
    (f"{LABELS}/kidney", 4, "labels: the value 3 is in no label, but 4 is; renumber the labels without gaps"),
    (f"{LABELS}/kidney", HUGE, "labels: the value 3 is in no label, but an integer of 16610 bits is; renumber"),
    (f"{LABELS}/ignore", 3, "labels.ignore: is 3; write 4, nnU-Net wants it one above the highest label value"),
    (f"{LABELS}/ignore", 255, "labels.ignore: is 255; write 4"),
    (f"{LABELS}/ignore", [4], "labels.ignore: must be an integer, is a list of 1"),
    (f"{LABELS}/ignore", None, "labels.ignore: must be an integer, is null"),
    (f"{LABELS}/a\nb", 4, "labels: every key must be a name of printable characters, is 'a\\nb'; rename it"),
    (ORDER, REMOVE, '"regions_class_order" is missing; add one label value per region, in the order of "labels"'),
    (ORDER, 1, "regions_class_order: must be a list of integers, is 1"),
    (ORDER, [1, 2], "regions_class_order: has 2 entries for 3 regions; give one per region, in their order"),
    (ORDER, [1, 2, 3, 3], "regions_class_order: has 4 entries for 3 regions"),
    (ORDER, [1, 3, 2], "regions_class_order[1]: 3 is not a label value of region 'tumour'; write one of 2"),
    (ORDER, [True, 2, 3], "regions_class_order[0]: must be an integer, is true"),
    (ORDER, [1.0, 2, 3], "regions_class_order[0]: must be an integer, is 1.0"),
    (ORDER, [2, 2, 3], "regions_class_order[0]: 2 belongs to a region inside 'liver' too; write 1, so that"),
    # the block itself
    (BLOCK, None, 'nnunet_mtl: must be an object with "version" and "tasks" as keys, is null'),
    (BLOCK, {}, 'nnunet_mtl: "version" is missing; add it'),
    (f"{BLOCK}/tasks", REMOVE, 'nnunet_mtl: "tasks" is missing; add it'),
    (
        f"{BLOCK}/case",
        {},
        "nnunet_mtl.case: unknown key (did you mean cases?); remove it or write one of version, tasks, classification,",
    ),
    (f"{BLOCK}/version", 2, "nnunet_mtl.version: is 2; this nnunet_mtl reads version 1, install the other one"),
    (f"{BLOCK}/version", True, "nnunet_mtl.version: must be the integer 1, is true"),
    (f"{BLOCK}/version", 1.0, "nnunet_mtl.version: must be the integer 1, is 1.0"),
    (f"{BLOCK}/version", "1", "nnunet_mtl.version: must be the integer 1, is '1'; write it without quotes"),
    # tasks
    (f"{BLOCK}/tasks", [], "nnunet_mtl.tasks: must be an object with task names as keys, is an empty list"),
    (f"{BLOCK}/tasks", {}, "nnunet_mtl.tasks: is empty; add a task with its regions"),
    (
        f"{BLOCK}/tasks/kidney",
        REMOVE,
        "nnunet_mtl.tasks: region 'kidney' is in no task; add it to the \"regions\" of one",
    ),
    (
        f"{BLOCK}/tasks/",
        {"regions": ["liver"]},
        "nnunet_mtl.tasks: every key must be a name of printable characters, is ''",
    ),
    (
        f"{BLOCK}/tasks/tumour",
        {"regions": ["liver"]},
        "nnunet_mtl.tasks.tumour.regions[0]: region 'liver' is in task 'liver' too; remove it",
    ),
    (LIVER, ["liver"], 'nnunet_mtl.tasks.liver: must be an object with "regions" as keys, is a list of 1'),
    (LIVER, {}, 'nnunet_mtl.tasks.liver: "regions" is missing; add it'),
    (
        f"{LIVER}/slot",
        [],
        "nnunet_mtl.tasks.liver.slot: unknown key (did you mean slots?); remove it or write one of regions, slots,",
    ),
    (f"{LIVER}/regions", "liver", "nnunet_mtl.tasks.liver.regions: must be a list of labels, is 'liver'"),
    (f"{LIVER}/regions", [], "nnunet_mtl.tasks.liver.regions: is empty; list the labels of this task"),
    (
        f"{LIVER}/regions",
        ["liver", "tumor"],
        "nnunet_mtl.tasks.liver.regions[1]: unknown label 'tumor' (did you mean tumour?); write one of liver, tumour,",
    ),
    (
        f"{LIVER}/regions",
        ["liver", "background"],
        "nnunet_mtl.tasks.liver.regions[1]: unknown label 'background'; write one of",
    ),
    (
        f"{LIVER}/regions",
        ["liver", 2],
        "nnunet_mtl.tasks.liver.regions[1]: the value must be a string, is 2; write a name in quotes",
    ),
    (
        f"{LIVER}/regions",
        ["liver", ["tumour"]],
        "nnunet_mtl.tasks.liver.regions[1]: the value must be a string, is a list of 1",
    ),
    (f"{LIVER}/regions", ["liver", "liver"], "nnunet_mtl.tasks.liver.regions[1]: 'liver' is listed twice; remove one"),
    (
        f"{LIVER}/regions",
        ["liver", "tumour", "kidney"],
        "nnunet_mtl.tasks.kidney.regions[0]: region 'kidney' is in task 'liver' too; remove",
    ),
    (f"{LIVER}/slots", ["organ"], "nnunet_mtl.tasks.liver.slots: has 1 entries for 2 regions; give one per region"),
    (f"{LIVER}/slots", ["organ", "organ"], "nnunet_mtl.tasks.liver.slots[1]: 'organ' is listed twice; remove one"),
    (
        f"{LIVER}/slots",
        {"organ": 0},
        "nnunet_mtl.tasks.liver.slots: must be a list of slot names, is an object of 1 keys",
    ),
    (f"{LIVER}/slots", None, "nnunet_mtl.tasks.liver.slots: must be a list of slot names, is null"),
    (f"{LIVER}/parent", "spleen", "nnunet_mtl.tasks.liver.parent: unknown other task 'spleen'; write one of kidney"),
    (f"{LIVER}/parent", "liver", "nnunet_mtl.tasks.liver.parent: unknown other task 'liver'; write one of kidney"),
    (f"{LIVER}/parent", None, "nnunet_mtl.tasks.liver.parent: the value must be a string, is null"),
    (f"{LIVER}/overlaps", "kidney", "nnunet_mtl.tasks.liver.overlaps: must be a list of task names, is 'kidney'"),
    (
        f"{LIVER}/overlaps",
        ["kidney", "spleen"],
        "nnunet_mtl.tasks.liver.overlaps[1]: unknown other task 'spleen'; write one of kidney",
    ),
    (f"{LIVER}/overlaps", ["liver"], "nnunet_mtl.tasks.liver.overlaps[0]: unknown other task 'liver'"),
    (f"{LIVER}/overlaps", ["kidney", "kidney"], "nnunet_mtl.tasks.liver.overlaps[1]: 'kidney' is listed twice"),
    (
        f"{LIVER}/type",
        "detection",
        "nnunet_mtl.tasks.liver.type: unknown type 'detection'; write one of segmentation, regression",
    ),
    (f"{LIVER}/type", 1, "nnunet_mtl.tasks.liver.type: the value must be a string, is 1"),
    # classification
    (
        f"{BLOCK}/classification",
        [],
        "nnunet_mtl.classification: must be an object with names as keys, is an empty list",
    ),
    (
        GRADE,
        "ordinal",
        'nnunet_mtl.classification.grade: must be an object with "kind" and "classes" as keys, is \'ordinal\'',
    ),
    (f"{GRADE}/kind", REMOVE, 'nnunet_mtl.classification.grade: "kind" is missing; add it'),
    (
        f"{GRADE}/kind",
        "binary",
        "nnunet_mtl.classification.grade.kind: unknown kind 'binary'; write one of nominal, ordinal, multilabel",
    ),
    (f"{GRADE}/classes", REMOVE, 'nnunet_mtl.classification.grade: "classes" is missing; add it'),
    (
        f"{GRADE}/classes",
        ["low"],
        "nnunet_mtl.classification.grade.classes: has 1 entries; ordinal needs at least 2 classes, add them",
    ),
    (
        f"{GRADE}/classes",
        ["low", "low"],
        "nnunet_mtl.classification.grade.classes[1]: 'low' is listed twice; remove one",
    ),
    (
        f"{GRADE}/classes",
        [0, 1],
        "nnunet_mtl.classification.grade.classes[0]: the value must be a string, is 0; write a name in quotes",
    ),
    (
        f"{BLOCK}/classification/signs/classes",
        [],
        "nnunet_mtl.classification.signs.classes: has 0 entries; multilabel needs at least 1",
    ),
    (
        f"{GRADE}/evidence",
        "spleen",
        "nnunet_mtl.classification.grade.evidence: unknown region 'spleen'; write one of liver, tumour, kidney",
    ),
    (
        f"{GRADE}/evidence",
        ["liver"],
        "nnunet_mtl.classification.grade.evidence: the value must be a string, is a list of 1",
    ),
    (
        f"{GRADE}/weights",
        [1, 2],
        "nnunet_mtl.classification.grade.weights: unknown key; remove it or write one of kind, classes, evidence",
    ),
    # cases
    (f"{BLOCK}/cases", ["c1"], "nnunet_mtl.cases: must be an object with case names as keys, is a list of 1"),
    (C1, ["liver"], 'nnunet_mtl.cases.c1: must be an object with "annotated" as keys, is a list of 1'),
    (f"{BLOCK}/cases/c 3", {}, 'nnunet_mtl.cases["c 3"]: "annotated" is missing; add it'),
    (
        f"{C1}/annoted",
        [],
        "nnunet_mtl.cases.c1.annoted: unknown key (did you mean annotated?); remove it or write one of annotated,",
    ),
    (f"{C1}/annotated", "liver", "nnunet_mtl.cases.c1.annotated: must be a list of tasks or regions, is 'liver'"),
    (
        f"{C1}/annotated",
        ["liver", "lung"],
        "nnunet_mtl.cases.c1.annotated[1]: unknown task or region 'lung'; write one of liver, kidney, tumour, ",
    ),
    (f"{C1}/annotated", ["background"], "nnunet_mtl.cases.c1.annotated[0]: unknown task or region 'background'"),
    (f"{C1}/annotated", ["liver", "liver"], "nnunet_mtl.cases.c1.annotated[1]: 'liver' is listed twice; remove one"),
    (
        f"{C1}/annotated",
        ["liver", "tumour"],
        "nnunet_mtl.cases.c1.annotated[1]: region 'tumour' is listed by 'liver' already; remove one",
    ),
    (
        f"{C1}/annotated",
        ["tumour", "liver"],
        "nnunet_mtl.cases.c1.annotated[1]: region 'tumour' is listed by 'tumour' already",
    ),
    (f"{C1}/annotated", [True], "nnunet_mtl.cases.c1.annotated[0]: the value must be a string, is true"),
    (
        f"{C1}/classes",
        ["low"],
        "nnunet_mtl.cases.c1.classes: must be an object with classification names as keys, is a list of 1",
    ),
    (
        f"{C1}/classes/stage",
        "low",
        "nnunet_mtl.cases.c1.classes.stage: unknown classification 'stage'; write one of grade, signs",
    ),
    (
        f"{C1}/classes/grade",
        "medium",
        "nnunet_mtl.cases.c1.classes.grade: unknown class 'medium'; write one of low, high",
    ),
    (
        f"{C1}/classes/grade",
        0,
        "nnunet_mtl.cases.c1.classes.grade: the value must be a string, is 0; write a name in quotes",
    ),
    (f"{C1}/classes/grade", None, "nnunet_mtl.cases.c1.classes.grade: the value must be a string, is null"),
    (f"{C1}/classes/grade", ["low"], "nnunet_mtl.cases.c1.classes.grade: the value must be a string, is a list of 1"),
    (f"{C1}/classes/signs", "cyst", "nnunet_mtl.cases.c1.classes.signs: must be a list of class names, is 'cyst'"),
    (
        f"{C1}/classes/signs",
        ["cyst", "cyst"],
        "nnunet_mtl.cases.c1.classes.signs[1]: 'cyst' is listed twice; remove one",
    ),
    (
        f"{C1}/classes/signs",
        ["cyst", "low"],
        "nnunet_mtl.cases.c1.classes.signs[1]: unknown class 'low'; write one of cyst, stone",
    ),
    (f"{C1}/patient", 17, "nnunet_mtl.cases.c1.patient: the value must be a string, is 17; write a name in quotes"),
    (f"{C1}/source", "", "nnunet_mtl.cases.c1.source: the value must be a name of printable characters, is ''"),
]


def put(dataset, place, value):
    """Set (or remove) the value at keys joined by single slashes."""
    if not place:
        return value
    *keys, last = place.split("/")
    target = dataset
    for key in keys:
        target = target[key]
    if value is REMOVE:
        del target[last]
    else:
        target[last] = value
    return dataset


def refusal_of(dataset):
    with pytest.raises(TaskSetError) as refusal:
        TaskSet.from_dataset_json(dataset, source="dataset.json")
    message = str(refusal.value)
    assert message.startswith("dataset.json: ")
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix("dataset.json: ")


def test_that_the_data_set_the_faults_are_put_into_is_valid():
    task_set = TaskSet.from_dataset_json(VALID)
    assert task_set.regions == ("liver", "tumour", "kidney")


def test_that_no_two_faults_are_one():
    assert len({(place, message) for place, _, message in FAULTS}) == len(FAULTS) >= 100


@pytest.mark.parametrize(
    ("place", "value", "message"), FAULTS, ids=[f"{i}-{fault[2][:50]}" for i, fault in enumerate(FAULTS)]
)
def test_that_a_fault_is_refused_with_place_and_remedy(place, value, message):
    assert refusal_of(put(copy.deepcopy(VALID), place, value)).startswith(message)


def test_that_a_flat_block_is_told_what_to_write():
    message = refusal_of(put(copy.deepcopy(VALID), LABELS, FLAT))
    assert message.endswith('write "liver": [1, 1] and add "regions_class_order"')


def test_that_parents_must_not_run_in_a_circle():
    dataset = put(copy.deepcopy(VALID), f"{LIVER}/parent", "kidney")
    assert TaskSet.from_dataset_json(dataset).tasks[0].parent == "kidney"
    dataset = put(dataset, f"{BLOCK}/tasks/kidney/parent", "liver")
    assert refusal_of(dataset).startswith(
        "nnunet_mtl.tasks.liver.parent: parents run in a circle (liver, kidney, liver); remove one"
    )


def test_that_an_inner_region_must_not_be_painted_before_its_outer_one():
    dataset = copy.deepcopy(VALID)
    dataset["labels"] = {"background": 0, "tumour": [2], "liver": [1, 2], "kidney": [3, 3]}
    dataset["regions_class_order"] = [2, 1, 3]
    assert refusal_of(dataset).startswith(
        "regions_class_order[0]: region 'tumour' is painted before 'liver', which contains and so overwrites it; "
        "move 'liver' before it in \"labels\""
    )
    del dataset["nnunet_mtl"]
    assert "is painted before" in refusal_of(dataset)


def test_that_an_outer_region_wholly_made_of_inner_ones_may_be_painted_with_theirs():
    labels = {"background": 0, "kidneys": [1, 2], "left": 1, "right": 2}
    task_set = TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 1, 2]})
    assert task_set.regions_class_order == (1, 1, 2)


def test_that_a_task_must_not_have_the_name_of_another_tasks_region():
    dataset = copy.deepcopy(VALID)
    dataset["nnunet_mtl"]["tasks"] = {"tumour": {"regions": ["liver", "kidney"]}, "rest": {"regions": ["tumour"]}}
    assert refusal_of(dataset).startswith("nnunet_mtl.tasks.tumour: a region of task 'rest' has this name; rename one")


# Names that would not do for files, folders and columns, and what the message says of them.
BAD_NAMES = {
    "..": 'must not be "." or ".."',
    ".": 'must not be "." or ".."',
    "a/b": "must not contain a slash or a backslash",
    "/etc": "must not contain a slash or a backslash",
    "..\\b": "must not contain a slash or a backslash",
    "C:\\b": "must not contain a slash or a backslash",
    " a": "must not start or end with a blank",
    "a ": "must not start or end with a blank",
    "a" * 121: "must not be longer than 120 characters, and has 121",
    "肝" * 100: "must not be longer than 200 bytes in UTF-8, and has 300",
}
KINDS_OF_NAMES = ("a task", "a label", "a question", "a class", "a slot")


def _named(kind, name):
    """A data set with a label, task, slot, question and class, one of which has a name."""
    names = {one: name if one == kind else one.split()[1] for one in KINDS_OF_NAMES}
    return {
        "labels": {"background": 0, names["a label"]: [1, 1]},
        "regions_class_order": [1],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {names["a task"]: {"regions": [names["a label"]], "slots": [names["a slot"]]}},
            "classification": {names["a question"]: {"kind": "nominal", "classes": [names["a class"], "other"]}},
            "cases": {"Case A.01": {"annotated": []}, "肝 ä": {"annotated": []}, "case a.01": {"annotated": []}},
        },
    }


@pytest.mark.parametrize("kind", KINDS_OF_NAMES)
def test_that_what_is_no_name_of_a_file_is_no_name(kind):
    TaskSet.from_dataset_json(_named(kind, "Leber (links), T1-2: größer als 3,5"))
    TaskSet.from_dataset_json(_named(kind, "a" * 120))
    for name, problem in BAD_NAMES.items():
        assert f"the name of {kind} {problem}" in refusal_of(_named(kind, name)), name


TWINS = [("Liver", "liver"), ("straße", "STRASSE"), ("Ga\u0308nge", "G\u00e4nge")]


@pytest.mark.parametrize("twins", TWINS)
@pytest.mark.parametrize("kind", KINDS_OF_NAMES)
def test_that_names_differ_in_more_than_case_and_unicode_form(kind, twins):
    dataset = _named(kind, twins[0])
    block = dataset["nnunet_mtl"]
    labels = {"a label": twins[1]}
    dataset["labels"][labels.get(kind, "second")] = [2, 2]
    dataset["regions_class_order"].append(2)
    tasks = {"a task": twins[1]}
    second = {"regions": [labels.get(kind, "second")], "slots": [twins[1] if kind == "a slot" else "slot"]}
    block["tasks"][tasks.get(kind, "second")] = second
    questions = {"a question": twins[1]}
    classes = [twins[0], twins[1]] if kind == "a class" else ["x", "y"]
    block["classification"][questions.get(kind, "second")] = {"kind": "nominal", "classes": classes}
    assert "only in case or Unicode form" in refusal_of(dataset)


def test_that_names_of_regression_tasks_are_names_of_folders_too():
    for name, problem in BAD_NAMES.items():
        dataset = _named("a task", "liver")
        dataset["channel_names"] = {"0": "CT", "1": "noNorm"}
        dataset["nnunet_mtl"]["tasks"][name] = {"type": "regression", "channel": 1}
        assert problem in refusal_of(dataset)


def test_that_a_case_name_holds_no_slash():
    dataset = _named("a task", "liver")
    dataset["nnunet_mtl"]["cases"]["../a"] = {"annotated": []}
    assert "the name of a case must not contain a slash" in refusal_of(dataset)


def test_that_a_label_of_a_data_set_without_a_block_is_nnunets_own_business():
    TaskSet.from_dataset_json({"labels": {"background": 0, "left/right ": 1, "Left/Right ": 2}})


def test_that_a_long_chain_of_parents_is_read_in_linear_time():
    n_tasks = 2000
    labels = {f"region_{i}": [i + 1, i + 1] for i in range(n_tasks)}
    tasks = {f"task_{i}": {"regions": [f"region_{i}"], "parent": f"task_{i + 1}"} for i in range(n_tasks)}
    del tasks[f"task_{n_tasks - 1}"]["parent"]
    dataset = {
        "labels": {"background": 0, **labels},
        "regions_class_order": list(range(1, n_tasks + 1)),
        "nnunet_mtl": {"version": 1, "tasks": tasks, "cases": {}},
    }
    started = time.process_time()
    taskset = TaskSet.from_dataset_json(dataset)
    # 0.2 s when measured, and 14 s where each task went through all others
    assert time.process_time() - started < 3
    assert len(taskset.tasks) == n_tasks
    tasks[f"task_{n_tasks - 1}"]["parent"] = "task_0"
    assert "parents run in a circle" in refusal_of(dataset)


@pytest.mark.parametrize("fault", [("labels/background", 1), ("labels/liver", [1, 9]), ("regions_class_order", [1])])
def test_that_labels_are_checked_without_the_block_too(fault):
    dataset = put(copy.deepcopy(VALID), *fault)
    del dataset["nnunet_mtl"]
    refusal_of(dataset)


def test_that_keys_that_are_no_strings_are_refused():
    assert "every key must be a string, is 3" in refusal_of(put(copy.deepcopy(VALID), LABELS, {"background": 0, 3: 1}))


def test_that_long_values_names_and_lists_stay_short_in_the_message():
    long = "x" * 5000
    assert refusal_of(put(copy.deepcopy(VALID), f"{LIVER}/parent", long)).count("x") < 60
    assert refusal_of(put(copy.deepcopy(VALID), f"{BLOCK}/cases/{long}", 3)).count("x") < 70
    dataset = copy.deepcopy(VALID)
    dataset["labels"] |= {f"organ_{i}": [i + 4, i + 4] for i in range(60)}
    dataset["regions_class_order"] += list(range(4, 64))
    dataset["nnunet_mtl"]["tasks"]["liver"]["regions"] = ["spleen"]
    assert "organ_8 and 51 more" in refusal_of(dataset)
