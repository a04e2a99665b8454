"""MA-MTLN as it is trained: its parts by setting, its outputs and their weights, its learned uncertainties."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.losses.partial import MaskedDiceBCELoss
from nnunet_mtl.networks.mamtln.jaccard_focal import JaccardFocalLoss
from nnunet_mtl.trainers.nnUNetTrainerMAMTLN import nnUNetTrainerMAMTLN
from nnunet_mtl.training.loss_weighting import HEAD

pytestmark = pytest.mark.slow

QUESTION = {"nodes": {"kind": "nominal", "classes": ["negative", "positive"]}}
PARTS = {point: parts[True][point] for point, parts in nnUNetTrainerMAMTLN.variants.items()}
Build = Callable[..., Any]


@pytest.fixture
def build(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds the trainer on three tasks, and a question without evidence unless told otherwise."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def build(
        *, question: bool = True, block: bool = True, softmax: bool = False, rare: bool = False, **settings: Any
    ) -> Any:
        dataset_json = json.loads(json.dumps(prepared.dataset_json))
        ours = dataset_json["nnunet_mtl"]
        ours.pop("classification", None)
        for case in ours["cases"].values():
            case.pop("classes", None)
        if question:
            ours["classification"] = QUESTION
            for index, case in enumerate(ours["cases"].values()):
                case["classes"] = {"nodes": QUESTION["nodes"]["classes"][index % (4 if rare else 2) == 1]}
        if not block:
            del dataset_json["nnunet_mtl"]
        if softmax:
            dataset_json |= {"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}}
            del dataset_json["regions_class_order"]
        plans = prepared.plans("tiny")
        plans["nnunet_mtl"]["settings"] |= {"pyramid_width": 8, **settings}
        torch.manual_seed(0)
        trainer = nnUNetTrainerMAMTLN(plans, "2d", 0, dataset_json, torch.device("cpu"))
        trainer.initialize()
        trainer.on_train_epoch_start()
        return trainer

    return build


def batch_of(trainer: Any, keys: tuple[str, ...] = ("liver_000", "kidney_001")) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    sizes = [(16, 16)] * 3 if trainer.enable_deep_supervision else [(16, 16)]
    if trainer.label_manager.has_regions:
        targets = [torch.rand(2, 5, *size, generator=rng) > 0.7 for size in sizes]
    else:
        targets = [torch.randint(0, 6, (2, 1, *size), generator=rng) for size in sizes]
    target = targets if trainer.enable_deep_supervision else targets[0]
    return {"data": torch.randn(2, 1, 16, 16, generator=rng), "target": target, "keys": np.array(keys)}


def sigma(trainer: Any) -> dict[str, float]:
    """Of Liebel's and Körner's weight 1 / (2 sigma^2)."""
    return {term: math.sqrt(1 / (2 * weight)) for term, weight in trainer.weighting.weights().items()}


def test_the_uncertainties_are_trained_and_come_back_with_the_checkpoint(build: Build, tmp_path: Path) -> None:
    """The released trainer leaves them out of its optimiser: there they stay 1 for ever."""
    trainer = build()
    organs = {f"segmentation/{organ}" for organ in ("liver", "kidney", "spleen")}
    assert set(trainer.weighting.weights()) == organs | {"classification/nodes"}
    assert sigma(trainer) == pytest.approx(dict.fromkeys(trainer.terms.names, 1.0))
    trainer.train_step(batch_of(trainer))
    after = sigma(trainer)
    taught = {term for term, value in after.items() if abs(value - 1) > 1e-6}
    assert taught == set(trainer.terms.names) - {"segmentation/spleen"}  # which nobody annotated in this batch
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    other = build()
    assert sigma(other) != pytest.approx(after)
    other.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert sigma(other) == pytest.approx(after)


def test_equal_weights_are_a_setting(build: Build) -> None:
    trainer = build(loss_weighting="equal")
    assert not list(trainer.weighting.parameters())
    numbers = trainer.train_step(batch_of(trainer))
    terms = [float(numbers[f"loss/{term}"]) for term in trainer.terms.names]
    assert float(numbers["loss"]) == pytest.approx(sum(terms), rel=1e-5)


@pytest.mark.parametrize("point", PARTS)
def test_every_part_is_a_setting(build: Build, point: str) -> None:
    def kind(trainer: Any) -> str:
        network = trainer.bare_network
        of = {
            "visual_attention": lambda: network.decoder.pyramid.visual_attention[0],
            "adaptive_attention": lambda: network.decoder.adaptive_attention[0],
            "segmentation_aware": lambda: network.decoder.segmentation_aware,
            "classification_aware": lambda: network.classification_aware,
        }
        return type(of[point]()).__name__

    on, off = build(), build(**{point: False})
    assert kind(on) == PARTS[point].rpartition(".")[2]
    assert kind(off).startswith("No")
    assert np.isfinite(off.train_step(batch_of(off))["loss"])
    assert not [name for name, value in off.network.named_parameters() if value.grad is None]


def test_the_numbers_of_the_pyramid_are_settings(build: Build) -> None:
    network = build(pyramid_width=6, pyramid_levels=1, adaptive_output="alone").bare_network
    assert network.n_levels == 1
    assert network.decoder.seg_layers[0].in_channels == 6
    assert not network.decoder.adaptive_attention[0].multiplies


def test_outputs_and_weights_of_the_two_supervised_paths(build: Build) -> None:
    """0.8 before the attention, 0.9 behind it, 1 for the last branch, all at full resolution: weighted by hand."""
    trainer = build(question=False, loss_weighting="equal")
    assert trainer._get_deep_supervision_scales() == [[1.0, 1.0]] * 3
    batch = batch_of(trainer)
    trainer.network.eval()
    with torch.no_grad():
        output, target, known, losses = trainer._forward(batch, training=False)
        one = trainer.loss.loss.loss
        by_hand = sum(
            weight * one(logits, truth, known.annotated & torch.tensor([True, True, False, False, False]))
            for weight, logits, truth in zip((1.0, 0.9, 0.8), output.segmentation, target, strict=True)
        )
    first = trainer.tasks.tasks[0].name
    assert float(losses[f"segmentation/{first}"]) == pytest.approx(float(by_hand), rel=1e-5)


def test_without_stage_wise_supervision_the_last_branch_is_all_that_is_supervised(build: Build) -> None:
    trainer = build(deep_supervision=False)
    assert np.isfinite(trainer.train_step(batch_of(trainer))["loss"])
    without = {name for name, value in trainer.network.named_parameters() if value.grad is None}
    assert not without
    unused = trainer.network.decoder.fuse1.parameters()
    assert all(float(value.grad.abs().sum()) == 0 for value in unused)


def test_the_answers_loss_is_that_of_the_released_code_unless_settings_say_otherwise(build: Build) -> None:
    """Unweighted cross-entropy, the L2 penalty of all its weights, no dropout; by default answers have others."""

    def of(trainer: Any) -> tuple[list[float], float, float]:
        (penalty,) = (group["weight_decay"] for group in trainer.optimizer.param_groups if group["name"] == HEAD)
        trainer.get_tr_and_val_datasets()
        weights = trainer.image_level._loss._class_weights_0.tolist()
        return weights, penalty, trainer.bare_network.classification.dropout.p

    assert of(build(rare=True)) == ([1.0, 1.0], 2e-5, 0.0)
    weights, *others = of(build(rare=True, class_balance="inverse", class_weight_decay=0.001, class_dropout=0.2))
    assert weights[0] != weights[1]
    assert others == [0.001, 0.2]


def test_the_published_loss_is_a_setting(build: Build) -> None:
    def kind(trainer: Any) -> type:
        return type(trainer.loss.loss.loss)

    published = build(loss="published")
    assert kind(published) is JaccardFocalLoss
    assert kind(build()) is MaskedDiceBCELoss
    numbers = published.train_step(batch_of(published))
    assert all(float(numbers[f"loss/{term}"]) >= 0 for term in published.terms.names)


@pytest.mark.parametrize("loss", ["nnunet", "published"])
def test_its_liver_tumour_form_segments_alone(build: Build, loss: str) -> None:
    trainer = build(question=False, loss=loss)
    assert not list(trainer.bare_network.classification_aware.parameters())
    before = sigma(trainer)
    assert np.isfinite(trainer.train_step(batch_of(trainer))["loss"])
    assert sigma(trainer) != pytest.approx(before)
    assert not [name for name, value in trainer.network.named_parameters() if value.grad is None]


def test_a_data_set_without_our_block_trains_with_nnunets_softmax_too(build: Build) -> None:
    """Its labels are exclusive, its Dice is -Dice: the term is lifted by what three outputs weigh together."""
    trainer = build(question=False, block=False, softmax=True)
    assert trainer.loss.loss.weight_factors == (1.0, 0.9, 0.8)
    assert trainer.loss.offset == pytest.approx(2.7)
    numbers = trainer.train_step(batch_of(trainer))
    (term,) = trainer.terms.names
    assert float(numbers[f"loss/{term}"]) >= 0
    assert not [name for name, value in trainer.network.named_parameters() if value.grad is None]
    assert build(question=False, block=False, softmax=True, loss_weighting="equal").loss.offset == 0


@pytest.mark.parametrize("head", ["own", "evidence", "bottleneck"])
def test_a_question_without_evidence_is_answered_by_every_head(build: Build, head: str) -> None:
    trainer = build(class_head=head)
    numbers = trainer.train_step(batch_of(trainer))
    assert float(numbers["present/classification/nodes"]) == 1
    assert float(numbers["loss/classification/nodes"]) > 0
    assert not [name for name, value in trainer.network.named_parameters() if value.grad is None]
