"""The network that DoDNet and TGNet were published with, in the places of nnU-Net's U-Net at which the task can enter.

A residual U-Net of weight-standardised convolutions that normalises (GroupNorm, 16 groups) before it convolves, adds
its skips, and upsamples linearly. From DoDNet's released code: stem, stages, the 1x1 convolution behind the last of
them ("fusion"), decoder, and GroupNorm-ReLU before the 1x1 segmentation layer; the head's descriptor reads the output
of the fusion. From TGNet's paper: the gates; that it has this backbone is our reading, for it calls DoDNet its baseline
and shares its training. Ours: other depths and widths, 2D, kernels and strides from plans, and deep supervision, which
was not published.

With 32-64-128-256-256 channels, 1-2-2-2-2 blocks, 3D and one image channel it has 17,285,920 parameters without heads.

Source: Zhang, Xie, Xia, Shen, DoDNet: learning to segment multi-organ and tumors from multiple partially labeled
datasets, CVPR 2021, and its released code, re-implemented from equations; Wu, Pang, Sowmya, TGNet: a task-guided
network architecture for multi-organ and tumour segmentation from partially labelled datasets, ISBI 2022.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.classification import Features
from nnunet_mtl.networks.description import ArchitectureError, NetworkDescription
from nnunet_mtl.networks.dodnet.pre_activation_blocks import PreActivationStage, standardised_conv
from nnunet_mtl.networks.gradient import scale_gradient
from nnunet_mtl.networks.heads import DeepestStage
from nnunet_mtl.networks.insertion_points import GuidedParts
from nnunet_mtl.networks.normalised_feature import NormalisedFeature
from nnunet_mtl.networks.task_guided import Decoded, GuidedChannels, TaskGuidedNetwork, call, widen
from nnunet_mtl.networks.task_passes import Step


class _Fused(NamedTuple):
    skips: list[Tensor]  # full resolution first, without the last stage
    bottleneck: Tensor  # output of the fusion
    tokens: Tensor | None  # of the part at the bottleneck


class _Shape(NamedTuple):
    conv_op: type[nn.Module]
    features: list[int]  # of every stage, full resolution first, as the others
    kernel_sizes: list[list[int]]
    strides: list[list[int]]


class ResidualUNet(nn.Module):
    """The network without a task: encoder, fusion, decoder.

    The output of the fusion has as many channels as the last stage but one, and the output of a decoder stage as many
    as the next skip, so that skips can be added whatever their number of channels.

    Args:
        num_classes: Output channels of the segmentation layers.
        input_channels: Channels of the image.
        n_stages: S, at least 2.
        features_per_stage: Channels of the stages, at least 2, full resolution first.
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        kernel_sizes: Kernel of every stage; odd.
        strides: Stride of every stage.
        n_blocks_per_stage: Blocks of every stage of the encoder.
        n_conv_per_stage_decoder: Blocks of every decoder stage, coarsest first; the name is nnU-Net's.
        deep_supervision: Whether the loss is computed on every scale.
        full_resolution_only: Whether only the finest scale has a segmentation layer, as published; deep supervision is
            then impossible.
        **unknown: Refused.

    Raises:
        ArchitectureError: If this cannot be built.
    """

    key_to_encoder: ClassVar[str] = "encoder.stages"
    key_to_stem: ClassVar[str] = "encoder.stem"
    keys_to_in_proj: ClassVar[tuple[str, ...]] = ("encoder.stem",)

    def __init__(
        self,
        *,
        num_classes: int,
        input_channels: int,
        n_stages: int,
        features_per_stage: Sequence[int],
        conv_op: type[nn.Module],
        kernel_sizes: Sequence[Any] | int,
        strides: Sequence[Any],
        n_blocks_per_stage: Sequence[int] | int,
        n_conv_per_stage_decoder: Sequence[int] | int = 1,
        deep_supervision: bool = False,
        full_resolution_only: bool = False,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ArchitectureError(f"plans: arch_kwargs.{next(iter(unknown))} is no argument of {type(self).__name__}")
        if deep_supervision and full_resolution_only:
            raise ArchitectureError(
                "plans: arch_kwargs.full_resolution_only leaves no layers for deep supervision: use a trainer of "
                "nnunet_mtl and `nnunet_mtl plan --set deep_supervision=false`, or set it to false"
            )
        if n_stages < 2 or min(features_per_stage) < 2:
            raise ArchitectureError(
                f"plans: arch_kwargs.features_per_stage={list(features_per_stage)!r} must have two stages or more, of "
                "two channels or more: the deviation of a single weight is not defined"
            )
        super().__init__()
        dimensions = 2 if conv_op is nn.Conv2d else 3
        shape = _Shape(
            conv_op,
            _per_stage("features_per_stage", features_per_stage, n_stages),
            [_per_axis(kernel, dimensions) for kernel in _per_stage("kernel_sizes", kernel_sizes, n_stages)],
            [_per_axis(stride, dimensions) for stride in _per_stage("strides", strides, n_stages)],
        )
        *channels, last = shape.features
        blocks = _per_stage("n_blocks_per_stage", n_blocks_per_stage, n_stages)
        self.encoder = PublishedEncoder(input_channels, shape, blocks)
        self.fusion = Fusion(conv_op, last, channels[-1], dimensions)
        blocks = _per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1)
        self.decoder = PublishedDecoder(shape, blocks, num_classes, full_resolution_only=full_resolution_only)
        self.decoder.deep_supervision = deep_supervision

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Initialise a module as nnU-Net's networks do; of standardised filters only the direction matters."""
        InitWeights_He(1e-2)(module)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Return how many values the convolutions output for one patch; nnU-Net's planners estimate memory with it.

        Args:
            input_size: Size of the patch, in voxels; the gates' and heads' own numbers are left out.
        """
        size, sizes = list(input_size), []
        for stride in self.encoder.strides:
            size = [-(-edge // step) for edge, step in zip(size, stride, strict=True)]
            sizes.append(math.prod(size))
        finest_first = [*reversed(self.decoder.stages)], [*reversed(self.decoder.seg_layers)]
        parts = [
            (self.encoder.stem, math.prod(input_size)),
            *zip(self.encoder.stages, sizes, strict=True),
            (self.fusion, sizes[-1]),
            *(pair for parts in finest_first for pair in zip(parts, sizes, strict=False)),
        ]
        return sum(_channels_made(part) * voxels for part, voxels in parts)


class PublishedUNet(TaskGuidedNetwork, ResidualUNet):
    """DoDNet's and TGNet's network; the parts are attributes beside encoder, fusion and decoder.

    The task enters at the points of `nnunet_mtl.networks.insertion_points`. Two of these points lie between a
    normalisation with its activation and a convolution, which reads the appended channels: `bottleneck_conditioning` in
    the fusion, `decoder_conditioning` in the first block of a decoder stage. Blocks return features that no
    normalisation has touched; gates, heads and answers read these features.
    """

    gives_attended: ClassVar[bool] = False

    def build(self, description: NetworkDescription[GuidedParts]) -> None:
        """Build parts and heads, and widen the convolutions that read the channels which parts append."""
        parts, tasks = description.parts, description.layout.num_tasks
        *channels, last = self.encoder.output_channels
        widen(self.fusion.conv, parts.bottleneck_conditioning.extra_channels())
        for stage in self.decoder.stages:
            widen(cast(Any, stage).blocks[0].conv1, parts.decoder_conditioning.extra_channels(tasks))
        outputs = [channels[-1], *channels[::-1]]
        skips = [(skip, skip) for skip in channels[::-1]]
        self.build_parts(description, last, GuidedChannels(outputs, skips, _made(channels)))
        # The heads read the output of the fusion in the place of the encoder's last feature.
        self.build_heads(description, [*channels, channels[-1]], channels[::-1])

    def steps(self, *, raw: bool, keep_features: bool) -> tuple[Step, ...]:
        """Return four steps: encode, fuse, decode, segment; the last two are one if every task has its own decoder."""
        encode = Step(self._encode, any(p.conditioned for p in (self.input_conditioning, *self.encoder_conditioning)))
        fuse = Step(self._fuse, bool(self.bottleneck_conditioning.conditioned))
        decode = partial(self._decode, keep_features=keep_features)
        conditioned = any(part.conditioned for part in (*self.task_attention, self.decoder_conditioning))
        return encode, fuse, *self.decoding_steps(decode, conditioned=conditioned, raw=raw)

    def _encode(self, x: Tensor, *task: Tensor) -> list[Tensor]:
        x = self.encoder.stem(call(self.input_conditioning, x, task=task))
        stages: list[Tensor] = []
        for stage, part in zip(self.encoder.stages, self.encoder_conditioning, strict=True):
            x, _ = cast(Any, part).run(stage, x, *(task if part.conditioned else ()))
            stages.append(x)
        return stages

    def _fuse(self, stages: list[Tensor], *task: Tensor) -> _Fused:
        *skips, last = stages
        return _Fused(skips, *self.fusion(last, partial(self.condition_bottleneck, task=task)))

    def _decode(self, decoder: "PublishedDecoder", fused: _Fused, *task: Tensor, keep_features: bool) -> Decoded:
        encoded = (fused.bottleneck, *reversed(fused.skips))
        x, *skips = (part(feature) for part, feature in zip(self.encoder_attention, encoded, strict=True))
        stages: list[Tensor] = []
        features = None
        for skip, gate, stage, attend in zip(
            skips, self.task_attention, decoder.stages, self.decoder_attention, strict=True
        ):
            upsampled = _resized_to(x, skip)
            merged = upsampled + call(gate, skip, x, upsampled, task=task)
            if keep_features and not stages:
                # The heads are built for a feature before a normalisation with the channels of the coarsest skip.
                *shared, decoded = (scale_gradient(tensor, self.class_gradient) for tensor in (*skips[::-1], x, merged))
                features = Features(shared, decoded)
            x = attend(stage(merged, partial(call, self.decoder_conditioning, task=task)))
            stages.append(x)
        before_norm = fused.bottleneck if self.segmentation_head.reads_deepest else None
        return Decoded(stages, DeepestStage(before_norm, fused.tokens), features)


class PublishedEncoder(nn.Module):
    """The stem, which normalises nothing, and the stages.

    Args:
        input_channels: Channels of the image.
        shape: Channels, kernels and strides of the network.
        n_blocks: Number of blocks of every stage.
    """

    def __init__(self, input_channels: int, shape: _Shape, n_blocks: Sequence[int]) -> None:
        super().__init__()
        conv_op, features, kernel_sizes, strides = shape
        self.conv_op, self.strides, self.output_channels = conv_op, strides, features
        self.stem = standardised_conv(conv_op, input_channels, features[0], kernel_sizes[0])
        self.stages = nn.ModuleList(
            PreActivationStage(conv_op, *numbers)
            for numbers in zip([features[0], *features], features, kernel_sizes, n_blocks, strides, strict=False)
        )


class Fusion(nn.Module):
    """GroupNorm, ReLU and a convolution with kernel 1.

    Args:
        conv_op: `nn.Conv2d` or `nn.Conv3d`.
        channels: Number of input channels.
        output_channels: Number of output channels.
        dimensions: Number of axes.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int, output_channels: int, dimensions: int) -> None:
        super().__init__()
        self.norm = NormalisedFeature(channels)
        self.conv = standardised_conv(conv_op, channels, output_channels, [1] * dimensions)

    def forward(
        self, x: Tensor, condition: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the fused feature, (B, C', *spatial), of (B, C, *spatial), and the tokens of `condition`.

        Args:
            x: The encoder's last feature.
            condition: Function of the normalised feature; returns the feature that the convolution reads, and tokens
                or None.
        """
        feature, tokens = condition(self.norm(x))
        return self.conv(feature), tokens


class PublishedDecoder(nn.Module):
    """The stages of the decoder and its segmentation layers, both coarsest first.

    Args:
        shape: Channels, kernels and strides of the network.
        n_blocks: Number of blocks of every stage.
        outputs: Output channels of the segmentation layers.
        full_resolution_only: Whether only the finest stage has a segmentation layer.

    Attributes:
        deep_supervision: Whether the loss is computed on every scale; nnU-Net sets it.
    """

    encoder: ClassVar[None] = None  # nnU-Net's decoders refer to the encoder; this one does not

    def __init__(self, shape: _Shape, n_blocks: Sequence[int], outputs: int, *, full_resolution_only: bool) -> None:
        super().__init__()
        self.deep_supervision = False
        channels = shape.features[-2::-1]
        made = _made(shape.features[:-1])
        kernel_sizes = shape.kernel_sizes[-2::-1]
        self.stages = nn.ModuleList(
            PreActivationStage(shape.conv_op, *numbers)
            for numbers in zip(channels, made, kernel_sizes, n_blocks, strict=True)
        )
        self.seg_layers = nn.ModuleList(
            nn.Sequential(NormalisedFeature(count), cast(Any, shape.conv_op)(count, outputs, 1))
            for count in (made[-1:] if full_resolution_only else made)
        )


def _made(channels: Sequence[int]) -> list[int]:
    """Return the channels of the decoder's stages, coarsest first, given those of the skips, full resolution first."""
    return [*channels[-2::-1], channels[0]]


def _resized_to(x: Tensor, like: Tensor) -> Tensor:
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, like.shape[2:], mode=mode, align_corners=False)


def _channels_made(module: nn.Module) -> int:
    """Return the channels of all convolutions in a module."""
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Conv3d))
    return sum(convolution.out_channels for convolution in convolutions)


def _per_stage(name: str, values: Any, n_stages: int) -> list[Any]:
    entries: list[Any] = [values] * n_stages if isinstance(values, int) else list(values)
    if len(entries) != n_stages:
        raise ArchitectureError(f"plans: arch_kwargs.{name}={entries!r} must have {n_stages} entries: plan again")
    return entries


def _per_axis(value: int | Sequence[int], dimensions: int) -> list[int]:
    return [value] * dimensions if isinstance(value, int) else list(value)
