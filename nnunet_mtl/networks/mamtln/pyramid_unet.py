"""MA-MTLN over nnU-Net's plans: the planned encoder, and the pyramid with its task-aware branches for a decoder.

The deepest stages of the encoder are the levels of the pyramid: four as published, more if that does not reach the
third stage, at a quarter of the resolution as published, fewer if no more are below full resolution. The encoder and
its state-dict keys are those of the stock classes. One pass serves every task.

Source: Zhang Y. et al., MA-MTLN, IEEE TMI 2021, and its released code, re-implemented from equations. Ours: the planned
encoder for the published SE-ResNeXt-50, other numbers of levels, 2D, strides and kernels from plans, several tasks.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from nnunet_mtl.networks.classification import Features
from nnunet_mtl.networks.description import ArchitectureError, NetworkDescription
from nnunet_mtl.networks.gradient import scale_gradient
from nnunet_mtl.networks.heads import DeepestStage
from nnunet_mtl.networks.insertion_points import PyramidParts
from nnunet_mtl.networks.mamtln.aware_branches import NoClassificationAwareness
from nnunet_mtl.networks.mamtln.pyramid_blocks import Level, RepeatedDownsampling, Shape, resized
from nnunet_mtl.networks.mamtln.pyramid_decoder import PyramidDecoder
from nnunet_mtl.networks.multitask_network import MultiTaskNetwork
from nnunet_mtl.networks.pre_norm import run_encoder
from nnunet_mtl.networks.task_passes import PassResult, Step

_OPTIONS: Mapping[str, Any] = {"width": 64, "levels": 0, "output": "product"}
_PUBLISHED_LEVELS = 4


class _Encoded(NamedTuple):
    size: Sequence[int]  # of the image
    stages: list[Tensor]  # full resolution first
    before_norm: list[Tensor]  # likewise; what answers and a head may read


class _Segmented(NamedTuple):
    encoded: _Encoded
    stages: list[Tensor]  # the two supervised paths, or neither, and the last branch
    zero: Tensor | float | None
    features: Features | None


class _PyramidUNet(MultiTaskNetwork):
    """Base of both networks. Among the bases of a network it comes before nnU-Net's class.

    `method_options` are "width" and number of "levels" of the pyramid, of which 0 stands for what the module says, and
    the "output" of the adaptive attention. Without the method's own classification head there is no
    `classification_aware` branch.
    """

    parts_class: ClassVar[type[PyramidParts]] = PyramidParts

    def build(self, description: NetworkDescription[PyramidParts]) -> None:
        """Build the pyramid in the place of nnU-Net's decoder, the branches and the heads."""
        options = {**_OPTIONS, **description.method_options}
        channels, shape = list(self.encoder.output_channels), _shape(self.encoder, description.bottleneck_size, options)
        supervised = self.decoder.deep_supervision
        self.n_levels = len(shape.levels)
        outputs = description.segmentation_head.channels(description.layout)
        self.decoder = PyramidDecoder(shape, channels[-self.n_levels :], outputs, description.parts, options["output"])
        self.decoder.deep_supervision = supervised
        reads = description.classification.reads_attended
        branch = description.parts.classification_aware if reads else NoClassificationAwareness
        self.classification_aware = branch(shape)
        self.build_heads(description, channels, [shape.width] * (len(channels) - 1))

    def steps(self, *, raw: bool, keep_features: bool) -> tuple[Step, ...]:
        """Return three steps: encode, decode, segment; the task can enter only in the segmentation head."""
        return (
            Step(partial(self._encode, keep_features=keep_features), conditioned=False),
            Step(partial(self._decode, raw=raw, keep_features=keep_features), conditioned=False),
            Step(partial(self._predict, raw=raw), bool(self.segmentation_head.conditioned)),
        )

    def _encode(self, x: Tensor, *, keep_features: bool) -> _Encoded:
        reads = keep_features or self.segmentation_head.reads_deepest
        stages, before_norm = run_encoder(self.encoder, x) if reads else (self.encoder(x), [])
        return _Encoded(x.shape[2:], stages, before_norm)

    def _decode(self, encoded: _Encoded, *, raw: bool, keep_features: bool) -> _Segmented:
        decoded = self.decoder(
            encoded.stages[-self.n_levels :],
            supervised=raw and self.deep_supervision,
            attach=raw and torch.is_grad_enabled(),
        )
        features = self._features(encoded, decoded.levels) if keep_features else None
        return _Segmented(encoded, decoded.stages, decoded.zero, features)

    def _features(self, encoded: _Encoded, levels: list[Tensor]) -> Features:
        """Return what answers are read from; the decoder's is the last level but one, at the size heads expect it."""
        shared = [scale_gradient(feature, self.class_gradient) for feature in encoded.before_norm]
        read = [scale_gradient(level, self.class_gradient) for level in levels]
        decoder = resized(read[-2] if self.n_levels > 1 else read[-1], encoded.stages[-2].shape[2:])
        return Features(shared, decoder, self.classification_aware(read))

    def _predict(self, segmented: _Segmented, *task: Tensor, raw: bool) -> PassResult:
        """Return logits at full resolution: of the last branch, then of the supervised paths."""
        encoded, stages, zero, features = segmented
        head = self.segmentation_head
        deepest = DeepestStage(encoded.before_norm[-1] if head.reads_deepest else None)
        context = head.context(deepest, *(task if head.conditioned else ()))
        # A 1x1 convolution and linear interpolation commute: the published order enlarges W channels, this one R.
        layers = reversed(list(self.decoder.seg_layers))
        logits = [head(x, layer, context) for x, layer in zip(reversed(stages), layers, strict=False)]
        full, *paths = (resized(scale, encoded.size) for scale in logits)
        full = full if zero is None else full + zero
        if raw and self.deep_supervision:
            return PassResult([full, *paths], features)
        return PassResult(full if raw else head.regions(full), features)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return how many values the convolutions output for one patch; nnU-Net's planners estimate memory with it.

        Args:
            input_size: Size of the patch, in voxels.
        """
        counted: list[int] = []
        twin = deepcopy(self).to("meta")
        for module in twin.decoder.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | RepeatedDownsampling):
                module.register_forward_hook(lambda _, __, made: counted.append(made.numel()))
        size, stages = list(input_size), []
        for channels, stride in zip(self.encoder.output_channels, self.encoder.strides, strict=True):
            size = [-(-edge // step) for edge, step in zip(size, stride, strict=True)]
            stages.append(torch.empty(1, channels, *size, device="meta"))
        with torch.no_grad():
            decoded = twin.decoder(stages[-self.n_levels :], supervised=True, attach=False)
            for x, layer in zip(decoded.stages, twin.decoder.seg_layers, strict=True):
                layer(x)
        return sum(counted) + int(self.encoder.compute_conv_feature_map_size(input_size))


def _shape(encoder: Any, deepest: Sequence[int], options: Mapping[str, Any]) -> Shape:
    """Return the numbers of the pyramid over the deepest stages of an encoder, and the planned size of the last."""
    dimensions = len(encoder.strides[0])
    below = len(encoder.strides) - 1  # stages below full resolution; without the first of them: from stride 4 on
    n_levels = min(options["levels"] or max(_PUBLISHED_LEVELS, below - 1), below)
    if n_levels < 1:
        raise ArchitectureError("plans: arch_kwargs.n_stages=1 leaves no stage below full resolution: plan again")
    size, levels = tuple(deepest), []
    for stage in reversed(range(len(encoder.strides) - n_levels, len(encoder.strides))):
        stride = tuple(encoder.strides[stage])
        kernel = tuple(1 if edge == 1 else 3 for edge in _per_axis(encoder.kernel_sizes[stage], dimensions))
        levels.append(Level(kernel, stride, size))
        size = tuple(edge * step for edge, step in zip(size, stride, strict=False))
    return Shape(cast(Any, encoder.conv_op), options["width"], tuple(reversed(levels)))


def _per_axis(value: int | Sequence[int], dimensions: int) -> list[int]:
    return [value] * dimensions if isinstance(value, int) else list(value)


class PyramidPlainConvUNet(_PyramidUNet, PlainConvUNet):
    """MA-MTLN with the encoder of nnU-Net's default U-Net."""


class PyramidResidualEncoderUNet(_PyramidUNet, ResidualEncoderUNet):
    """MA-MTLN with the encoder of nnU-Net's U-Net with a residual encoder."""
