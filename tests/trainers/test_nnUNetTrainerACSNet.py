"""ACSNet as it is trained: its parts by setting, its terms of the loss, its weights of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.losses.weighting import EqualWeights
from nnunet_mtl.networks.acsnet.channel_attention_head import ChannelAttentionHead
from nnunet_mtl.networks.acsnet.deformable_attention import DeformableAttention, PlainAttention
from nnunet_mtl.networks.acsnet.gate_unit import GateAfterNorm, GateUnit
from nnunet_mtl.networks.classification import BottleneckHead, EvidenceHead, NoClassification
from nnunet_mtl.networks.off_parts import NoStageAttention
from nnunet_mtl.trainers.nnUNetTrainerACSNet import nnUNetTrainerACSNet

pytestmark = pytest.mark.slow

QUESTION = {"malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"}}
Build = Callable[..., Any]


@pytest.fixture
def build(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds the trainer on three tasks and a question about one of them."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def build(*, question: bool = True, n_tasks: int = 0, **settings: Any) -> Any:
        dataset_json = json.loads(json.dumps(prepared.dataset_json))
        ours = dataset_json["nnunet_mtl"]
        if n_tasks:  # of one region each
            names = ["liver_tumour", *(f"organ{number}" for number in range(1, n_tasks))]
            labels = {name: [label, label] for label, name in enumerate(names, start=1)}
            dataset_json |= {"labels": {"background": 0, **labels}, "regions_class_order": [*range(1, n_tasks + 1)]}
            ours["tasks"] = {name: {"regions": [name]} for name in names}
            for case in ours["cases"].values():
                case["annotated"] = names
        ours.pop("classification", None)
        for case in ours["cases"].values():
            case.pop("classes", None)
        if question:
            ours["classification"] = QUESTION
            ours["cases"]["liver_000"]["classes"] = {"malignancy": "malignant"}
        plans = prepared.plans("tiny")
        plans["nnunet_mtl"]["settings"] |= settings
        torch.manual_seed(0)
        trainer = nnUNetTrainerACSNet(plans, "2d", 0, dataset_json, torch.device("cpu"))
        trainer.initialize()
        trainer.on_train_epoch_start()
        return trainer

    return build


def batch_of(trainer: Any) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    patch = trainer.configuration_manager.patch_size
    sizes = [
        [round(edge * scale) for edge, scale in zip(patch, scales, strict=True)]
        for scales in trainer._get_deep_supervision_scales()
    ]
    keys = np.array(["liver_000", "kidney_001"])
    regions = len(trainer.tasks.task_of_region)
    targets = [torch.rand(2, regions, *size, generator=rng) > 0.7 for size in sizes]
    return {"data": torch.randn(2, 1, *patch, generator=rng), "target": targets, "keys": keys}


@pytest.mark.parametrize(
    ("settings", "gate", "attention", "head"),
    [
        ({}, GateUnit, DeformableAttention, ChannelAttentionHead),
        ({"gate_unit": "after_norm"}, GateAfterNorm, DeformableAttention, ChannelAttentionHead),
        ({"gate_unit": "none"}, NoStageAttention, DeformableAttention, ChannelAttentionHead),
        ({"deformable_attention": "plain"}, GateUnit, PlainAttention, ChannelAttentionHead),
        ({"deformable_attention": "none"}, GateUnit, NoStageAttention, ChannelAttentionHead),
        ({"class_weight": 0.0}, GateUnit, DeformableAttention, NoClassification),
        ({"class_head": "bottleneck"}, GateUnit, DeformableAttention, BottleneckHead),
        ({"class_head": "evidence"}, GateUnit, DeformableAttention, EvidenceHead),
    ],
)
def test_each_part_is_a_setting(build: Build, settings: dict[str, Any], gate: Any, attention: Any, head: Any) -> None:
    trainer = build(**settings)
    network = trainer.bare_network
    assert {type(part) for part in network.encoder_attention} == {gate}
    assert {type(part) for part in network.decoder_attention} == {attention}
    assert type(network.classification) is head
    assert np.isfinite(trainer.train_step(batch_of(trainer))["loss"])


def test_how_many_stages_have_attention_is_a_setting(build: Build) -> None:
    for wanted, found in ((1, 1), (2, 2), (50, None)):
        levels = build(deformable_stages=wanted).bare_network.decoder_attention
        with_attention = sum(bool(list(level.parameters())) for level in levels)
        assert with_attention == (len(levels) if found is None else found)


def test_every_task_and_question_is_a_term_with_a_learned_weight(build: Build) -> None:
    trainer = build()
    tasks = [f"segmentation/{task.name}" for task in trainer.tasks.tasks]
    assert list(trainer.terms.names) == [*tasks, "classification/malignancy"]
    assert trainer.settings.loss_weighting == "liebel_koerner"
    before = trainer.weighting.log_variance.detach().clone()
    values = trainer.train_step(batch_of(trainer))
    assert not torch.equal(trainer.weighting.log_variance, before)
    assert values["loss/classification/malignancy"] > 0
    assert values["present/classification/malignancy"] == 1
    assert isinstance(build(loss_weighting="equal").weighting, EqualWeights)


def test_the_published_loss_has_no_cross_entropy_over_voxels(build: Build) -> None:
    trainer = build(bce_weight=0.0, deep_supervision=True)
    values = trainer.train_step(batch_of(trainer))
    with_entropy = build().train_step(batch_of(trainer))
    assert 0 < values["loss/segmentation/liver"] <= 1  # a Dice alone
    assert with_entropy["loss/segmentation/liver"] > values["loss/segmentation/liver"]


def test_without_a_question_it_segments(build: Build) -> None:
    trainer = build(question=False)
    assert type(trainer.bare_network.classification) is NoClassification
    assert np.isfinite(trainer.train_step(batch_of(trainer))["loss"])


@pytest.mark.parametrize("n_tasks", [1, 2, 7])
def test_any_number_of_tasks_is_learnt(build: Build, n_tasks: int) -> None:
    trainer = build(n_tasks=n_tasks)
    numbers = trainer.train_step(batch_of(trainer))
    assert len(trainer.terms.names) == n_tasks + 1
    for term in trainer.terms.names:
        assert numbers[f"present/{term}"] == 1
        assert 0 < numbers[f"loss/{term}"] < np.inf
    assert np.isfinite(numbers["loss"])
    with torch.no_grad():
        assert trainer.network.eval()(batch_of(trainer)["data"]).shape == (2, n_tasks, 16, 16)


def test_the_offsets_move_in_training_and_start_at_zero(build: Build) -> None:
    trainer = build()
    predictors = [value for name, value in trainer.network.named_parameters() if ".predict." in name]
    assert predictors
    assert not any(value.any() for value in predictors)
    trainer.train_step(batch_of(trainer))
    assert all(value.any() for value in predictors)
