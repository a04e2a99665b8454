"""A method whose part at the bottleneck hands tokens to the head: DoDNet's network and nnU-Net's U-Nets honour it."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from nnunet_mtl.networks.decoders import TaskDecoders
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.dodnet.residual_unet import PublishedUNet
from nnunet_mtl.networks.heads import DeepestStage, RegionHead
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.off_parts import FeatureWithTokens, NoBottleneckConditioning
from nnunet_mtl.networks.uniseg.prompt import UniversalPrompt

Build = Callable[..., Any]
TASKS = [0, 0, 1, 2, 2]


class MakesTokens(NoBottleneckConditioning):
    """A token per task, a linear map of the bottleneck's mean; the decoder reads the feature and one channel more."""

    gives_tokens: ClassVar[bool] = True

    def __init__(self, channels: int, num_tasks: int, bottleneck_size: Sequence[int]) -> None:
        super().__init__(channels, num_tasks, bottleneck_size)
        self.tokens = nn.Linear(channels, num_tasks * 2)
        self.num_tasks = num_tasks

    @staticmethod
    def extra_channels() -> int:
        return 1

    def forward(self, x: Tensor) -> FeatureWithTokens:
        mean = x.flatten(2).square().mean(2)  # behind an InstanceNorm the mean itself says nothing
        appended = torch.cat((x, x[:, :1]), dim=1)
        return FeatureWithTokens(appended, self.tokens(mean).unflatten(1, (self.num_tasks, 2)))


class MakesTaskTokens(MakesTokens):
    """The same, and all tokens are scaled by the task."""

    conditioned: ClassVar[bool] = True

    def forward(self, x: Tensor, task: Tensor) -> FeatureWithTokens:  # type: ignore[override]
        feature, tokens = super().forward(x)
        return FeatureWithTokens(feature, tokens * (1 + task.view(-1, 1, 1)))


class ReadsTokens(RegionHead):
    """Adds to the logits of a task's regions the sum of the task's token."""

    reads_tokens: ClassVar[bool] = True

    def __init__(self, layout: Layout, deepest_channels: int) -> None:
        super().__init__(layout, deepest_channels)
        self.task_of_region = list(layout.task_of_region)

    def context(self, deepest: DeepestStage, *task: Tensor) -> Tensor:
        assert deepest.tokens is not None
        assert deepest.before_norm is None
        return deepest.tokens.sum(2)[:, self.task_of_region]

    def forward(self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Any = None) -> Tensor:
        logits = seg_layer(features)
        return logits + context.view(*context.shape, *[1] * (logits.ndim - 2))


METHOD: dict[str, Any] = {"bottleneck_conditioning": MakesTokens, "segmentation_head": ReadsTokens}
NETWORKS = ["plain", "residual", "dodnet"]


def of(build: Build, kind: str, **own: Any) -> Any:
    if kind != "dodnet":
        return build(kind, **METHOD | own)
    torch.manual_seed(0)
    network = PublishedUNet(
        num_classes=5,
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 6, 8],
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1, 2, 2],
        n_blocks_per_stage=1,
        deep_supervision=True,
        task_of_region=TASKS,
        **METHOD | own,
    )
    return network.apply(network.initialize)


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_head_adds_the_tokens_of_the_bottleneck_at_every_scale(build: Build, kind: str) -> None:
    network, x, task = of(build, kind), image(), torch.tensor([2, 0])
    made: list[FeatureWithTokens] = []
    network.bottleneck_conditioning.register_forward_hook(lambda *call: made.append(call[2]))
    with torch.no_grad():
        output = network(x, task, full_output=True).segmentation
        network.bottleneck_conditioning.tokens.weight.zero_()
        network.bottleneck_conditioning.tokens.bias.zero_()
        without = network(x, task, full_output=True).segmentation
    assert len(output) == len(without) == 2
    added = made[0].tokens.sum(2)[:, TASKS]
    assert float(added.std()) > 0.01
    for scale, bare in zip(output, without, strict=True):
        torch.testing.assert_close(scale - bare, added[:, :, None, None].expand_as(bare), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("part", [MakesTokens, MakesTaskTokens])
@pytest.mark.parametrize("decoders", [{}, {"decoders": TaskDecoders}])
def test_all_tasks_equal_one_pass_per_task_and_every_weight_learns(
    build: Build, kind: str, part: type, decoders: dict[str, Any]
) -> None:
    network, x = of(build, kind, bottleneck_conditioning=part, **decoders), image(3)
    mixed = torch.tensor([2, 0, 1])
    output = network(x, mixed, full_output=True).segmentation
    for sample in range(3):
        alone = network(x[[sample]], mixed[[sample]])
        torch.testing.assert_close(output[0][[sample]], alone, atol=1e-4, rtol=1e-4)
    sum(scale.square().mean() for scale in output).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    network.eval()
    together = network(x)
    for region, owner in enumerate(TASKS):
        alone = network(x, torch.full((3,), owner))
        torch.testing.assert_close(together[:, region], alone[:, region], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_compilation_breaks_no_graph(build: Build, kind: str) -> None:
    torch._dynamo.reset()
    network, counter = of(build, kind), CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for task in (torch.tensor([0, 0]), torch.tensor([1, 2])):
        compiled(image(), task, full_output=True)
    assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("part", [NoBottleneckConditioning, UniversalPrompt])
def test_a_head_that_finds_no_tokens_is_refused_before_anything_is_built(build: Build, kind: str, part: type) -> None:
    with pytest.raises(ArchitectureError, match=r"segmentation_head=ReadsTokens reads tokens.* gives_tokens") as error:
        of(build, kind, bottleneck_conditioning=part, bottleneck_size=(4, 4))
    assert "\n" not in str(error.value)


def test_a_network_without_that_point_refuses_the_head_too(build_streamed: Build) -> None:
    with pytest.raises(ArchitectureError, match="reads tokens"):
        build_streamed(segmentation_head=ReadsTokens)
