import multiprocessing
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.training.evidence_crops import EvidenceCropLoader
from nnunet_mtl.training.omnet.patch_pools import KEY, PoolLoader

PATCHES = {"2d": (9, 9), "3d_fullres": (9, 9, 9)}
# The liver holds leaves 1 and 2, its tumour 2; the tumour's task lies in the liver's.
ANYWHERE, IN_LIVER = -1, 0
POOLS: dict[int, Any] = {ANYWHERE: ([], [(1, 2)]), IN_LIVER: ([(1, 2)], [(2,)])}
OUTER = {ANYWHERE: POOLS[ANYWHERE]}


@pytest.fixture(params=PATCHES)
def arguments(request: pytest.FixtureRequest, prepared: Any) -> dict[str, Any]:
    """nnU-Net's arguments for the liver cases; a batch is 41 patches, an odd number."""
    plans = PlansManager(prepared.plans("tiny"))
    folder = Path(prepared.preprocessed) / plans.get_configuration(request.param).data_identifier
    patch = PATCHES[request.param]
    return {
        "data": nnUNetDatasetBlosc2(str(folder), [f"liver_{index:03d}" for index in range(4)]),
        "batch_size": 41,
        "patch_size": patch,
        "final_patch_size": patch,
        "label_manager": plans.get_label_manager(prepared.dataset_json),
        "oversample_foreground_percent": 0.0,
        "evidence": (),
        "share": 0.0,
    }


def open_pools(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def batch(loader: Any, seed: int = 0) -> dict[str, Any]:
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    drawn: dict[str, Any] = loader.generate_train_batch()
    return drawn


def locations(**of: int) -> dict[Any, Any]:
    """Liver and tumour where they are named, with so many voxels, each at a place of its own."""
    keys = {"liver": (1, 2), "tumour": 2}
    places = {"liver": [0, 50, 50, 50], "tumour": [0, 100, 100, 100]}
    return {keys[name]: [places[name]] * number for name, number in of.items()}


def test_patches_of_a_pool_are_centred_in_its_parent_and_the_others_are_nnunets(arguments: dict[str, Any]) -> None:
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    drawn = batch(loader)
    target = drawn["target"].numpy()
    centre = target[(slice(None), 0, *(size // 2 for size in target.shape[2:]))]
    inside = drawn[KEY] == IN_LIVER
    assert set(centre[inside]) == {1, 2}
    assert (centre[~inside] == 0).any()


def test_pools_give_equal_parts_of_any_row_of_samples(arguments: dict[str, Any]) -> None:
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    pools = np.concatenate([batch(loader, seed)[KEY] for seed in range(3)])
    assert len(pools) == 123
    for end in range(0, 123, 2):
        assert np.count_nonzero(pools[:end] == IN_LIVER) == end // 2
    three = {**POOLS, 7: ([(2,)], [(1, 2)])}
    loader = PoolLoader(**arguments, pools=three, active=open_pools(1, 1, 1))
    pools = np.concatenate([batch(loader, seed)[KEY] for seed in range(3)])
    assert Counter(pools.tolist()) == {ANYWHERE: 41, IN_LIVER: 41, 7: 41}


def test_cases_open_to_fewer_pools_leave_the_others_their_equal_parts(arguments: dict[str, Any]) -> None:
    """Nobody outlined the tumour in two thirds of the cases: they are drawn from anywhere alone."""
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    for _ in range(10):
        for there in ({"liver": 3}, {"liver": 3, "tumour": 2}, {"liver": 3}):
            loader.get_bbox((400, 400, 400), False, locations(**there))
    pools = loader._of_batch
    assert Counter(pools[1::3]) == {ANYWHERE: 5, IN_LIVER: 5}
    assert set(pools[::3] + pools[2::3]) == {ANYWHERE}


def test_a_pool_that_is_not_open_yet_gives_nothing_and_catches_up_with_nothing(arguments: dict[str, Any]) -> None:
    active = open_pools(1, 0)
    loader = PoolLoader(**arguments, pools=POOLS, active=active)
    assert set(batch(loader)[KEY]) == {ANYWHERE}
    active[1] = 1
    drawn = batch(loader)[KEY]
    assert np.count_nonzero(drawn == IN_LIVER) in (20, 21)
    active[0] = 0  # what lies anywhere is always drawn from: a case may be open to nothing else
    assert ANYWHERE in batch(loader)[KEY]


@pytest.mark.parametrize(
    ("there", "is_open", "row"),
    [
        pytest.param({"liver": 3, "tumour": 2}, True, 50, id="both"),
        pytest.param({"liver": 3, "tumour": 0}, True, 50, id="no tumour, and annotated"),
        pytest.param({"liver": 0, "tumour": 0}, False, 0, id="no liver"),
        pytest.param({"liver": 3}, False, 0, id="the tumour is not annotated"),
        pytest.param({"tumour": 2}, True, 100, id="the liver is not annotated"),
        pytest.param({"tumour": 0}, False, 0, id="the liver is not annotated, no tumour"),
        pytest.param({}, False, 0, id="nothing is annotated"),
    ],
)
def test_a_pool_is_open_to_cases_with_something_to_be_centred_on(
    arguments: dict[str, Any], there: dict[str, int], is_open: bool, row: int
) -> None:
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    boxes = [loader.get_bbox((400, 400, 400), False, locations(**there)) for _ in range(4)]
    pools = loader._of_batch
    assert pools.count(IN_LIVER) == (2 if is_open else 0)
    for pool, (lower, _) in zip(pools, boxes, strict=True):
        if pool == IN_LIVER:
            assert lower[1:] == [row - 4, row - 4]


def test_a_case_whose_locations_are_not_known_is_drawn_as_ever(arguments: dict[str, Any]) -> None:
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    loader.get_bbox((40, 40, 40), False, None)
    assert loader._of_batch == [ANYWHERE]


def test_every_region_of_a_parent_is_a_centre(arguments: dict[str, Any]) -> None:
    loader = PoolLoader(**arguments, pools={5: ([(1, 2), (2,)], [(2,)])}, active=open_pools(1))
    boxes = [loader.get_bbox((400, 400, 400), False, locations(liver=1, tumour=1))[0][1] + 4 for _ in range(60)]
    assert set(boxes) == {50, 100}
    assert 15 < boxes.count(50) < 45


def test_one_pool_is_nnunets_drawing_bit_for_bit(arguments: dict[str, Any]) -> None:
    arguments["oversample_foreground_percent"] = 0.5
    expected = batch(EvidenceCropLoader(**arguments))
    drawn = batch(PoolLoader(**arguments, pools=OUTER, active=open_pools(1)))
    assert list(drawn["keys"]) == list(expected["keys"])
    assert drawn["data"].equal(expected["data"])
    assert drawn["target"].equal(expected["target"])
    assert set(drawn[KEY]) == {ANYWHERE}


def test_evidence_crops_are_of_the_outermost_pool(arguments: dict[str, Any]) -> None:
    arguments |= {"evidence": ((2,),), "share": 1.0}
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    boxes = [loader.get_bbox((400, 400, 400), False, locations(liver=1, tumour=1))[0][1] + 4 for _ in range(10)]
    assert [row == 100 for row in boxes] == [pool == ANYWHERE for pool in loader._of_batch]


def test_worker_processes_can_be_given_the_loader(arguments: dict[str, Any]) -> None:
    loader = PoolLoader(**arguments, pools=POOLS, active=open_pools(1, 1))
    copy = pickle.loads(pickle.dumps(loader))
    drawn, expected = batch(copy), batch(loader)
    assert drawn["target"].equal(expected["target"])
    assert (drawn[KEY] == expected[KEY]).all()


def _pools_seen(loader: Any, ask: Any, answer: Any) -> None:
    for _ in range(2):
        ask.get()
        answer.put(sorted(set(batch(loader)[KEY].tolist())))


def test_a_worker_sees_that_a_pool_opens(arguments: dict[str, Any]) -> None:
    """The process was started before."""
    active = open_pools(1, 0)
    active.share_memory_()
    loader = PoolLoader(**arguments, pools=POOLS, active=active)
    context = multiprocessing.get_context("fork")
    ask, answer = context.Queue(), context.Queue()
    worker = context.Process(target=_pools_seen, args=(loader, ask, answer))
    worker.start()
    ask.put(None)
    assert answer.get(timeout=60) == [ANYWHERE]
    active[1] = 1
    ask.put(None)
    assert answer.get(timeout=60) == [ANYWHERE, IN_LIVER]
    worker.join()
