"""Any valid task set survives writing and reading; any mutation of its file is read or refused, nothing else."""

import copy
import json
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_mtl.tasks import TaskSet, TaskSetError, without_cases

SETTINGS = settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Good names of files, none of which differ only in case or Unicode form.
WORDS = st.text("abzéλ肝_-. ()'\"[]{}:,1", min_size=1, max_size=6).filter(
    lambda t: t == t.strip() and t not in (".", "..", "background", "ignore")
)


@st.composite
def dataset_jsons(draw):
    """A valid `dataset.json` with block: each task is a chain of nested regions with label values of its own."""
    depths = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    names = draw(st.lists(WORDS, min_size=sum(depths) + len(depths), max_size=99, unique=True))
    labels, order, tasks = {"background": 0}, [], {}
    for depth in depths:
        first = len(order) + 1
        regions = [names.pop() for _ in range(depth)]
        for i, region in enumerate(regions):
            values = list(range(first + i, first + depth))
            labels[region] = values if len(values) > 1 else values * 2
            order.append(first + i)
        name = draw(st.sampled_from([regions[0], names.pop()]))
        tasks[name] = draw(task_values(draw(st.permutations(regions)), list(tasks)))
    if draw(st.booleans()):
        labels["ignore"] = len(order) + 1
    questions = draw(classifications(list(labels)[1 : len(order) + 1]))
    block = {"version": 1, "tasks": dict(draw(st.permutations(list(tasks.items()))))}
    if questions or draw(st.booleans()):
        block["classification"] = questions
    if draw(st.booleans()):
        block["cases"] = draw(st.dictionaries(WORDS, case_values(tasks, questions), max_size=4))
    return {"labels": labels, "regions_class_order": order, "nnunet_mtl": block}


@st.composite
def task_values(draw, regions, earlier):
    task = {"regions": regions, "type": "segmentation"}
    if draw(st.booleans()):
        task["slots"] = draw(st.lists(WORDS, min_size=len(regions), max_size=len(regions), unique=True))
    if earlier and draw(st.booleans()):
        task["parent"] = draw(st.sampled_from(earlier))
        task["overlaps"] = draw(st.lists(st.sampled_from(earlier), unique=True))
    return task


@st.composite
def classifications(draw, regions):
    questions = {}
    for name in draw(st.lists(WORDS, max_size=3, unique=True)):
        kind = draw(st.sampled_from(["nominal", "ordinal", "multilabel"]))
        questions[name] = {"kind": kind, "classes": draw(st.lists(WORDS, min_size=2, max_size=4, unique=True))}
        if draw(st.booleans()):
            questions[name]["evidence"] = draw(st.sampled_from(regions))
    return questions


@st.composite
def case_values(draw, tasks, questions):
    annotated = []
    for name, task in tasks.items():
        single = [f"{name}/{region}" if region in tasks else region for region in task["regions"]]
        annotated += draw(st.sampled_from([[], [name], single[:1], single]))
    case = {"annotated": draw(st.permutations(annotated))}
    for key in draw(st.sets(st.sampled_from(["patient", "source"]))):
        case[key] = draw(WORDS)
    answered = draw(st.sets(st.sampled_from(list(questions)))) if questions else []
    for name in answered:
        classes = st.sampled_from(questions[name]["classes"])
        several = questions[name]["kind"] == "multilabel"
        case.setdefault("classes", {})[name] = draw(st.lists(classes, unique=True) if several else classes)
    return case


@SETTINGS
@given(dataset_jsons())
def test_that_reading_what_was_written_is_the_identity(dataset):
    task_set = TaskSet.from_dataset_json(dataset)
    again = {**dataset, "nnunet_mtl": json.loads(json.dumps(task_set.to_block()))}
    assert TaskSet.from_dataset_json(again) == task_set
    assert TaskSet.from_dataset_json(again).to_block() == task_set.to_block()
    assert TaskSet.from_dataset_json(again).fingerprint() == task_set.fingerprint()
    for key in ("tasks", "classification", "cases"):
        assert list(task_set.to_block().get(key, {})) == list(dataset["nnunet_mtl"].get(key, {}))


@SETTINGS
@given(dataset_jsons())
def test_that_every_region_has_one_task_one_slot_and_its_annotation(dataset):
    task_set = TaskSet.from_dataset_json(dataset)
    for i, region in enumerate(task_set.regions):
        task = task_set.tasks[task_set.task_of_region[i]]
        assert task.slots[task.regions.index(region)] == task_set.slot_names[task_set.slot_of_region[i]]
        assert set(task_set.region_labels[i]) == set(dataset["labels"][region])
    for case, value in dataset["nnunet_mtl"].get("cases", {}).items():
        annotated = task_set.annotated(case)
        for region, task, done in zip(task_set.regions, task_set.task_of_region, annotated, strict=True):
            name = task_set.tasks[task].name
            said = name in value["annotated"] or f"{name}/{region}" in value["annotated"]
            assert done == (said or (region in value["annotated"] and region not in dataset["nnunet_mtl"]["tasks"]))
        expected = {t for t, done in zip(task_set.task_of_region, annotated, strict=True) if done}
        assert task_set.annotated_tasks(case) == tuple(sorted(expected))


@SETTINGS
@given(dataset_jsons(), st.randoms(use_true_random=False))
def test_that_the_order_of_cases_leaves_the_fingerprint_alone(dataset, shuffler):
    task_set = TaskSet.from_dataset_json(dataset)
    items = list(dataset["nnunet_mtl"].get("cases", {}).items())
    shuffler.shuffle(items)
    shuffled = {**dataset, "nnunet_mtl": {**dataset["nnunet_mtl"]}}
    if items:
        shuffled["nnunet_mtl"]["cases"] = dict(items)
    assert TaskSet.from_dataset_json(shuffled).fingerprint() == task_set.fingerprint()
    assert TaskSet.from_dataset_json(without_cases(shuffled)).compact() == task_set.compact()


START = {
    "labels": {"background": 0, "liver": [1, 2], "tumour": 2, "kidney": [3, 3], "ignore": 4},
    "regions_class_order": [1, 2, 3],
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver", "tumour"], "slots": ["organ", "tumour"], "type": "segmentation"},
            "right": {"regions": ["kidney"], "parent": "liver", "overlaps": ["liver"]},
        },
        "classification": {
            "grade": {"kind": "ordinal", "classes": ["low", "high"], "evidence": "tumour"},
            "signs": {"kind": "multilabel", "classes": ["cyst", "stone"]},
        },
        "cases": {
            "c1": {"annotated": ["liver"], "classes": {"grade": "low", "signs": ["cyst"]}, "patient": "P1"},
            "c2": {"annotated": ["kidney", "liver/liver"], "source": "kits"},
            "c3": {"annotated": []},
        },
    },
}
NAMES = ["liver", "tumour", "right", "kidney", "grade", "low", "background", "ignore", "c1", "classes", "annotated"]


def deep(make):
    nested = make([])
    for _ in range(3000):
        nested = make(nested)
    return nested


JUNK = [
    None, True, False, 0, 1, -1, 2, 3, 4, 5, 0.0, 1.0, 2.5, 1e308, float("nan"), float("inf"), 10**400, 10**5000,
    "", " ", "1", "a\nb", "\x00", "\ud800", "x" * 5000, "liver/tumour", *NAMES,
    [], [1], [1, 1], [2, 3], [[]], ["liver"], ["liver", "liver"], [None], [True, 2], list(range(1000)),
    {}, {"": 0}, {"a": {}}, {"regions": ["kidney"]}, {"annotated": []}, {"\ud800": 1}, {"a\nb": 1},
    deep(lambda inner: [inner]), deep(lambda inner: {"a": inner}),
]  # fmt: skip


def containers(dataset):
    """Every non-empty object and list of a dataset, but not what lies inside a mutation's own junk."""
    found, queue = [], [dataset]
    while queue:
        value = queue.pop()
        if not isinstance(value, dict | list) or not value or any(value is junk for junk in JUNK):
            continue
        found.append(value)
        queue += value.values() if isinstance(value, dict) else value
    return found


def mutate(dataset, chance):
    """Change one place of a `dataset.json`: delete, replace, add, rename, or swap."""
    target = chance.choice(containers(dataset) or [dataset])
    keys = list(target) if isinstance(target, dict) else list(range(len(target)))
    if not keys:
        return
    key, other = chance.choice(keys), chance.choice(keys)
    kind = chance.choice(["delete", "replace", "replace", "add", "rename", "swap"])
    if kind == "delete":
        del target[key]
    elif kind == "replace":
        target[key] = chance.choice(JUNK)
    elif kind == "add" and isinstance(target, list):
        target.insert(key, chance.choice([target[other], chance.choice(JUNK)]))
    elif kind == "add":
        target[chance.choice([*NAMES, "", "\n", "\ud800"])] = chance.choice([target[other], chance.choice(JUNK)])
    elif kind == "rename" and isinstance(target, dict):
        target[chance.choice(NAMES)] = target.pop(key)
    else:
        target[key], target[other] = target[other], target[key]


def read(dataset):
    """Return the task set or the refusal; any other error is the test's failure."""
    try:
        return TaskSet.from_dataset_json(dataset), ""
    except TaskSetError as error:
        return None, str(error)


def test_that_mutations_raise_nothing_but_task_set_error():
    refused, places = 0, set()
    for number in range(2000):
        chance = random.Random(number)
        dataset = copy.deepcopy(START)
        for _ in range(chance.choice([1, 1, 2, 4])):
            mutate(dataset, chance)
        task_set, refusal = read(dataset)
        if task_set is None:
            refused += 1
            places.add(refusal)
            assert refusal.startswith("dataset.json: "), number
            assert refusal.isprintable(), number
            assert len(refusal) < 500, number
            continue
        assert len(task_set.fingerprint()) == 64, number
        if task_set.has_block:
            again = {**dataset, "nnunet_mtl": json.loads(json.dumps(task_set.to_block()))}
            assert TaskSet.from_dataset_json(again) == task_set, number
        for case in task_set.cases:
            assert len(task_set.annotated(case)) == len(task_set.regions), number
    assert 1000 < refused < 1950
    assert len(places) > 300
