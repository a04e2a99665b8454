"""Heads of nested tasks (a core inside a whole): the prediction of a task guides the task inside it. After OM-Net.

Source: Zhou, Ding, Wang, Lu, Tao, One-pass multi-task networks with cross-task guided attention for brain tumor
segmentation, IEEE TIP 2020, and its released code, re-implemented from equations.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nnunet_mtl.common.messages import shown
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.heads import RegionHead
from nnunet_mtl.networks.layout import Layout

Guidance = Literal["cga", "se", "plain"]
WIDTH = 32
"""Most channels inside a task's head: those of the published one; coarser scales of nnU-Net have up to ten times as
many features, and heads as wide would weigh more than the decoder."""
REDUCTION = 4  # of the hidden layer of squeeze-and-excitation


class NestedHead(RegionHead):
    """A head for every task at every scale. A parent task guides its children; in prediction children stay inside it.

    The loss reads the outputs of the heads unchanged. `regions` replaces the logit of a child by the smaller of its own
    and its parent's logit, from coarse to fine. A child is therefore never outside its parent, also after averaging
    over tiles, mirrored images and folds.

    Args:
        layout: The regions.
        deepest_channels: Not used.
        task_of_region: Index of the nested task of each of the R regions, 0 to K-1; by default the layout's.
        parent_of_task: Index of each task's parent, -1 for none; by default none has one.
        guidance: Heads of tasks that have a parent: `GuidedHead` ("cga"), or that of the others with
            squeeze-and-excitation ("se") or without ("plain").

    Raises:
        ArchitectureError: If the indices do not fit, parents run in a circle or the guidance is not known.
    """

    def __init__(
        self,
        layout: Layout,
        deepest_channels: int,
        task_of_region: Sequence[int] = (),
        parent_of_task: Sequence[int] = (),
        guidance: Guidance = "cga",
    ) -> None:
        super().__init__(layout, deepest_channels)
        if guidance not in get_args(Guidance):
            raise ArchitectureError(
                f"plans: the head's guidance={shown(guidance)} must be one of {', '.join(get_args(Guidance))}"
            )
        owners = list(task_of_region) or list(layout.task_of_region)
        n_tasks = max(owners) + 1
        self.parents = list(parent_of_task) or [-1] * n_tasks
        if len(owners) != layout.num_regions or len(self.parents) != n_tasks or max(self.parents) >= n_tasks:
            raise ArchitectureError(
                f"plans: the head's task_of_region={owners} and parent_of_task={self.parents} must name a task of each "
                f"of the {layout.num_regions} regions and a parent of each task: plan again from dataset.json"
            )
        self.order = coarse_to_fine(self.parents)
        self.regions_of_task = [[region for region, owner in enumerate(owners) if owner == t] for t in range(n_tasks)]
        self.guidance = guidance

    def seg_layer(self, convolution: nn.Module, layout: Layout) -> nn.Module:
        """Return the heads of all tasks in the place of a scale's 1x1 convolution (and what stands before it)."""
        return TaskHeads(convolution, self.regions_of_task, self.parents, self.order, self.guidance)

    def regions(self, raw: Tensor) -> Tensor:
        """Return logits (B, R, *spatial), every task inside its parent, of what `forward` returned."""
        nested = list(raw.unbind(1))
        for task in self.order:
            if self.parents[task] >= 0:
                outer = torch.stack([nested[region] for region in self.regions_of_task[self.parents[task]]]).amax(0)
                for region in self.regions_of_task[task]:
                    nested[region] = torch.minimum(nested[region], outer)
        return torch.stack(nested, 1)


class TaskHeads(nn.Module):
    """The heads of all tasks at one scale.

    Args:
        seg_layer: What stood here, for its channels: a 1x1 convolution, alone or last of a sequence whose other modules
            are kept.
        regions_of_task: Indices of every task's regions.
        parents: Of every task, -1 for none.
        order: The tasks, parents first.
        guidance: As in `NestedHead`.
    """

    region_order: Tensor

    def __init__(
        self,
        seg_layer: nn.Module,
        regions_of_task: Sequence[Sequence[int]],
        parents: Sequence[int],
        order: Sequence[int],
        guidance: Guidance,
    ) -> None:
        super().__init__()
        *before, convolution = cast(Any, seg_layer if isinstance(seg_layer, nn.Sequential) else [seg_layer])
        self.before = nn.Sequential(*before)
        self.parents, self.order = list(parents), list(order)
        kinds = {"cga": GuidedHead, "se": ExcitedHead, "plain": TaskHead}
        kind_of = [TaskHead if parent < 0 else kinds[guidance] for parent in parents]
        self.tasks = nn.ModuleList(
            kind(convolution.in_channels, len(regions), type(convolution))
            for kind, regions in zip(kind_of, regions_of_task, strict=True)
        )
        made = [region for regions in regions_of_task for region in regions]
        self.register_buffer("region_order", torch.tensor(made, device="cpu").argsort(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, R, *spatial) from decoder features (B, C, *spatial)."""
        features = self.before(features)
        logits: dict[int, Tensor] = {}
        for task in self.order:
            head = cast(Any, self.tasks[task])
            guide = (probability(logits[self.parents[task]]),) if head.guided else ()
            logits[task] = head(features, *guide)
        return torch.cat([logits[task] for task in range(len(self.tasks))], 1).index_select(1, self.region_order)


class TaskHead(nn.Module):
    """A task's own 3x3(x3) convolution, normalisation and activation, and a 1x1 convolution: the published head.

    It has C W 3^d + 3 W + W n + n parameters for W = min(C, 32).

    Args:
        channels: C, of the features.
        outputs: n, regions of the task.
        convolution: `nn.Conv2d` or `nn.Conv3d`.
    """

    guided: ClassVar[bool] = False

    def __init__(self, channels: int, outputs: int, convolution: type[Any]) -> None:
        super().__init__()
        width = min(channels, WIDTH)
        norm = nn.InstanceNorm2d if issubclass(convolution, nn.Conv2d) else nn.InstanceNorm3d
        self.own = convolution(channels, width, 3, padding=1)
        self.norm = norm(width, eps=1e-5, affine=True)
        self.score = convolution(width, outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, n, *spatial) from features (B, C, *spatial)."""
        return cast(Tensor, self.score(functional.leaky_relu(self.norm(self.own(features)), 0.01)))


class ExcitedHead(TaskHead):
    """`TaskHead` with squeeze-and-excitation of its channels: the paper's row "+SE", without guidance by the parent.

    The squeezed feature is rectified but not normalised, because behind an InstanceNorm every image would have the same
    means. With H = max(1, W // 4) the head has 2 W H + W + H parameters more than `TaskHead`.
    """

    def __init__(self, channels: int, outputs: int, convolution: type[Any]) -> None:
        super().__init__(channels, outputs, convolution)
        width = min(channels, WIDTH)
        self.squeeze = nn.Linear(width, max(1, width // REDUCTION))
        self.excite = nn.Linear(max(1, width // REDUCTION), width)

    def gate(self, convolved: Tensor) -> Tensor:
        """Return the factor of every channel, 0 to 1, (B, W), from the convolution's output, (B, W, *spatial)."""
        dtype = torch.promote_types(convolved.dtype, torch.float32)
        squeezed = functional.relu(convolved).flatten(2).mean(2, dtype=dtype)
        return cast(Tensor, self.excite(functional.relu(self.squeeze(squeezed))).sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, n, *spatial) from features (B, C, *spatial)."""
        convolved = self.own(features)
        activated = functional.leaky_relu(self.norm(convolved), 0.01)
        gate = self.gate(convolved)
        factors = gate.to(activated.dtype).view(*gate.shape, *[1] * (convolved.ndim - 2))
        return cast(Tensor, self.score(activated * factors))


class GuidedHead(nn.Module):
    """Cross-task guided attention: channels weigh differently outside and inside of what the parent found.

    With p the parent's probability, P = (1 - p, p), F the features, r one of these two categories and * a product per
    channel or voxel::

        M_r = |F| P_r over its sum over channels         what a category looks like, (C,); it sums to 1
        L_r = A_r (C M_r * F) + a_r                      logits of a category
        Z   = B (sum over r of P_r * L_r) + b            every voxel takes them in the shares of its categories

    p has no gradient: a task does not teach its parent's score. Published are sums over features that are never
    negative; behind nnU-Net's LeakyReLU some are, and |F| makes M_r the share of a channel in the category's L1 norm,
    never negative and the same for features that are not. The factor C, of which the paper knows nothing, makes the
    weights 1 on average, so that logits do not start C times too small. B starts as the identity: for one region it is
    one number, which drawn at random could be next to 0.

    It has 2 (C n + n) + n^2 + n parameters. No weighted copy of the features is kept: the weights go into A_r.

    Args:
        channels: C.
        outputs: n, regions of the task.
        convolution: `nn.Conv2d` or `nn.Conv3d`.
    """

    guided: ClassVar[bool] = True

    def __init__(self, channels: int, outputs: int, convolution: type[Any]) -> None:
        super().__init__()
        self.categories = convolution(channels, 2 * outputs, 1)
        self.fusion = nn.Linear(outputs, outputs)
        # nnU-Net re-initialises convolutions after construction, never linear layers.
        nn.init.eye_(self.fusion.weight)
        nn.init.zeros_(self.fusion.bias)

    def forward(self, features: Tensor, inside: Tensor) -> Tensor:
        """Return logits (B, n, *spatial) from features (B, C, *spatial) and the parent's probability (B, 1, ...)."""
        of_category = torch.cat((1 - inside, inside), 1).flatten(2)
        gates = features.shape[1] * category_statistics(features, of_category)
        weight = self.categories.weight.view(2, -1, features.shape[1]) * gates.unsqueeze(2)
        logits = weight.flatten(1, 2) @ features.flatten(2) + self.categories.bias.unsqueeze(1)
        shares = of_category.unsqueeze(2)
        mixed = (logits.unflatten(1, (2, -1)) * shares).sum(1)
        fused = self.fusion.weight @ mixed + self.fusion.bias.unsqueeze(1)
        return cast(Tensor, fused.unflatten(2, features.shape[2:]))


def probability(logits: Tensor) -> Tensor:
    """Return the probability of the likeliest of a task's regions, (B, 1, *spatial), float32, without a gradient."""
    return logits.detach().float().sigmoid().amax(1, keepdim=True)


def category_statistics(features: Tensor, of_category: Tensor) -> Tensor:
    """Return the share of every channel in the L1 norm of each category, at least float32 also under autocast.

    Args:
        features: (B, C, *spatial).
        of_category: How much of each of N voxels is in each category, (B, 2, N).

    Returns:
        (B, 2, C), which sum to 1 over channels; 0 for a category without voxels. Half precision could not hold the
        sums. For the backward pass nothing is kept but the arguments.
    """
    statistics: Tensor = checkpoint(_shares, features, of_category, use_reentrant=False, preserve_rng_state=False)
    return statistics


def _shares(features: Tensor, of_category: Tensor) -> Tensor:
    dtype = torch.promote_types(features.dtype, torch.float32)
    with autocast(features.device.type, enabled=False):
        sums = of_category.to(dtype) @ features.flatten(2).to(dtype).abs().transpose(1, 2)
        return sums / sums.sum(2, keepdim=True).clamp_min(torch.finfo(dtype).tiny)


def coarse_to_fine(parents: Sequence[int]) -> list[int]:
    """Return the indices of tasks, every one behind its parent.

    Args:
        parents: Index of each task's parent, -1 for none.

    Raises:
        ArchitectureError: If parents run in a circle.
    """
    order: list[int] = []
    while len(order) < len(parents):
        ready = [task for task, parent in enumerate(parents) if task not in order and (parent < 0 or parent in order)]
        if not ready:
            raise ArchitectureError(
                f"plans: the head's parent_of_task={list(parents)} runs in a circle: plan again from dataset.json"
            )
        order += ready
    return order
