"""The parts that stand at an insertion point if a trainer names none: they change nothing.

Other parts derive from these classes or have the same methods. "No part" is always a class and never None, because
nnU-Net turns a misspelt dotted path into None, which is refused. The arguments of the constructors and of the calls are
those in the table of `nnunet_mtl.networks.insertion_points`, whether a class uses them or not.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from nnunet_mtl.networks.attention import Gates
from nnunet_mtl.networks.pre_norm import run_stage


class NoConditioning(nn.Module):
    """Leaves the image, or the merged decoder features, unchanged."""

    conditioned: ClassVar[bool] = False

    def __init__(self, num_tasks: int) -> None:
        super().__init__()

    @staticmethod
    def extra_channels(num_tasks: int) -> int:
        """Return how many channels are appended."""
        return 0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (B, C, *spatial)."""
        return x


class NoEncoderConditioning(nn.Module):
    """Runs a stage of the encoder as nnU-Net does."""

    conditioned: ClassVar[bool] = False

    def __init__(self, stage: nn.Module, num_tasks: int) -> None:
        super().__init__()

    def run(self, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's output and the input of its last normalisation, both (B, C, *spatial)."""
        return run_stage(stage, x)


class FeatureWithTokens(NamedTuple):
    """Return value of a part at the bottleneck that has `gives_tokens`.

    Attributes:
        feature: Feature that the decoder reads, (B, C + extra channels, *spatial).
        tokens: Tokens that the segmentation head gets as `DeepestStage.tokens`, (B, T, D): T tokens of D numbers for
            every sample, for example one token for every task. The part chooses T and D; the head must fit them.
    """

    feature: Tensor
    tokens: Tensor


class NoBottleneckConditioning(nn.Module):
    """Leaves the bottleneck, from which the decoder starts, unchanged.

    Attributes:
        gives_tokens: Whether the part returns a `FeatureWithTokens` and not only a feature.
    """

    conditioned: ClassVar[bool] = False
    gives_tokens: ClassVar[bool] = False

    def __init__(self, channels: int, num_tasks: int, bottleneck_size: Sequence[int]) -> None:
        super().__init__()

    @staticmethod
    def extra_channels() -> int:
        """Return how many channels are appended."""
        return 0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (B, C, *spatial)."""
        return x


class NoTaskAttention(nn.Module):
    """Leaves the skip unchanged."""

    conditioned: ClassVar[bool] = False

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()

    def forward(self, skip: Tensor, feature: Tensor, upsampled: Tensor) -> Tensor:
        """Return `skip`, (B, C, *spatial)."""
        return skip


class NoStageAttention(nn.Module):
    """Leaves the output of an encoder or decoder stage unchanged."""

    conditioned: ClassVar[bool] = False

    def __init__(self, channels: int, level: int, dimensions: int, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (B, C, *spatial)."""
        return x
