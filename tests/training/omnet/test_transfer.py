from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.omnet.nested_tasks import nested_tasks
from nnunet_mtl.training.omnet.transfer import OUTERMOST, Transfer

LABELS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
CHAIN = nested_tasks(TaskSet.from_dataset_json({"labels": LABELS, "regions_class_order": [1, 2, 3]}))
PUBLISHED = (Fraction("0.4"), Fraction("0.5"))
SIZE = (10, 10, 10)
EVERYTHING = torch.ones(1, 3, dtype=torch.bool)


def patch(whole: int, core: int = 0, size: tuple[int, ...] = SIZE) -> Tensor:
    """Region targets, (1, 3, *size), of a patch with so many voxels of each region."""
    target = torch.zeros(1, 3, *size, dtype=torch.bool)
    for region, count in enumerate((whole, core)):
        target[0, region].view(-1)[:count] = True
    return target


def taught(transfer: Transfer, pool: int, target: Tensor, annotated: Tensor = EVERYTHING) -> list[bool]:
    tasks: list[bool] = transfer([pool], target, annotated).tasks[0].tolist()
    return tasks


@pytest.mark.parametrize(
    ("whole", "core", "expected"),
    [
        pytest.param(400, 0, [True, True, False], id="exactly 40 % of the whole"),
        pytest.param(399, 0, [True, False, False], id="one voxel fewer"),
        pytest.param(1000, 500, [True, True, True], id="exactly 50 % of the core"),
        pytest.param(1000, 499, [True, True, False], id="one voxel fewer of the core"),
        pytest.param(0, 0, [True, False, False], id="nothing"),
    ],
)
def test_a_patch_from_anywhere_teaches_what_it_shows_enough_of(whole: int, core: int, expected: list[bool]) -> None:
    transfer = Transfer(CHAIN, PUBLISHED)
    assert taught(transfer, OUTERMOST, patch(whole, core)) == expected
    # without the transfer its own pool alone
    assert taught(Transfer(CHAIN, ()), OUTERMOST, patch(whole, core)) == [True, False, False]


def test_an_inner_pool_teaches_its_task_whatever_it_shows_and_never_an_outer_one() -> None:
    transfer = Transfer(CHAIN, PUBLISHED)
    assert transfer.pools == (OUTERMOST, 0, 1)
    assert taught(transfer, 0, patch(0)) == [False, True, False]
    assert taught(transfer, 0, patch(1000, 500)) == [False, True, True]
    assert taught(transfer, 1, patch(1000, 1000)) == [False, False, True]
    moved = transfer([OUTERMOST, 0, 1], patch(1000, 500).expand(3, -1, -1, -1, -1), EVERYTHING.expand(3, -1))
    assert moved.moved.tolist() == [[False, True, True], [False, False, True], [False, False, False]]
    assert moved.voxels.tolist() == [[0, 1000, 500]] * 3


def test_shares_round_down_to_whole_voxels_as_in_the_released_code_but_not_to_none() -> None:
    transfer = Transfer(CHAIN, PUBLISHED)
    assert transfer.least(1, 16 * 32 * 32) == 6553
    assert transfer.least(2, 16 * 32 * 32) == 8192
    assert Transfer(CHAIN, (Fraction(0),)).least(1, 1000) == 1
    assert Transfer(CHAIN, (Fraction("0.29"),)).least(1, 100) == 29  # floating point would say 28


def test_the_last_share_is_that_of_all_deeper_tasks() -> None:
    transfer = Transfer(CHAIN, (Fraction("0.25"),))
    assert [transfer.least(task, 1000) for task in (1, 2)] == [250, 250]


def test_a_parent_that_is_not_annotated_is_not_read() -> None:
    transfer = Transfer(CHAIN, PUBLISHED)
    unknown = torch.tensor([[False, True, True]])
    assert taught(transfer, OUTERMOST, patch(1000, 1000), unknown) == [True, False, True]
    assert transfer([OUTERMOST], patch(1000), unknown).voxels[0, 1] == 0


def tree() -> TaskSet:
    """b and d lie in a, c lies in b; e is elsewhere."""
    labels = {"background": 0, "a": [1, 2, 3, 4], "b": [2, 3], "c": [3], "d": [4], "e": [5, 5]}
    tasks: dict[str, Any] = {name: {"regions": [name]} for name in "abcde"}
    for child, parent in (("b", "a"), ("c", "b"), ("d", "a")):
        tasks[child]["parent"] = parent
    block = {"version": 1, "tasks": tasks}
    dataset_json = {"labels": labels, "regions_class_order": [1, 2, 3, 4, 5], "nnunet_mtl": block}
    return nested_tasks(TaskSet.from_dataset_json(dataset_json))


def test_tasks_in_the_same_parent_share_a_pool_and_so_do_the_outermost() -> None:
    transfer = Transfer(tree(), PUBLISHED)
    assert transfer.pools == (OUTERMOST, 0, 1)
    assert transfer.levels == [0, 1, 2, 1, 0]
    target, known = torch.zeros(1, 5, *SIZE, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    assert taught(transfer, OUTERMOST, target, known) == [True, False, False, False, True]
    assert taught(transfer, 0, target, known) == [False, True, False, True, False]
    target[:, :2] = True
    assert taught(transfer, OUTERMOST, target, known) == [True, True, True, True, True]
    # the pool around a is no ancestor of e's, and that around b none of d's
    assert taught(transfer, 0, target, known) == [False, True, True, True, False]
    assert taught(transfer, 1, target, known) == [False, False, True, False, False]
    assert transfer.regions(torch.eye(5, dtype=torch.bool)).equal(torch.eye(5, dtype=torch.bool))


def test_a_parent_of_several_regions_is_where_any_of_them_is() -> None:
    labels = {"background": 0, "left": [1, 3], "right": [2, 2], "inner": [3]}
    tasks = {"organ": {"regions": ["left", "right"]}, "inner": {"regions": ["inner"], "parent": "organ"}}
    block = {"version": 1, "tasks": tasks}
    dataset_json = {"labels": labels, "regions_class_order": [1, 2, 3], "nnunet_mtl": block}
    transfer = Transfer(nested_tasks(TaskSet.from_dataset_json(dataset_json)), (Fraction("0.5"),))
    target = torch.zeros(1, 3, *SIZE, dtype=torch.bool)
    target[0, 0, :3], target[0, 1, 3:5] = True, True
    assert taught(transfer, OUTERMOST, target) == [True, True]
    assert transfer([OUTERMOST], target, EVERYTHING).voxels.tolist() == [[0, 500]]
    target[0, 1, 2:4] = True  # one layer is in both
    target[0, 1, 4] = False
    assert taught(transfer, OUTERMOST, target) == [True, False]
    assert transfer.regions(torch.tensor([[True, False]])).tolist() == [[True, True, False]]
