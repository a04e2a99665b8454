"""Weights of the loss terms in a real trainer: optimised, scheduled, logged, saved, and resumed to the bit."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.losses.weighting import DynamicWeightAverage, EqualWeights, LiebelKoernerWeights, LossWeightingError
from nnunet_mtl.tasks.settings import Settings, SettingsError
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerMultiHead import nnUNetTrainerMultiHead
from nnunet_mtl.training.gradient_aggregation import METHODS, GradientAggregation, GradientAggregationError
from nnunet_mtl.training.loss_weighting import BODY, HEAD, STATE, WEIGHTS, build_weighting
from nnunet_mtl.training.segmentation_loss import LabelCriterion

CPU = torch.device("cpu")
TERMS = (
    "segmentation/liver",
    "segmentation/kidney",
    "segmentation/spleen",
    "classification/malignancy",
    "classification/severity",
)
# What else is drawn at random in a step: dropout, hidden evidence, tasks of samples.
STILL = {"class_dropout": 0.0, "own_evidence": 0.0, "class_draws": 0.0, "class_warmup": 0.0}


@pytest.fixture(autouse=True)
def _results(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))


def make(prepared: Any, weighting: str, cls: Any = nnUNetTrainerMTLAttention, **settings: Any) -> Any:
    plans = prepared.plans("tiny") | {"plans_name": f"tiny_{weighting}"}  # a results folder for each
    plans["nnunet_mtl"]["settings"] |= {"loss_weighting": weighting, **STILL, **settings}
    torch.manual_seed(0)
    trainer = cls(plans, "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), CPU)
    trainer.initialize()
    return trainer


def batches(trainer: Any, seed: int) -> list[dict[str, Any]]:
    """Two batches in which every task is taught: a loader's, whose order a resumed run would not repeat."""
    generator = torch.Generator().manual_seed(seed)
    scales = [torch.rand(2, 5, *size, generator=generator) < 0.3 for size in ((16,) * 3, (8,) * 3)]
    outputs = len(trainer._get_deep_supervision_scales())
    return [
        {"data": torch.randn(2, 1, 16, 16, 16, generator=generator), "target": scales[:outputs], "keys": keys}
        for keys in (["liver_001", "kidney_000"], ["spleen_002", "liver_000"])
    ]


def epoch(trainer: Any) -> list[dict[str, Any]]:
    """Train as nnU-Net does in an epoch, without validation and figures."""
    trainer.on_train_epoch_start()
    steps = [trainer.train_step(batch) for batch in batches(trainer, trainer.current_epoch)]
    trainer.on_train_epoch_end(steps)
    trainer.current_epoch += 1
    return steps


def save(trainer: Any, path: Path) -> Path:
    """Save as nnU-Net does at the end of an epoch: before it counts it."""
    trainer.current_epoch -= 1
    trainer.save_checkpoint(str(path))
    trainer.current_epoch += 1
    return path


def log_of(trainer: Any) -> dict[str, list[Any]]:
    log: dict[str, list[Any]] = trainer.logger.local_logger.my_fantastic_logging
    return log


def groups(trainer: Any) -> dict[str, Any]:
    return {group["name"]: group for group in trainer.optimizer.param_groups}


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    state = {**trainer.network.state_dict(), **trainer.weighting.state_dict()}
    return {name: value.clone() for name, value in state.items()}


# ---- built from the settings


@pytest.mark.parametrize("name", get_args(get_type_hints(Settings)["loss_weighting"]))
def test_every_name_of_the_setting_builds_a_weighting(name: str) -> None:
    fixed = {"loss_weights": "liver=2"} if name == "fixed" else {}
    weighting = build_weighting(Settings(loss_weighting=name, **fixed), TERMS)  # type: ignore[arg-type]
    assert isinstance(weighting, GradientAggregation) == (name in METHODS)
    assert type(weighting) is not EqualWeights or name == "equal"
    assert tuple(weighting.weights()) == TERMS


def test_every_aggregation_is_a_value_of_the_setting() -> None:
    assert set(METHODS) < set(get_args(get_type_hints(Settings)["loss_weighting"]))


def test_the_temperature_is_a_setting() -> None:
    built = build_weighting(Settings(loss_weighting="dwa", dwa_temperature=7.0), TERMS)
    assert isinstance(built, DynamicWeightAverage)
    assert built.temperature == 7.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss_weighting": "fixed"}, "loss_weights='none' must be NAME=WEIGHT,NAME=WEIGHT where loss_weighting=fixed"),
        ({"loss_weights": "liver=1"}, "loss_weights='liver=1' must be none where loss_weighting=equal"),
        ({"loss_weighting": "uncertainty"}, "loss_weighting='uncertainty' must be one of equal, fixed, kendall"),
        ({"loss_weight_lr": 0}, "loss_weight_lr=0.0 must be positive and finite"),
        ({"dwa_temperature": -1}, "dwa_temperature=-1.0 must be positive and finite"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_mapping(values, "plans.json")
    assert message in str(error.value)


def test_fixed_weights_of_what_is_no_task_are_refused_by_the_trainer(prepared: Any) -> None:
    with pytest.raises(LossWeightingError, match="one of liver, kidney, spleen, malignancy, severity"):
        make(prepared, "fixed", loss_weights="lung=1")


# ---- equal weights leave everything as it was


def test_equal_weights_add_no_group_no_state_and_no_curve(prepared: Any) -> None:
    trainer = make(prepared, "equal")
    assert list(groups(trainer)) == [BODY, HEAD]
    assert STATE not in trainer.optimizer.state_dict()
    epoch(trainer)
    assert not [key for key in log_of(trainer) if key.startswith("weight/")]
    assert trainer.terms.names == ("segmentation", "classification")


# ---- learned weights


@pytest.mark.parametrize("cls", [nnUNetTrainerMTLAttention, nnUNetTrainerMultiHead])
def test_a_run_continues_to_the_bit(cls: Any, prepared: Any, tmp_path: Path) -> None:
    straight = make(prepared, "liebel_koerner", cls)
    start = weights_of(straight)
    epoch(straight)
    save(straight, tmp_path / "first.pth")
    middle = weights_of(straight)
    epoch(straight)
    resumed = make(prepared, "liebel_koerner", cls)
    resumed.load_checkpoint(str(tmp_path / "first.pth"))
    loaded = weights_of(resumed)
    assert all(torch.equal(loaded[name], middle[name]) for name in middle)
    epoch(resumed)
    ours, theirs = weights_of(straight), weights_of(resumed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    sigma = ours["log_variance"]
    assert (sigma != start["log_variance"]).all()
    assert (sigma != middle["log_variance"]).all()
    for key in [key for key in log_of(straight) if key.startswith(("loss/", "weight/"))]:
        assert log_of(straight)[key] == log_of(resumed)[key]


def test_dynamic_weights_continue_too(prepared: Any, tmp_path: Path) -> None:
    straight, resumed = make(prepared, "dwa"), make(prepared, "dwa")
    epoch(straight)
    assert set(straight.weighting.weights().values()) == {1.0}
    save(straight, tmp_path / "first.pth")
    resumed.load_checkpoint(str(tmp_path / "first.pth"))
    for trainer in (straight, resumed):
        epoch(trainer)
    assert straight.weighting.weights() == resumed.weighting.weights()
    assert len(set(straight.weighting.weights().values())) == 5


def test_the_epoch_means_of_what_was_taught_are_what_dynamic_weights_see(prepared: Any) -> None:
    trainer = make(prepared, "dwa")
    steps = epoch(trainer)
    seen = dict(zip(TERMS, trainer.weighting.history[1].tolist(), strict=True))
    assert seen["segmentation/spleen"] == pytest.approx(float(steps[1]["loss/segmentation/spleen"]))
    both = [float(step["loss/segmentation/liver"]) for step in steps]
    assert seen["segmentation/liver"] == pytest.approx(sum(both) / 2)
    assert log_of(trainer)["weight/segmentation/liver"] == [1.0]


def test_an_epoch_without_a_task_tells_dynamic_weights_nothing(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(prepared, "dwa")
    monkeypatch.setattr(trainer.terms, "present", lambda *_, **__: {term: term != TERMS[2] for term in TERMS})
    epoch(trainer)
    assert trainer.weighting.history[1].isnan().tolist() == [False, False, True, False, False]


def test_weights_are_a_group_without_decay_or_momentum_and_not_in_the_network(prepared: Any) -> None:
    trainer = make(prepared, "kendall", loss_weight_lr=10.0, weight_decay=0.1)
    assert list(groups(trainer)) == [BODY, HEAD, WEIGHTS]
    group = groups(trainer)[WEIGHTS]
    assert [id(parameter) for parameter in group["params"]] == [id(p) for p in trainer.weighting.parameters()]
    assert (group["weight_decay"], group["momentum"]) == (0.0, 0.0)
    assert groups(trainer)[BODY]["weight_decay"] == 0.1
    assert not [name for name in trainer.network.state_dict() if "variance" in name]
    for current in (0, 1):
        trainer.lr_scheduler.step(current)
        body = 0.01 * (1 - current / 2) ** 0.9
        assert groups(trainer)[BODY]["lr"] == pytest.approx(body)
        assert groups(trainer)[HEAD]["lr"] == pytest.approx(body)
        assert group["lr"] == pytest.approx(10 * body)


def test_every_group_is_clipped_by_its_own_norm(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(prepared, "liebel_koerner")
    norms: dict[str, float] = {}

    def stopped(*args: Any, **options: Any) -> None:
        for name, group in groups(trainer).items():
            gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            norms[name] = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())

    monkeypatch.setattr(trainer.optimizer, "step", stopped)
    monkeypatch.setattr(
        trainer.weighting,
        "factors",
        lambda log_variance: 1e5 * torch.exp(-log_variance),  # every gradient is too large
    )
    trainer.train_step(batches(trainer, 0)[0])
    assert norms == pytest.approx({BODY: 12.0, HEAD: 1.0, WEIGHTS: 1.0}, rel=1e-4)


def test_a_step_changes_only_the_weights_of_what_it_taught(prepared: Any) -> None:
    trainer = make(prepared, "liebel_koerner")
    trainer.train_step({**batches(trainer, 0)[0], "keys": ["spleen_001", "spleen_002"]})
    assert (trainer.weighting.log_variance != 0).tolist() == [False, False, True, False, False]


def test_the_state_travels_in_the_optimisers_and_holds_tensors_only(prepared: Any, tmp_path: Path) -> None:
    trainer = make(prepared, "liebel_koerner")
    epoch(trainer)
    torch.save(trainer.optimizer.state_dict(), tmp_path / "optimizer.pth")
    state = torch.load(tmp_path / "optimizer.pth", weights_only=True)
    assert torch.equal(state[STATE]["log_variance"], trainer.weighting.log_variance)
    # a snapshot: further training does not change it
    snapshot = trainer.optimizer.state_dict()[STATE]["log_variance"]
    before = snapshot.clone()
    epoch(trainer)
    assert torch.equal(snapshot, before)


def test_a_checkpoint_older_than_weights_and_names_is_resumed(prepared: Any, tmp_path: Path) -> None:
    trainer = make(prepared, "equal")
    epoch(trainer)
    path = save(trainer, tmp_path / "old.pth")
    checkpoint = torch.load(path, weights_only=False)
    for group in checkpoint["optimizer_state"]["param_groups"]:
        del group["name"]
    torch.save(checkpoint, path)
    resumed = make(prepared, "equal")
    resumed.load_checkpoint(str(path))
    assert list(groups(resumed)) == [BODY, HEAD]
    epoch(resumed)


def test_a_checkpoint_of_other_groups_is_refused_by_torch(prepared: Any) -> None:
    equal, learned = make(prepared, "equal"), make(prepared, "kendall")
    with pytest.raises(ValueError, match="different number of parameter groups"):
        learned.optimizer.load_state_dict(equal.optimizer.state_dict())


def test_values_are_logged_drawn_and_printed(prepared: Any) -> None:
    trainer = make(prepared, "liebel_koerner", epochs=5)
    trainer.on_epoch_start()
    epoch(trainer)
    trainer.current_epoch -= 1
    with torch.no_grad():
        trainer.on_validation_epoch_end([trainer.validation_step(batch) for batch in batches(trainer, 9)])
    trainer.on_epoch_end()
    log = log_of(trainer)
    for term, weight in trainer.weighting.weights().items():
        assert log[f"weight/{term}"] == [weight]
    assert Path(trainer.output_folder, "progress_mtl.png").is_file()
    text = Path(trainer.log_file).read_text()
    assert "Weights of the loss: segmentation/liver 0." in text
    trainer.logger.local_logger.my_fantastic_logging.pop("weight/segmentation/liver")
    trainer.monitor.pad(1)
    assert math.isnan(log["weight/segmentation/liver"][0])


def test_training_and_validation_loss_are_the_same_total(prepared: Any) -> None:
    trainer = make(prepared, "liebel_koerner")
    batch = batches(trainer, 0)[0]
    with torch.no_grad():
        trainer.network.train()
        validation = trainer.validation_step(batch)
    training = trainer.train_step(batch)
    assert float(training["loss"]) == pytest.approx(float(validation["loss"]), rel=1e-4)
    terms = [float(training[f"loss/{term}"]) for term in TERMS if training[f"present/{term}"]]
    assert float(training["loss"]) == pytest.approx(0.5 * sum(terms) + len(terms) * math.log(2), rel=1e-5)


# ---- a data set without regions


@pytest.mark.parametrize(("weighting", "offset"), [("equal", 0.0), ("liebel_koerner", 1.0), ("pcgrad", 1.0)])
def test_the_negative_dice_of_stock_losses_is_lifted_where_terms_are_weighted(
    weighting: str, offset: float, prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(prepared, weighting)
    monkeypatch.setattr(trainer.label_manager, "_has_regions", False)
    monkeypatch.setattr(trainer.label_manager, "_all_labels", [0, 1, 2])
    monkeypatch.setattr(trainer, "tasks", replace(trainer.tasks, has_regions=False))
    criterion = trainer._build_loss()
    assert isinstance(criterion, LabelCriterion)
    target = [torch.zeros(1, 1, *(size,) * 3) for size in (16, 8)]
    for scale in target:
        scale[..., : scale.shape[-1] // 2] = 1.0
    perfect = [30 * torch.cat([scale == 0, scale == 1, scale == 2], 1).float() - 15 for scale in target]
    value = float(criterion(perfect, target, torch.ones(1, 1, dtype=torch.bool)))
    assert value == pytest.approx(offset - 1, abs=1e-2)


# ---- aggregation


@pytest.mark.parametrize("method", ["pcgrad", "upgrad"])
def test_an_epoch_with_aggregated_gradients(method: str, prepared: Any) -> None:
    trainer = make(prepared, method)
    plain = make(prepared, "fixed", loss_weights="liver=1")
    for steps in (epoch(trainer), epoch(plain)):
        assert all(np.isfinite(step["loss"]) for step in steps)
    assert list(groups(trainer)) == [BODY, HEAD]
    assert STATE not in trainer.optimizer.state_dict()
    assert all(len(log_of(trainer)[f"weight/{term}"]) == 1 for term in TERMS)
    ours, theirs = trainer.network.state_dict(), plain.network.state_dict()
    assert any(not torch.allclose(ours[name], theirs[name]) for name in ours)


def test_aggregation_is_refused_where_processes_share_the_training(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = nnUNetTrainer.__init__

    def as_one_of_many(self: Any, *args: Any, **options: Any) -> None:
        started(self, *args, **options)
        self.is_ddp = True

    monkeypatch.setattr(nnUNetTrainer, "__init__", as_one_of_many)
    with pytest.raises(GradientAggregationError, match="train on one GPU") as error:
        make(prepared, "upgrad")
    assert "\n" not in str(error.value)


def test_aggregation_and_only_it_does_without_compiled_networks(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    aggregating = object.__new__(nnUNetTrainerMTLAttention)
    for method, compiled in (("pcgrad", False), ("liebel_koerner", True), ("equal", True)):
        aggregating.settings = Settings(loss_weighting=method)  # type: ignore[arg-type]
        assert aggregating._do_i_compile() is compiled
    monkeypatch.undo()


def test_a_weighting_that_does_nothing_would_be_seen(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal weights in its place no sigma moves, and the tests above fail."""
    trainer = make(prepared, "liebel_koerner")
    assert isinstance(trainer.weighting, LiebelKoernerWeights)
    trainer.weighting.forward = EqualWeights(TERMS).forward
    trainer.train_step(batches(trainer, 0)[0])
    assert (trainer.weighting.log_variance == 0).all()
