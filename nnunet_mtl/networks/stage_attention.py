"""What a stage's output passes on its way on: nothing, or attention that reads the feature alone."""

from typing import Any, ClassVar

from torch import Tensor, nn


class NoStageAttention(nn.Module):
    """A stage's output as it is, and what other attention of a stage derives from.

    It stands at two points: at the encoder's outputs on their way to the decoder, the deepest included, and at the
    outputs of the decoder's stages.

    Args:
        channels: Not used; here so that parts are built alike.
        level: Number of the stage, counted from the deepest, 0.
        dimensions: 2 or 3.
        **options: Numbers of the method.
    """

    conditioned: ClassVar[bool] = False

    def __init__(self, channels: int, level: int, dimensions: int, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, (B, C, *spatial)."""
        return x
