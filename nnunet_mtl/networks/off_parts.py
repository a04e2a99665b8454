"""What stands at an insertion point where a trainer names nothing; parts derive from these classes or imitate them.

"Nothing" is always a class: a misspelt dotted path gives None, which is refused. Constructors take what
`nnunet_mtl.networks.insertion_points` says the point is built with, so that parts of one point are built alike.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from nnunet_mtl.networks.attention import Gates
from nnunet_mtl.networks.pre_norm import run_stage


class NoConditioning(nn.Module):
    """The image, or merged decoder features, stay as they are."""

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
    """A stage of the encoder runs as nnU-Net runs it."""

    conditioned: ClassVar[bool] = False

    def __init__(self, stage: nn.Module, num_tasks: int) -> None:
        super().__init__()

    def run(self, stage: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's output and the input of its last normalisation, both (B, C, *spatial)."""
        return run_stage(stage, x)


class FeatureWithTokens(NamedTuple):
    """What a part at the bottleneck returns if it `gives_tokens`.

    Attributes:
        feature: What the decoder reads, (B, C + extra channels, *spatial).
        tokens: What the segmentation head finds in `DeepestStage.tokens`, (B, T, D): T tokens of D numbers for every
            sample, one per task for example. The part decides on T and D; the head has to expect them.
    """

    feature: Tensor
    tokens: Tensor


class NoBottleneckConditioning(nn.Module):
    """The bottleneck, which the decoder starts from, stays as it is.

    Attributes:
        gives_tokens: Whether the part returns a `FeatureWithTokens` in place of the feature alone.
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
    """The skip stays as it is."""

    conditioned: ClassVar[bool] = False

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()

    def forward(self, skip: Tensor, feature: Tensor, upsampled: Tensor) -> Tensor:
        """Return `skip`, (B, C, *spatial)."""
        return skip


class NoStageAttention(nn.Module):
    """The output of a stage stays as it is; stands at the encoder's outputs and behind the decoder's stages."""

    conditioned: ClassVar[bool] = False

    def __init__(self, channels: int, level: int, dimensions: int, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (B, C, *spatial)."""
        return x
