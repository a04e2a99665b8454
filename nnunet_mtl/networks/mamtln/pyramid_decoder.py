"""What stands in the place of nnU-Net's decoder in MA-MTLN: pyramid, two supervised paths, the branch that segments."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

from torch import Tensor, nn

from nnunet_mtl.networks.insertion_points import PyramidParts
from nnunet_mtl.networks.mamtln.pyramid import BidirectionalPyramid, LevelFusion
from nnunet_mtl.networks.mamtln.pyramid_blocks import ConvNormAct, Shape, pointwise
from nnunet_mtl.networks.unused_parameters import zero_of


class Decoded(NamedTuple):
    """What the decoder makes of the encoder's stages.

    Attributes:
        levels: Shared features S_1 to S_L, finest first, (B, W, *spatial) each.
        stages: What is segmented, (B, W, *spatial of the finest level) each: the two supervised paths if they are
            wanted, and last the segmentation-aware branch.
        zero: Zero, attached to every weight that was not used; None where it is not needed.
    """

    levels: list[Tensor]
    stages: list[Tensor]
    zero: Tensor | float | None


class PyramidDecoder(nn.Module):
    """Reduces the stages to one width, shares them over scales, and fuses them before and after the attention.

    Args:
        shape: Of the pyramid.
        channels: Of the encoder's stages it reads, finest first.
        outputs: Channels of the segmentation layers.
        parts: Classes of what stands at its points.
        adaptive_output: Of the adaptive attention.

    Attributes:
        deep_supervision: Whether the two paths are supervised; nnU-Net sets it.
        seg_layers: Of the fusion before the attention, of the fusion behind it, and of the last branch.
    """

    encoder: ClassVar[None] = None  # nnU-Net's decoders refer to theirs

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
            features: Of the encoder's stages that are levels, finest first.
            supervised: Whether the two paths are wanted.
            attach: Whether weights that are not used are to be attached: DistributedDataParallel waits for all.
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
