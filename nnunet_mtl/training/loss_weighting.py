"""Builds the weighting of the loss terms from the settings, and optimises, saves and restores its weights."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from nnunet_mtl.losses.weighting import (
    DynamicWeightAverage,
    EqualWeights,
    FixedWeights,
    KendallWeights,
    LiebelKoernerWeights,
    LossWeighting,
    fixed_factors,
)
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.gradient_aggregation import METHODS, GradientAggregation, refuse_processes

STATE = "nnunet_mtl_loss_weighting"
BODY, HEAD, WEIGHTS = "body", "classification head", "loss weights"
# Largest gradient norm by group of parameters: nnU-Net's 12 for the body, 1 for the other groups. Groups are clipped
# apart, so that a large gradient of the classification head or of a loss weight does not shrink that of the body.
CLIP_GRADIENT_NORM = {BODY: 12.0, HEAD: 1.0, WEIGHTS: 1.0}


def build_weighting(settings: Settings, terms: Sequence[str], *, distributed: bool = False) -> LossWeighting:
    """Return the weighting that the settings name.

    Args:
        settings: Settings of the run.
        terms: Names of the terms of the loss.
        distributed: Whether the training is spread over processes.

    Raises:
        LossWeightingError: If fixed weights name other terms.
        GradientAggregationError: If the method aggregates gradients, and its package is not installed or the training
            is spread over processes.
    """
    if settings.loss_weighting in METHODS:
        if distributed:
            refuse_processes(settings.loss_weighting)
        return GradientAggregation(terms, settings.loss_weighting)
    if settings.loss_weighting == "fixed":
        return FixedWeights(terms, fixed_factors(settings.loss_weights, terms))
    if settings.loss_weighting == "dwa":
        return DynamicWeightAverage(terms, settings.dwa_temperature)
    if settings.loss_weighting == "kendall":
        return KendallWeights(terms)
    if settings.loss_weighting == "liebel_koerner":
        return LiebelKoernerWeights(terms)
    return EqualWeights(terms)


def group_parameters(
    optimizer: Any, schedule: Any, head: Sequence[nn.Parameter], weighting: LossWeighting, settings: Settings
) -> Any:
    """Split nnU-Net's one group of parameters into body, classification head and loss weights.

    Args:
        optimizer: nnU-Net's optimiser; changed in place.
        schedule: nnU-Net's learning rate schedule, which sets the same learning rate for every group.
        head: Parameters of the classification head; empty without questions.
        weighting: The weights of the terms of the loss.
        settings: Settings of the run.

    Returns:
        The schedule; with learned weights, a schedule that scales their learning rate by `loss_weight_lr`.
    """
    (group,) = optimizer.param_groups
    group["name"] = BODY
    if head:
        group["params"] = [value for value in group["params"] if all(value is not other for other in head)]
        options = {name: value for name, value in group.items() if name != "params"}
        changes = {"name": HEAD, "weight_decay": settings.class_weight_decay}
        optimizer.add_param_group({**options, **changes, "params": list(head)})
    return _optimise_weights(optimizer, schedule, weighting, settings.loss_weight_lr)


def _optimise_weights(optimizer: Any, schedule: Any, weighting: LossWeighting, lr_factor: float) -> Any:
    """Add the weights to the optimiser as a group, and save and restore their state with the optimiser's state.

    The group has no weight decay, which would pull the weights towards 1, and no momentum: with nnU-Net's 0.99 a weight
    swings about its optimum for hundreds of steps. Its learning rate is `lr_factor` times that of the network.
    """
    _keep_with(optimizer, weighting)
    learned = list(weighting.parameters())
    if not learned:
        return schedule
    options = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    changes = {"name": WEIGHTS, "weight_decay": 0.0, "momentum": 0.0, "lr_factor": lr_factor}
    optimizer.add_param_group({**options, **changes, "params": learned})
    return FactoredSchedule(schedule)


class FactoredSchedule:
    """nnU-Net's schedule, followed by a multiplication of a group's learning rate by its `lr_factor`, if it has one.

    Args:
        schedule: nnU-Net's schedule, which sets one learning rate for all groups.
    """

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rates of an epoch, counted from 0."""
        self.schedule.step(current_step)
        for group in self.schedule.optimizer.param_groups:
            group["lr"] *= group.get("lr_factor", 1.0)


def clip_gradients(optimizer: Any) -> None:
    """Clip the gradient of every group of parameters to the norm in `CLIP_GRADIENT_NORM`."""
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], CLIP_GRADIENT_NORM[group["name"]])


def _keep_with(optimizer: Any, weighting: LossWeighting) -> None:
    """Save and restore the state of the weighting with the optimiser's state, which nnU-Net saves and restores.

    Neither the optimiser's nor the network's own state holds the values of the weights or the losses of past epochs.
    """

    def write(_: Any, state: dict[str, Any]) -> None:
        if values := dict(weighting.state_dict()):
            state[STATE] = {name: value.detach().cpu().clone() for name, value in values.items()}

    def read(optimizer: Any, state: dict[str, Any]) -> None:
        if STATE in state:
            weighting.load_state_dict(state[STATE])
        # older checkpoints have groups without names
        names = [group["name"] for group in optimizer.param_groups]
        if len(names) == len(state["param_groups"]):
            state["param_groups"] = [
                {"name": name, **group} for name, group in zip(names, state["param_groups"], strict=True)
            ]

    optimizer.register_state_dict_post_hook(write)
    optimizer.register_load_state_dict_pre_hook(read)
