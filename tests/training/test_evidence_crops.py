import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.evidence_crops import EvidenceCropLoader, evidence_labels

PATCHES = {"2d": (9, 9), "3d_fullres": (9, 9, 9)}
TUMOUR = ((2,),)
N_CASES = 4  # of the liver


@pytest.fixture(params=PATCHES)
def arguments(request: pytest.FixtureRequest, prepared: Any) -> dict[str, Any]:
    """nnU-Net's arguments for the liver cases, which hold leaves 1 and 2; one batch is 40 patches."""
    plans = PlansManager(prepared.plans("tiny"))
    folder = Path(prepared.preprocessed) / plans.get_configuration(request.param).data_identifier
    patch = PATCHES[request.param]
    return {
        "data": nnUNetDatasetBlosc2(str(folder), [f"liver_{index:03d}" for index in range(N_CASES)]),
        "batch_size": 40,
        "patch_size": patch,
        "final_patch_size": patch,
        "label_manager": plans.get_label_manager(prepared.dataset_json),
        "oversample_foreground_percent": 0.25,
    }


def batch(loader: Any, seed: int = 0) -> dict[str, Any]:
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    drawn: dict[str, Any] = loader.generate_train_batch()
    return drawn


def centres(loader: Any) -> Any:
    """The label in the centre of each patch of a batch, (40,)."""
    target = batch(loader)["target"].numpy()
    return target[(slice(None), 0, *(size // 2 for size in target.shape[2:]))]


@pytest.mark.parametrize("probabilistic", [False, True])
@pytest.mark.parametrize(
    ("evidence", "share"),
    [
        pytest.param(TUMOUR, 0.0, id="share of 0"),
        pytest.param(((5,),), 1.0, id="evidence of another organ"),
        pytest.param((), 1.0, id="no evidence"),
        pytest.param(((1,),), 1.0, id="a label that is part of a region"),
    ],
)
def test_other_patches_are_nnunets_bit_for_bit(
    arguments: dict[str, Any], evidence: Any, share: float, probabilistic: bool
) -> None:
    arguments["probabilistic_oversampling"] = probabilistic
    expected = batch(nnUNetDataLoader(**arguments))
    drawn = batch(EvidenceCropLoader(**arguments, evidence=evidence, share=share))
    assert list(drawn["keys"]) == list(expected["keys"])
    assert drawn["data"].equal(expected["data"])
    assert drawn["target"].equal(expected["target"])


def test_every_patch_is_centred_on_evidence(arguments: dict[str, Any]) -> None:
    stock = centres(nnUNetDataLoader(**arguments))
    assert np.mean(stock == 2) < 0.5
    assert np.all(centres(EvidenceCropLoader(**arguments, evidence=TUMOUR, share=1.0)) == 2)
    # the whole liver, its labels in any order
    organ = centres(EvidenceCropLoader(**arguments, evidence=((2, 1),), share=1.0))
    assert set(organ) == {1, 2}


def test_a_share_of_the_patches_is_centred_on_evidence(arguments: dict[str, Any]) -> None:
    loader = EvidenceCropLoader(**arguments | {"oversample_foreground_percent": 0.0}, evidence=TUMOUR, share=0.5)
    stock = nnUNetDataLoader(**arguments | {"oversample_foreground_percent": 0.0})
    centred = sum(np.count_nonzero(batch(loader, seed)["target"].numpy() == 2) for seed in range(3))
    by_chance = sum(np.count_nonzero(batch(stock, seed)["target"].numpy() == 2) for seed in range(3))
    assert centred > 1.3 * by_chance
    boxes = 0
    for _ in range(400):
        lower, _ = loader.get_bbox((400, 400, 400), False, {(2,): [[0, 200, 200, 200]]})
        boxes += lower[1:] == [200 - 4, 200 - 4]
    assert 160 < boxes < 240


def test_each_evidence_region_is_chosen(arguments: dict[str, Any]) -> None:
    loader = EvidenceCropLoader(**arguments, evidence=((2,), (4,), (5,)), share=1.0)
    locations = {(1, 2): [[0, 50, 50, 50]], 2: [[0, 100, 100, 100]], (4, 4): [[0, 200, 200, 200]], (5,): []}
    rows = [loader.get_bbox((400, 400, 400), False, locations)[0][1] + 4 for _ in range(60)]
    assert set(rows) == {100, 200}
    assert 15 < rows.count(100) < 45


def test_a_case_whose_locations_are_not_known_is_drawn_as_ever(arguments: dict[str, Any]) -> None:
    loader = EvidenceCropLoader(**arguments, evidence=TUMOUR, share=1.0)
    lower, upper = loader.get_bbox((40, 40, 40), False, None)
    assert [high - low for low, high in zip(lower, upper, strict=True)] == list(loader.patch_size)


def test_worker_processes_can_be_given_the_loader(arguments: dict[str, Any]) -> None:
    loader = EvidenceCropLoader(**arguments, evidence=TUMOUR, share=0.5)
    assert batch(pickle.loads(pickle.dumps(loader)))["target"].equal(batch(loader)["target"])


def test_labels_of_the_regions_that_questions_are_about() -> None:
    question = {"kind": "nominal", "classes": ["no", "yes"]}
    block: dict[str, Any] = {
        "version": 1,
        "tasks": {"organ": {"regions": ["organ", "tumour"]}, "spleen": {"regions": ["spleen"]}},
        "classification": {
            "malignant": question | {"evidence": "tumour"},
            "fatty": question | {"evidence": "organ"},
            "grade": question | {"evidence": "tumour"},
            "contrast": question,
        },
    }
    labels = {"background": 0, "organ": [2, 1], "tumour": 2, "spleen": [3, 3]}
    tasks = TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 2, 3], "nnunet_mtl": block})
    assert evidence_labels(tasks) == ((2,), (1, 2))
