from nnunet_mtl.networks.layout import Layout

# liver (with its tumour), the tumour, a vessel that runs inside the liver and outside it (leaf 9 is inside), kidney
ANATOMY = Layout(
    task_of_region=(0, 0, 2, 1), slot_of_region=(0, 1, 2, 0), labels_of_region=((9, 1, 2), (2,), (4, 9), (3,))
)


def test_tasks_slots_and_regions_are_counted():
    assert (ANATOMY.num_tasks, ANATOMY.num_regions, ANATOMY.num_slots) == (3, 4, 3)


def test_leaves_are_the_distinct_label_values_ascending():
    assert ANATOMY.leaves == (1, 2, 3, 4, 9)


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
