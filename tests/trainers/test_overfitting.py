"""Every joint method learns one batch by heart: its tasks, and its question in the same steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.trainers.nnUNetTrainerACSNet import nnUNetTrainerACSNet
from nnunet_mtl.trainers.nnUNetTrainerCTAN import nnUNetTrainerCTAN
from nnunet_mtl.trainers.nnUNetTrainerHPS import nnUNetTrainerHPS
from nnunet_mtl.trainers.nnUNetTrainerMAMTLN import nnUNetTrainerMAMTLN
from nnunet_mtl.trainers.nnUNetTrainerMTAN import nnUNetTrainerMTAN
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet

pytestmark = pytest.mark.slow

QUESTION = {"nodes": {"kind": "nominal", "classes": ["negative", "positive"]}}
KEYS = ("liver_000", "kidney_001")
LEARNING = {"initial_lr": 0.05, "momentum": 0.9, "class_dropout": 0.0, "class_warmup": 0.0}
STEPS = 50  # no term is left with more than a tenth of its first value, with several seeds
METHODS: list[tuple[Any, dict[str, Any]]] = [
    (nnUNetTrainerHPS, {}),
    (nnUNetTrainerMTAN, {}),
    (nnUNetTrainerMTAN, {"mtan_form": "resnet"}),
    (nnUNetTrainerCTAN, {}),
    (nnUNetTrainerMAMTLN, {"pyramid_width": 8}),
    (nnUNetTrainerMAMTLN, {"pyramid_width": 8, "loss": "published"}),  # whose sums weigh far more than the answer
    (nnUNetTrainerACSNet, {}),
    (nnUNetTrainerOMNet, {"curriculum": False}),  # which keeps the tumours back for a third of the epochs
]


def built(prepared: Any, kind: Any, **settings: Any) -> Any:
    """The trainer on three tasks and a question without evidence, answered otherwise for each case of the batch."""
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    ours = dataset_json["nnunet_mtl"]
    ours["classification"] = QUESTION
    for case in ours["cases"].values():
        case.pop("classes", None)
    for key, answer in zip(KEYS, QUESTION["nodes"]["classes"], strict=True):
        ours["cases"][key]["classes"] = {"nodes": answer}
    plans = prepared.plans("tiny")
    plans["nnunet_mtl"]["settings"] |= LEARNING | settings
    # with four channels some tasks are learnt much later
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [8, 16, 16]
    torch.manual_seed(0)
    trainer = kind(plans, "2d", 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_epoch_start()
    return trainer


def batch_of(trainer: Any) -> dict[str, Any]:
    """Noise, a large liver on top of one image and a small kidney at the bottom of the other, half of each a tumour."""
    patch = trainer.configuration_manager.patch_size
    sizes = [
        [round(edge * scale) for edge, scale in zip(patch, scales, strict=True)]
        for scales in trainer._get_deep_supervision_scales()
    ]
    targets = [torch.zeros(2, 5, *size, dtype=torch.bool) for size in sizes]
    for target in targets:
        half = target.shape[-1] // 2
        target[0, 0, :half], target[0, 1, :half, :half] = True, True
        target[1, 2, -half // 2 :], target[1, 3, -half // 2 :, :half] = True, True
    noise = torch.randn(2, 1, *patch, generator=torch.Generator().manual_seed(0))
    return {"data": noise + 3 * targets[0].sum(1, keepdim=True), "target": targets, "keys": np.array(KEYS)}


@pytest.mark.parametrize(("kind", "settings"), METHODS)
def test_one_batch_is_learnt_by_heart(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    trainer = built(prepared, kind, **settings)
    batch = batch_of(trainer)
    numbers = [trainer.train_step(batch) for _ in range(STEPS)]
    learnt = {term for term in trainer.terms.names if numbers[0][f"present/{term}"]}
    assert learnt >= {"segmentation/liver", "segmentation/kidney", "classification/nodes"}
    for term in learnt:
        first, last = (float(step[f"loss/{term}"]) for step in (numbers[0], numbers[-1]))
        assert last < 0.25 * first, term
