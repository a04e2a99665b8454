"""MA-MTLN's decoder in the place of nnU-Net's: pyramid, two supervised paths, and the segmentation-aware branch."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

from torch import Tensor, nn

from nnunet_mtl.networks.insertion_points import PyramidParts
from nnunet_mtl.networks.mamtln.pyramid import BidirectionalPyramid, LevelFusion
from nnunet_mtl.networks.mamtln.pyramid_blocks import ConvNormAct, Shape, pointwise
from nnunet_mtl.networks.unused_parameters import zero_of


class Decoded(NamedTuple):
    """Result of the decoder.

    Attributes:
        levels: Shared features S_1 to S_L, finest first, (B, W, *spatial).
        stages: Features that are segmented, (B, W, *spatial of the finest level): those of the two supervised paths, if
            requested, and last that of the segmentation-aware branch.
        zero: Zero that is attached to all weights that were not used; None if it is not needed.
    """

    levels: list[Tensor]
    stages: list[Tensor]
    zero: Tensor | float | None


class PyramidDecoder(nn.Module):
    """Reduces the stages to one width, shares them over scales, and fuses them before and after the attention.

    Args:
        shape: Numbers of the pyramid.
        channels: Channels of the encoder's stages that the pyramid reads, finest first.
        outputs: Output channels of the segmentation layers.
        parts: Classes of the parts at the insertion points.
        adaptive_output: Argument `output` of the adaptive attention.

    Attributes:
        deep_supervision: Whether the two paths are supervised; nnU-Net sets it.
        seg_layers: Segmentation layers of the fusion before the adaptive attention, of the fusion behind the adaptive
            attention, and of the segmentation-aware branch.
    """

    encoder: ClassVar[None] = None  # nnU-Net's decoders refer to the encoder; this one does not

    def __init__(
        self, shape: Shape, channels: Sequence[int], outputs: int, parts: PyramidParts, adaptive_output: str
    ) -> None:
        super().__init__()
        self.deep_supervision = False
        conv_op, width, one = shape.conv_op, shape.width, pointwise(shape)
        self.reduce = nn.ModuleList(ConvNormAct(conv_op, count, width, one) for count in channels)
        self.pyramid = BidirectionalPyramid(shape, parts.visual_attention)
        self.fuse0 = LevelFusion(shape)
        self.adaptive_attention = nn.ModuleList(
            parts.adaptive_attention(shape, level, adaptive_output) for level in range(len(shape.levels))
        )
        self.fuse1 = LevelFusion(shape)
        self.segmentation_aware = parts.segmentation_aware(shape)
        self.seg_layers = nn.ModuleList(cast(Any, conv_op)(width, outputs, 1) for _ in range(3))

    def forward(self, features: Sequence[Tensor], *, supervised: bool, attach: bool) -> Decoded:
        """Decode.

        Args:
            features: Outputs of the encoder's stages that are levels, finest first.
            supervised: Whether to compute the two supervised paths.
            attach: Whether to attach weights that are not used; DistributedDataParallel waits for all gradients.
        """
        levels = self.pyramid([reduce(feature) for reduce, feature in zip(self.reduce, features, strict=True)])
        unused: list[nn.Module] = [] if supervised else [*self.seg_layers[:-1]]
        before = after = None
        if supervised or cast(Any, self.adaptive_attention[0]).reads_fused:
            before = self.fuse0(levels)
        else:
            unused.append(self.fuse0)
        levels = [attention(level, before) for level, attention in zip(levels, self.adaptive_attention, strict=True)]
        if supervised or self.segmentation_aware.reads_fused:
            after = self.fuse1(levels)
        else:
            unused.append(self.fuse1)
        last = self.segmentation_aware(levels, after)
        stages = [cast(Tensor, before), cast(Tensor, after), last] if supervised else [last]
        return Decoded(levels, stages, zero_of(unused) if attach and unused else None)
