"""nnU-Net's U-Nets with task-guided attention on their skips.

Encoder, decoder, their names and their state-dict keys are those of the stock classes; the attention is a sibling.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast, overload

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, cat, nn

from nnunet_mtl.networks.architecture import ArchitectureError
from nnunet_mtl.networks.attention import Gates, TaskGuidedAttention
from nnunet_mtl.networks.heads import RegionHead
from nnunet_mtl.networks.output import MultiTaskOutput
from nnunet_mtl.networks.passes import Step, TaskPasses
from nnunet_mtl.networks.pre_norm import run_stage


class _TaskGuidedUNet(nn.Module):
    """The part that the U-Nets share; comes before a stock class among the bases.

    Keyword-only, as nnU-Net builds networks. The defaults describe one task that owns every channel, which is what
    nnU-Net's planner builds to estimate memory.

    Args:
        num_classes: R, the number of regions, whatever the head.
        task_of_region: Index of the task that owns each region, 0 to K-1.
        slot_of_region: Index of the slot each region reads in a shared head, 0 to S-1.
        task_attention: Attention class, built once per skip.
        segmentation_head: Head class.
        gates: How the attention's factors are computed and start.
        architecture: The stock class's own arguments.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        *,
        num_classes: int,
        task_of_region: Sequence[int] | None = None,
        slot_of_region: Sequence[int] | None = None,
        task_attention: Any = TaskGuidedAttention,
        segmentation_head: Any = RegionHead,
        gates: Gates = "identity",
        **architecture: Any,
    ) -> None:
        task_of_region = [0] * num_classes if task_of_region is None else task_of_region
        slot_of_region = list(range(num_classes)) if slot_of_region is None else slot_of_region
        _check_indices("task_of_region", task_of_region, num_classes)
        _check_indices("slot_of_region", slot_of_region, num_classes)
        for name, value in (("task_attention", task_attention), ("segmentation_head", segmentation_head)):
            if value is None:
                raise ArchitectureError(
                    f"plans: arch_kwargs.{name} names no class (is the dotted path misspelt?); "
                    "no attention is nnunet_mtl.networks.attention.NoTaskAttention"
                )
        if gates not in ("identity", "faithful"):
            raise ArchitectureError(f"plans: arch_kwargs.gates={gates!r} must be 'identity' or 'faithful'")
        super().__init__(num_classes=segmentation_head.channels(slot_of_region), **architecture)
        num_tasks = max(task_of_region) + 1
        channels = list(cast(Any, self.encoder).output_channels)[::-1]
        self.task_attention = nn.ModuleList(
            task_attention(skip, coarser, num_tasks, gates) for coarser, skip in pairwise(channels)
        )
        self.segmentation_head = segmentation_head(slot_of_region)
        self.passes = TaskPasses(task_of_region)

    @overload
    def forward(self, x: Tensor, task: Tensor | None = None, *, full_output: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, task: Tensor | None = None, *, full_output: Literal[True]) -> MultiTaskOutput: ...

    def forward(self, x: Tensor, task: Tensor | None = None, *, full_output: bool = False) -> Tensor | MultiTaskOutput:
        """Segment a batch of patches; the mode follows from the arguments, never from `training`.

        Args:
            x: Image, (B, C, *spatial).
            task: Task index per sample, (B,) long, 0 to K-1, mixed freely; None for all tasks. With a task the logits
                of other tasks' regions are returned too and mean nothing.
            full_output: Return everything that was computed.

        Returns:
            Logits (B, R, *spatial), fresh and contiguous without `task`; a `MultiTaskOutput` with `full_output`, its
            segmentation a list, full resolution first, if there is a task and deep supervision is on.
        """
        all_scales = full_output and task is not None and bool(cast(Any, self.decoder).deep_supervision)
        segmentation = self.passes(self._steps(all_scales), x, task)
        return MultiTaskOutput(segmentation, {}) if full_output else cast(Tensor, segmentation)

    @property
    def conditioned(self) -> bool:
        """Whether the task enters anywhere; if not, every region's logits mean the same whatever the task."""
        return any(step.conditioned for step in self._steps(all_scales=False))

    def _steps(self, all_scales: bool) -> tuple[Step, ...]:
        decode_conditioned = any(cast(Any, attention).conditioned for attention in self.task_attention)
        return (
            Step(self.encoder, conditioned=False),
            Step(self._decode, conditioned=decode_conditioned),
            Step(partial(self._segment, all_scales=all_scales), conditioned=self.segmentation_head.conditioned),
        )

    def _decode(self, skips: Sequence[Tensor], *task: Tensor) -> list[Tensor]:
        """Return the features of every decoder stage, coarsest first."""
        decoder = cast(Any, self.decoder)
        x = feature = skips[-1]
        features = []
        for level, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            skip = self.task_attention[level](skips[-(level + 2)], feature, *task)
            x, feature = run_stage(stage, cat((upsample(x), skip), dim=1))
            features.append(x)
        return features

    def _segment(self, features: Sequence[Tensor], *task: Tensor, all_scales: bool) -> Tensor | list[Tensor]:
        seg_layers = cast(Any, self.decoder).seg_layers
        if not all_scales:
            return cast(Tensor, self.segmentation_head(features[-1], seg_layers[-1], *task))
        pairs = zip(features, seg_layers, strict=True)
        return [self.segmentation_head(feature, layer, *task) for feature, layer in pairs][::-1]


class TaskGuidedPlainConvUNet(_TaskGuidedUNet, PlainConvUNet):
    """Task-guided form of nnU-Net's default U-Net."""


class TaskGuidedResidualEncoderUNet(_TaskGuidedUNet, ResidualEncoderUNet):
    """Task-guided form of nnU-Net's U-Net with a residual encoder."""


def _check_indices(name: str, indices: Sequence[int], num_classes: int) -> None:
    if len(indices) != num_classes or sorted(set(indices)) != list(range(len(set(indices)))):
        raise ArchitectureError(
            f"plans: arch_kwargs.{name}={list(indices)!r} must give each of the {num_classes} regions an index, "
            "counted from 0 without gaps: plan again from dataset.json"
        )
