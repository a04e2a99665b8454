from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.tasks import TaskSet

# liver (with its tumour), the tumour, a vessel that runs inside the liver and outside it (leaf 33 is inside), kidney
ANATOMY = Layout(
    task_of_region=(0, 0, 2, 1), slot_of_region=(0, 1, 2, 0), labels_of_region=((33, 1, 2), (2,), (4, 33), (3,))
)


def test_tasks_slots_and_regions_are_counted():
    assert (ANATOMY.num_tasks, ANATOMY.num_regions, ANATOMY.num_slots) == (3, 4, 3)


def test_leaves_are_the_distinct_label_values_ascending():
    assert ANATOMY.leaves == (1, 2, 3, 4, 33)


def test_membership_says_which_region_holds_which_leaf():
    background_then_leaves = [
        [0, 1, 1, 0, 0, 1],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 1, 0, 0],
    ]
    assert [list(row) for row in ANATOMY.membership] == background_then_leaves


def test_a_layout_compares_and_hashes_by_value():
    assert Layout(*ANATOMY) == ANATOMY
    assert len({Layout(*ANATOMY), ANATOMY}) == 1


def test_a_task_sets_layout_has_its_regions_in_nnunets_order():
    labels = {"background": 0, "liver": [5, 1, 2], "tumour": 2, "vessel": [4, 5], "kidney": [3, 3]}
    tasks = {
        "liver": {"regions": ["liver", "tumour"], "slots": ["organ", "tumour"]},
        "kidney": {"regions": ["kidney"], "slots": ["organ"]},
        "vessel": {"regions": ["vessel"], "slots": ["tube"]},
    }
    block = {"version": 1, "tasks": tasks, "cases": {}}
    dataset = {"labels": labels, "regions_class_order": [1, 2, 4, 3], "nnunet_mtl": block}
    expected = ANATOMY._replace(labels_of_region=((1, 2, 5), (2,), (4, 5), (3,)))  # ascending in a task set
    assert Layout.from_tasks(TaskSet.from_dataset_json(dataset)) == expected
