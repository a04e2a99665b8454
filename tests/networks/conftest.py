from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn

from nnunet_mtl.networks.attention import TaskGuidedAttention
from nnunet_mtl.networks.mamtln.adaptive_attention import AdaptiveAttention
from nnunet_mtl.networks.mamtln.aware_branches import ClassificationAwareBranch, SegmentationAwareBranch
from nnunet_mtl.networks.mamtln.pyramid_unet import PyramidPlainConvUNet, PyramidResidualEncoderUNet
from nnunet_mtl.networks.mamtln.visual_attention import VisualAttention
from nnunet_mtl.networks.streams.ctan_bottleneck import CrossTaskBottleneck
from nnunet_mtl.networks.streams.ctan_encoder import CrossAttentionStreams
from nnunet_mtl.networks.streams.mtan_decoder import AttentionDecoders
from nnunet_mtl.networks.streams.mtan_encoder import AttentionStreams, ResidualAttentionStreams
from nnunet_mtl.networks.streams.streamed_unet import StreamedPlainConvUNet, StreamedResidualEncoderUNet
from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet, TaskGuidedResidualEncoderUNet

MAMTLN = {
    "visual_attention": VisualAttention,
    "adaptive_attention": AdaptiveAttention,
    "segmentation_aware": SegmentationAwareBranch,
    "classification_aware": ClassificationAwareBranch,
}
OURS = {"plain": TaskGuidedPlainConvUNet, "residual": TaskGuidedResidualEncoderUNet}
PYRAMIDS = {"plain": PyramidPlainConvUNet, "residual": PyramidResidualEncoderUNet}
STREAMED = {"plain": StreamedPlainConvUNet, "residual": StreamedResidualEncoderUNet}
STREAMS: dict[str, dict[str, Any]] = {
    "hps": {},
    "mtan": {"streams": AttentionStreams, "stream_decoders": AttentionDecoders},
    "mtan_resnet": {"streams": ResidualAttentionStreams},
    "ctan_encoder": {"streams": CrossAttentionStreams},
    "ctan_bottleneck": {"streams": AttentionStreams, "stream_bottleneck": CrossTaskBottleneck},
    "ctan": {"streams": CrossAttentionStreams, "stream_bottleneck": CrossTaskBottleneck},
}
STOCK = {"plain": PlainConvUNet, "residual": ResidualEncoderUNet}


def architecture_kwargs(
    kind: str, dimensions: int, features: Sequence[int], strides: Sequence[Any], kernels: Sequence[Any], convs: int
) -> dict[str, Any]:
    return {
        "input_channels": 1,
        "n_stages": len(features),
        "features_per_stage": list(features),
        "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[dimensions],
        "kernel_sizes": list(kernels) or [[3] * dimensions] * len(features),
        "strides": list(strides) or [[1] * dimensions] + [[2] * dimensions] * (len(features) - 1),
        {"plain": "n_conv_per_stage", "residual": "n_blocks_per_stage"}[kind]: [2] * len(features),
        "n_conv_per_stage_decoder": [convs] * (len(features) - 1),
        "conv_bias": True,
        "norm_op": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }


@pytest.fixture
def build() -> Callable[..., nn.Module]:
    """Builds a seeded tiny network as nnU-Net does: the flagship, five regions of three tasks unless told otherwise."""

    def build(
        kind: str = "plain",
        *,
        stock: bool = False,
        dimensions: int = 2,
        features: Sequence[int] = (4, 6, 8),
        strides: Sequence[Any] = (),
        kernels: Sequence[Any] = (),
        convs: int = 2,
        **own: Any,
    ) -> nn.Module:
        torch.manual_seed(0)
        kwargs = architecture_kwargs(kind, dimensions, features, strides, kernels, convs)
        if stock:
            own = {"num_classes": 5} | own
        else:
            own.setdefault("task_of_region", [0, 0, 1, 2, 2])
            own.setdefault("num_classes", len(own["task_of_region"]))
            own.setdefault("task_attention", TaskGuidedAttention)
        network = (STOCK if stock else OURS)[kind](**(kwargs | own))
        network.apply(network.initialize)
        return network

    return build


@pytest.fixture
def build_pyramid() -> Callable[..., nn.Module]:
    """Builds a seeded tiny network with a pyramid of eight channels; five regions of three tasks by default."""

    def build_pyramid(
        kind: str = "plain",
        *,
        dimensions: int = 2,
        features: Sequence[int] = (4, 6, 8, 8, 8),
        strides: Sequence[Any] = (),
        kernels: Sequence[Any] = (),
        options: dict[str, Any] | None = None,
        **own: Any,
    ) -> nn.Module:
        torch.manual_seed(0)
        own.setdefault("task_of_region", [0, 0, 1, 2, 2])
        own.setdefault("num_classes", len(own["task_of_region"]))
        own["method_options"] = {"width": 8} | (options or {})
        kwargs = architecture_kwargs(kind, dimensions, features, strides, kernels, 1)
        network = PYRAMIDS[kind](**(kwargs | MAMTLN | own))
        network.apply(network.initialize)
        return network

    return build_pyramid


@pytest.fixture
def build_streamed() -> Callable[..., nn.Module]:
    """Builds a seeded tiny network with task streams; five regions of three tasks unless told otherwise."""

    def build_streamed(
        method: str = "hps",
        kind: str = "plain",
        *,
        dimensions: int = 2,
        features: Sequence[int] = (4, 6, 8),
        strides: Sequence[Any] = (),
        kernels: Sequence[Any] = (),
        convs: int = 2,
        **own: Any,
    ) -> nn.Module:
        torch.manual_seed(0)
        own.setdefault("task_of_region", [0, 2, 1, 0, 2])
        own.setdefault("num_classes", len(own["task_of_region"]))
        kwargs = architecture_kwargs(kind, dimensions, features, strides, kernels, convs)
        network = STREAMED[kind](**(kwargs | STREAMS[method] | own))
        network.apply(network.initialize)
        return network

    return build_streamed


@pytest.fixture
def trained() -> Callable[[nn.Module], nn.Module]:
    """Moves every gate and every answer away from its start, as training does, and the running estimates with them."""

    def trained(network: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith(("task_attention.", "classification.")):
                    parameter.add_(torch.randn_like(parameter))
        network.train()
        image = torch.randn(4, 1, *[16] * network.encoder.conv_op(1, 1, 1).weight[0, 0].ndim)
        network(image, full_output=True)
        return network.eval()

    return trained


@pytest.fixture
def calls_of() -> Callable[[nn.Module], AbstractContextManager[list[tuple[Any, ...]]]]:
    """Collects the arguments of every call of a module."""

    @contextmanager
    def calls_of(module: nn.Module) -> Iterator[list[tuple[Any, ...]]]:
        inputs: list[tuple[Any, ...]] = []
        handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args))
        yield inputs
        handle.remove()

    return calls_of


@pytest.fixture
def saved_bytes() -> Callable[[Callable[[], object]], int]:
    """Measures the bytes that autograd keeps for the backward pass, every storage counted once."""

    def saved_bytes(run: Callable[[], object]) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = run()
        del result
        return sum(storages.values())

    return saved_bytes
