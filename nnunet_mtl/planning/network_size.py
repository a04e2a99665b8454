"""A smaller or larger U-Net than nnU-Net planned, its topology derived by nnU-Net's own rule."""

import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_mtl.planning.folders import PlanningError

# As in nnU-Net's planner: no edge of the bottleneck is shorter than this, and pooling has no other limit.
_MIN_FEATURE_MAP_EDGE = 4
_NO_LIMIT = 999999
# Encoder depth per stage: plain plans, residual-encoder plans.
_ENCODER_DEPTHS = ("n_conv_per_stage", "n_blocks_per_stage")


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """The size of a network; None keeps what nnU-Net planned.

    Attributes:
        patch_size: Patch in voxels, in the axis order of the plans (after nnU-Net's transposition).
        batch_size: Patches per batch.
        features_per_stage: Channels of every encoder stage, highest resolution first. The network has at most as many
            stages as there are numbers, and fewer if the patch size and spacing allow fewer.
    """

    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    features_per_stage: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("patch_size", "batch_size", "features_per_stage"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(not isinstance(number, int) or isinstance(number, bool) or number < 1 for number in numbers):
                raise PlanningError(f"{name}={value!r} must hold whole numbers of at least 1")
        if self.features_per_stage is not None and len(self.features_per_stage) < 2:
            raise PlanningError(f"features_per_stage={self.features_per_stage!r} must have at least 2 numbers")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be changed."""
        return self == NetworkSize()

    def changes(self, configuration: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Return the keys of a configuration that change, with their new values.

        Args:
            configuration: A configuration of plans, inheritance resolved.
            source: Name of the configuration, for messages.

        Raises:
            PlanningError: If the patch size has another number of axes or is not divisible, or the patch is too small
                for the number of stages.
        """
        changed: dict[str, Any] = {}
        if self.batch_size is not None:
            changed["batch_size"] = self.batch_size
        if self.patch_size is None and self.features_per_stage is None:
            return changed
        patch_size = tuple(configuration["patch_size"] if self.patch_size is None else self.patch_size)
        spacing = configuration["spacing"]
        if len(patch_size) != len(spacing):
            raise PlanningError(f"{source}: patch_size={_shown(patch_size)} must have {len(spacing)} numbers")
        n_stages = self._n_stages(configuration, patch_size, source)
        architecture = deepcopy(configuration["architecture"])
        arch_kwargs = architecture["arch_kwargs"]
        strides, kernel_sizes = _topology(spacing, patch_size, n_stages)
        depth = next(name for name in _ENCODER_DEPTHS if name in arch_kwargs)
        arch_kwargs.update(
            {
                "n_stages": n_stages,
                "features_per_stage": list(self.features_per_stage or arch_kwargs["features_per_stage"][:n_stages]),
                "kernel_sizes": kernel_sizes,
                "strides": strides,
                depth: _resized(arch_kwargs[depth], n_stages),
                "n_conv_per_stage_decoder": _resized(arch_kwargs["n_conv_per_stage_decoder"], n_stages - 1),
            }
        )
        return {**changed, "patch_size": list(patch_size), "architecture": architecture}

    def _n_stages(self, configuration: Mapping[str, Any], patch_size: tuple[int, ...], source: str) -> int:
        """Return how many stages the network has with this patch size."""
        spacing = configuration["spacing"]
        planned = configuration["architecture"]["arch_kwargs"]["features_per_stage"]
        max_stages = len(self.features_per_stage or planned)
        n_stages = len(_topology(spacing, patch_size, max_stages)[0])
        needed = len(self.features_per_stage or (1, 1))
        if n_stages < needed:
            raise PlanningError(
                f"{source}: a patch of {_shown(patch_size)} at spacing {_shown(spacing)} mm can be pooled to {n_stages}"
                f" of the {needed} stages; give a larger patch_size or a shorter features_per_stage"
            )
        _require_divisible(spacing, patch_size, max_stages, source)
        return n_stages


def _topology(
    spacing: Sequence[float], patch_size: Sequence[int], max_stages: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return strides and kernel sizes of every stage, highest resolution first."""
    _, strides, kernel_sizes, _, _ = get_pool_and_conv_props(spacing, patch_size, _MIN_FEATURE_MAP_EDGE, _NO_LIMIT)
    n_stages = min(len(strides), max_stages)
    # The planner's bottleneck convolves over every axis; if stages are cut, the last remaining stage is the bottleneck.
    kernels = [*kernel_sizes[: n_stages - 1], kernel_sizes[-1]]
    return [list(stride) for stride in strides[:n_stages]], [list(kernel) for kernel in kernels]


def _divisors(spacing: Sequence[float], patch_size: Sequence[int], max_stages: int) -> tuple[int, ...]:
    strides, _ = _topology(spacing, patch_size, max_stages)
    return tuple(prod(axis) for axis in zip(*strides, strict=True))


def _is_divisible(spacing: Sequence[float], patch_size: Sequence[int], max_stages: int) -> bool:
    divisors = _divisors(spacing, patch_size, max_stages)
    return all(edge % divisor == 0 for edge, divisor in zip(patch_size, divisors, strict=True))


def _require_divisible(spacing: Sequence[float], patch_size: Sequence[int], max_stages: int, source: str) -> None:
    if _is_divisible(spacing, patch_size, max_stages):
        return
    divisors = _divisors(spacing, patch_size, max_stages)
    # Rounding an edge can change how often the edge is pooled, so a rounded patch is checked again.
    roundings = itertools.product(
        *(
            {edge // divisor * divisor, -(-edge // divisor) * divisor}
            for edge, divisor in zip(patch_size, divisors, strict=True)
        )
    )
    allowed = [patch for patch in roundings if min(patch) > 0 and _is_divisible(spacing, patch, max_stages)]
    nearest = min(allowed, key=lambda patch: (sum(abs(a - b) for a, b in zip(patch, patch_size, strict=True)), patch))
    raise PlanningError(
        f"{source}: patch_size={_shown(patch_size)} must be divisible by {_shown(divisors)}; "
        f"the nearest multiple is {_shown(nearest)}"
    )


def _resized(depths: int | Sequence[int], length: int) -> int | list[int]:
    """Return the planner's depths for another number of stages: cut, or continued with the last depth."""
    if isinstance(depths, int):
        return depths
    return [*depths, *[depths[-1]] * length][:length]


def _shown(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
