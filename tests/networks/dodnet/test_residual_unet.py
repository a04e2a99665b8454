import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from nnunet_mtl.networks.acsnet.channel_attention_head import ChannelAttentionHead
from nnunet_mtl.networks.architecture import (
    PUBLISHED_NETWORK,
    ArchitectureError,
    multitask_architecture,
)
from nnunet_mtl.networks.attention import TaskGuidedAttention
from nnunet_mtl.networks.decoders import SharedDecoder, TaskDecoders
from nnunet_mtl.networks.dodnet.dynamic_head import DynamicHead
from nnunet_mtl.networks.dodnet.residual_unet import PublishedUNet
from nnunet_mtl.networks.heads import RegionHead, SlotHead
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.off_parts import NoConditioning, NoEncoderConditioning, NoStageAttention, NoTaskAttention
from nnunet_mtl.networks.task_code import TaskCode
from nnunet_mtl.networks.tgnet.residual_gates import TaskGuidedResidual
from nnunet_mtl.networks.tgnet.skip_gates import ChannelGate, ParallelGates, SerialGates, SpatialGate
from nnunet_mtl.networks.uniseg.prompt import UniversalPrompt

TGNET = {"task_attention": ChannelGate, "encoder_conditioning": TaskGuidedResidual, "segmentation_head": DynamicHead}
# Five regions of three tasks; the third task has a tumour alone.
REGIONS = {"num_classes": 5, "task_of_region": [0, 0, 1, 1, 2], "slot_of_region": [0, 1, 0, 1, 1]}
MOTS = {
    "num_classes": 11,
    "task_of_region": [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6],
    "slot_of_region": [0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0],
}
CONV_OP = {2: nn.Conv2d, 3: nn.Conv3d}


def build(dimensions: int = 2, features: tuple[int, ...] = (4, 8, 8), **own: Any) -> PublishedUNet:
    torch.manual_seed(0)
    n_stages = len(features)
    kwargs: dict[str, Any] = {
        "input_channels": 1,
        "n_stages": n_stages,
        "features_per_stage": features,
        "conv_op": CONV_OP[dimensions],
        "kernel_sizes": [[3] * dimensions] * n_stages,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (n_stages - 1),
        "n_blocks_per_stage": [1, *[2] * (n_stages - 1)],
        "n_conv_per_stage_decoder": [1] * (n_stages - 1),
    }
    network = PublishedUNet(**kwargs | REGIONS | own)
    network.apply(network.initialize)
    return network


def published(**own: Any) -> PublishedUNet:
    with torch.device("meta"):
        return build(3, (32, 64, 128, 256, 256), full_resolution_only=True, **MOTS | own)


def count(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


def image(batch: int = 2, size: tuple[int, ...] = (16, 16)) -> Tensor:
    return torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(1))


def calls_of(module: nn.Module, network: nn.Module, *args: Any) -> int:
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    network(*args)
    handle.remove()
    return len(calls)


# ---- the published numbers


def test_the_backbone_has_17285920_parameters() -> None:
    network = published(segmentation_head=RegionHead)
    heads = count(network.segmentation_head, network.decoder.seg_layers)
    assert count(network) - heads == 17_285_920
    assert count(network.encoder, network.fusion, network.decoder.stages) == 17_285_920
    strided = [[1, 1, 1]] + [[2, 2, 2]] * 4
    assert network.encoder.strides == strided


def test_dodnet_adds_43608_parameters() -> None:
    network = published(segmentation_head=DynamicHead)
    assert count(network) == 17_285_920 + 43_608 == 17_329_528
    assert count(network.segmentation_head.controller) == 42_768
    assert count(network.segmentation_head.descriptor) == 512
    assert count(network.decoder.seg_layers) == 328


def test_the_two_mechanisms_of_tgnet_add_250304_parameters() -> None:
    network, dodnet = published(**TGNET, gates="faithful"), published(segmentation_head=DynamicHead)
    assert count(network) - count(dodnet) == 250_304
    assert count(network.task_attention) == 91_840
    assert count(network.encoder_conditioning) == 158_464
    assert round(100 * 250_304 / 17_285_920, 2) == 1.45


def test_sixteen_groups_and_standardised_filters_everywhere_but_in_the_heads() -> None:
    network = published(**TGNET)
    trunk = nn.ModuleList([network.encoder, network.fusion, network.decoder.stages])
    assert {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)} == {16}
    kinds = {type(m).__name__ for m in trunk.modules() if isinstance(m, nn.Conv3d)}
    assert kinds == {"StandardisedConv3d"}
    assert {type(m).__name__ for m in network.decoder.seg_layers.modules() if isinstance(m, nn.Conv3d)} == {"Conv3d"}
    assert all(m.bias is None for m in trunk.modules() if isinstance(m, nn.Conv3d))


def test_the_network_is_that_of_the_equations() -> None:
    network = build(features=(4, 6, 8), n_conv_per_stage_decoder=2, segmentation_head=RegionHead)
    x = image()
    skips = [network.encoder.stages[0](network.encoder.stem(x))]
    for stage in list(network.encoder.stages)[1:]:
        skips.append(stage(skips[-1]))
    fused = network.fusion.conv(functional.relu(network.fusion.norm.norm(skips[-1])))
    assert fused.shape[1] == 6
    for skip, stage in zip(skips[-2::-1], network.decoder.stages, strict=True):
        upsampled = nn.Upsample(scale_factor=2, mode="bilinear")(fused)
        fused = stage(upsampled + skip)
    assert fused.shape == (2, 4, 16, 16)
    norm, convolution = network.decoder.seg_layers[-1]
    expected = convolution(functional.relu(functional.group_norm(fused, 2, norm.norm.weight, norm.norm.bias)))
    torch.testing.assert_close(network(x), expected)


def test_scaling_and_shifting_every_filter_of_the_trunk_changes_nothing() -> None:
    network = build(3, **TGNET)
    scaled = copy.deepcopy(network)
    with torch.no_grad():
        for part in (scaled.encoder, scaled.fusion, scaled.decoder.stages):
            for module in part.modules():
                if isinstance(module, nn.Conv3d):
                    module.weight.mul_(3).add_(0.5)
    x, task = image(2, (8, 8, 8)), torch.tensor([0, 2])
    torch.testing.assert_close(scaled(x, task), network(x, task), atol=1e-3, rtol=1e-3)


# ---- what nnU-Net asks of a network


SHAPES = [
    (2, (4, 8), [[1, 1], [2, 2]], 3, (16, 16)),
    (2, (4, 6, 8, 8), [[1, 1], [2, 1], [1, 2], [2, 2]], [[3, 1], [3, 3], [1, 3], [3, 3]], (9, 7)),
    (3, (2, 4, 8), [[1, 1, 1], [1, 2, 2], [2, 2, 1]], [[1, 3, 3], [1, 3, 3], [3, 3, 3]], (5, 12, 9)),
    (3, (2, 3, 5), [1, 2, 2], 3, (8, 8, 8)),
]


@pytest.mark.parametrize(("dimensions", "features", "strides", "kernels", "size"), SHAPES)
@pytest.mark.parametrize("parts", [{}, TGNET], ids=["plain", "tgnet"])
def test_any_depth_width_stride_and_size(
    dimensions: int, features: tuple[int, ...], strides: Any, kernels: Any, size: tuple[int, ...], parts: dict[str, Any]
) -> None:
    network = build(dimensions, features, strides=strides, kernel_sizes=kernels, deep_supervision=True, **parts)
    x, task = image(2, size), torch.tensor([2, 0])
    assert network(x).shape == (2, 5, *size)
    output = network(x, task, full_output=True).segmentation
    assert [len(output), output[0].shape] == [len(features) - 1, (2, 5, *size)]
    sum(scale.square().mean() for scale in output).backward()
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in network.parameters())
    torch.testing.assert_close(network(x, task), output[0])


def test_deep_supervision_is_switched_on_the_decoder_and_needs_no_other_weights() -> None:
    network, other = build(deep_supervision=True), build()
    other.load_state_dict(network.state_dict())
    assert not other.deep_supervision
    other.decoder.deep_supervision = True
    x, task = image(), torch.tensor([0, 1])
    scales = other(x, task, full_output=True).segmentation
    assert [scale.shape[2:] for scale in scales] == [(16, 16), (8, 8)]
    other.decoder.deep_supervision = False
    assert isinstance(other(x, task, full_output=True).segmentation, Tensor)


def test_at_full_resolution_alone_there_is_one_segmentation_layer_and_no_deep_supervision() -> None:
    network = build(features=(4, 8, 8, 8), full_resolution_only=True)
    assert len(network.decoder.seg_layers) == 1
    assert network.decoder.seg_layers[0][1].in_channels == 4
    assert network(image()).shape == (2, 5, 16, 16)
    with pytest.raises(ArchitectureError, match="deep_supervision=false") as error:
        build(full_resolution_only=True, deep_supervision=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("dimensions", "features", "strides", "kernels", "size"), SHAPES)
@pytest.mark.parametrize("only", [False, True])
def test_the_planners_estimate_counts_what_convolutions_make(
    dimensions: int, features: tuple[int, ...], strides: Any, kernels: Any, size: tuple[int, ...], only: bool
) -> None:
    network = build(
        dimensions,
        features,
        strides=strides,
        kernel_sizes=kernels,
        full_resolution_only=only,
        deep_supervision=not only,
    )
    made: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(lambda *call: made.append(call[2][0].numel()))
    network(image(1, size), torch.tensor([0]), full_output=True)
    assert network.compute_conv_feature_map_size(size) == sum(made)


def test_initialisation_is_nnunets() -> None:
    network = build(segmentation_head=DynamicHead)
    weight = network.encoder.stages[1].blocks[0].conv1.weight
    assert float(weight.detach().std()) == pytest.approx((2 / (1 + 1e-4) / (4 * 9)) ** 0.5, rel=0.2)
    assert not network.decoder.seg_layers[-1][1].bias.any()
    controller = build(segmentation_head=DynamicHead).segmentation_head.controller.weight
    assert torch.equal(controller, network.segmentation_head.controller.weight)
    assert network.get_submodule(network.key_to_stem) is network.encoder.stem


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"features": (1, 4, 4)}, "arch_kwargs.features_per_stage"),
        ({"features": (8,)}, "arch_kwargs.features_per_stage"),
        ({"norm_op": nn.InstanceNorm2d}, "arch_kwargs.norm_op"),
        ({"strides": [1, 2]}, "arch_kwargs.strides"),
        ({"n_blocks_per_stage": [1, 2]}, "arch_kwargs.n_blocks_per_stage"),
        ({"n_conv_per_stage_decoder": [1]}, "arch_kwargs.n_conv_per_stage_decoder"),
        ({"kernel_sizes": [3]}, "arch_kwargs.kernel_sizes"),
        ({"task_attention": None}, "arch_kwargs.task_attention"),
        ({"classification": ChannelAttentionHead}, "no attention behind its coarsest .* --set class_head=evidence"),
        ({"decoder_conditioning": None}, "arch_kwargs.decoder_conditioning"),
    ],
)
def test_what_cannot_be_built_is_named_in_one_line(own: dict[str, Any], named: str) -> None:
    with pytest.raises(ArchitectureError, match=named) as error:
        build(**own)
    assert "\n" not in str(error.value)


# ---- where the task enters


POINTS: list[tuple[str, dict[str, Any], tuple[int, int, int, int]]] = [
    # calls of stem, fusion, first decoder stage and last segmentation layer for three tasks
    ("nothing", {"segmentation_head": SlotHead}, (1, 1, 1, 1)),
    ("input", {"input_conditioning": TaskCode, "segmentation_head": SlotHead}, (3, 3, 3, 3)),
    ("encoder", {"encoder_conditioning": TaskGuidedResidual, "segmentation_head": SlotHead}, (3, 3, 3, 3)),
    ("bottleneck", {"bottleneck_conditioning": UniversalPrompt, "bottleneck_size": (4, 4)}, (1, 3, 3, 3)),
    *(
        (gate.__name__, {"task_attention": gate, "segmentation_head": SlotHead}, (1, 1, 3, 3))
        for gate in (ChannelGate, SpatialGate, SerialGates, ParallelGates, TaskGuidedAttention)
    ),
    ("decoder", {"decoder_conditioning": TaskCode, "segmentation_head": SlotHead}, (1, 1, 3, 3)),
    ("decoders", {"decoders": TaskDecoders, "segmentation_head": SlotHead}, (1, 1, 1, 1)),
    ("head", {"segmentation_head": DynamicHead}, (1, 1, 1, 3)),
    ("tgnet", TGNET, (3, 3, 3, 3)),
]


def trained(network: PublishedUNet) -> PublishedUNet:
    with torch.no_grad():
        for name, value in network.named_parameters():
            if not name.startswith(("encoder.", "fusion.", "decoder.")):
                value.add_(0.3 * torch.randn_like(value))
    network.train()
    network(image(4), torch.tensor([0, 1, 2, 0]))  # running estimates of some gates
    return network.eval()


@pytest.mark.parametrize(("own", "calls"), [point[1:] for point in POINTS], ids=[point[0] for point in POINTS])
def test_all_tasks_cost_what_their_point_allows_and_equal_one_pass_per_task(
    own: dict[str, Any], calls: tuple[int, ...]
) -> None:
    network, x = trained(build(**own)), image()
    parts = network.encoder.stem, network.fusion, network.decoder.stages[0], network.decoder.seg_layers[-1]
    assert tuple(calls_of(part, network, x) for part in parts) == calls
    together = network(x)
    for region, owner in enumerate(REGIONS["task_of_region"]):
        alone = network(x, torch.tensor([owner, owner]))
        torch.testing.assert_close(together[:, region], alone[:, region], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("own", [point[1] for point in POINTS], ids=[point[0] for point in POINTS])
def test_a_mixed_batch_is_its_samples_one_by_one_and_every_weight_learns(own: dict[str, Any]) -> None:
    network, x, task = trained(build(**own)), image(3), torch.tensor([2, 0, 1])
    mixed = network(x, task)
    for sample in range(3):
        alone = network(x[[sample]], task[[sample]])
        torch.testing.assert_close(mixed[[sample]], alone, atol=1e-4, rtol=1e-4)
    network.train()
    network.decoder.deep_supervision = True
    sum(scale.square().mean() for scale in network(x, task, full_output=True).segmentation).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize(
    "own", [point[1] for point in POINTS if point[0] != "nothing"], ids=[p[0] for p in POINTS if p[0] != "nothing"]
)
def test_the_task_changes_the_logits(own: dict[str, Any]) -> None:
    network, x = trained(build(**own)), image(1).expand(2, -1, -1, -1)
    first, second = network(x, torch.tensor([0, 2]))
    assert float((first - second).detach().abs().max()) > 1e-3


def test_without_a_task_there_is_one_answer() -> None:
    network, x = build(segmentation_head=SlotHead), image()
    assert not network.conditioned
    assert torch.equal(network(x, torch.tensor([0, 1])), network(x, torch.tensor([2, 2])))


@pytest.mark.parametrize("point", ["input_conditioning", "decoder_conditioning"])
def test_the_code_is_read_by_convolutions_alone(point: str) -> None:
    """No normalisation reads it: in a constant channel it would leave nothing of the code."""
    plain, coded = build(segmentation_head=SlotHead), build(segmentation_head=SlotHead, **{point: TaskCode})
    extra = {
        name: tuple(value.shape)
        for name, value in coded.state_dict().items()
        if value.shape != plain.state_dict()[name].shape
    }
    expected = (
        {"encoder.stem.weight": (4, 1 + 3, 3, 3)}
        if point == "input_conditioning"
        else {
            "decoder.stages.0.blocks.0.conv1.weight": (4, 8 + 3, 3, 3),
            "decoder.stages.1.blocks.0.conv1.weight": (4, 4 + 3, 3, 3),
        }
    )
    assert extra == expected


def test_a_prompt_is_read_by_the_fusion() -> None:
    network = build(bottleneck_conditioning=UniversalPrompt, bottleneck_size=(4, 4))
    assert network.fusion.conv.weight.shape == (8, 8 + 1, 1, 1)


def test_gates_read_what_is_upsampled_before_and_after() -> None:
    network, x = build(task_attention=ChannelGate), image()
    seen: list[tuple[Tensor, ...]] = []
    for gate in network.task_attention:
        gate.register_forward_pre_hook(lambda _, args: seen.append(args))
    network(x, torch.tensor([1, 0]))
    assert [tuple(t.shape[1:] for t in args[:3]) for args in seen] == [
        ((8, 8, 8), (8, 4, 4), (8, 8, 8)),
        ((4, 16, 16), (4, 8, 8), (4, 16, 16)),
    ]
    for _, coarser, upsampled, task in seen:
        torch.testing.assert_close(functional.interpolate(coarser, scale_factor=2, mode="bilinear"), upsampled)
        assert task.tolist() == [1, 0]


def test_with_open_gates_tgnet_is_dodnet() -> None:
    dodnet, tgnet = build(segmentation_head=DynamicHead), build(**TGNET, gates="faithful")
    tgnet.load_state_dict(dodnet.state_dict(), strict=False)
    x, task = image(), torch.tensor([0, 2])
    assert not torch.allclose(tgnet(x, task), dodnet(x, task), atol=1e-3)
    for part in (*tgnet.task_attention, *tgnet.encoder_conditioning):
        nn.init.constant_(part.gate.output.bias, 1000)
    torch.testing.assert_close(tgnet(x, task), dodnet(x, task))


def test_the_head_reads_the_fusion() -> None:
    network, x = build(features=(4, 6, 8), segmentation_head=DynamicHead), image()
    read: list[Tensor] = []
    made: list[Tensor] = []
    network.fusion.register_forward_hook(lambda *call: made.append(call[2][0]))
    network.segmentation_head.descriptor.register_forward_hook(lambda *call: read.append(call[1][0]))
    network(x, torch.tensor([0, 1]))
    assert read[0] is made[0]
    assert read[0].shape == (2, 6, 4, 4)


QUESTIONS = [
    {"name": "malignant", "outputs": 2, "evidence": 1, "task": 0},
    {"name": "severity", "outputs": 3, "evidence": -1, "task": -1},
]


@pytest.mark.parametrize("head", ["EvidenceHead", "BottleneckHead"])
def test_answers_are_read_from_the_encoder_and_send_gradients_there(head: str) -> None:
    from nnunet_mtl.networks import classification

    own = {"classification": getattr(classification, head), "questions": QUESTIONS, "class_gradient": 0.5}
    network = build(features=(4, 6, 8), **TGNET, **own)
    for answer in network.classification.answers:
        perceptron = getattr(answer, "perceptron", answer)
        nn.init.normal_(perceptron.output.weight)
    output = network(image(4), torch.tensor([0, 1, 2, 0]), full_output=True)
    shapes = {name: tuple(logits.shape) for name, logits in output.classification.items()}
    assert shapes == {"malignant": (4, 2), "severity": (4, 3)}
    sum(logits.square().sum() for logits in output.classification.values()).backward()
    assert float(network.encoder.stem.weight.grad.abs().sum()) > 0


def test_compilation_recompiles_for_no_task() -> None:
    torch._dynamo.reset()
    network = build(features=(4, 8), **TGNET)
    counter = CompileCounter()
    compiled = torch.compile(lambda x, task: network(x, task), backend=counter, fullgraph=True)
    for tasks in ([0, 0], [1, 2], [2, 0]):
        task = torch.tensor(tasks)
        torch.testing.assert_close(compiled(image(), task), network(image(), task), atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_trainers_keep_the_class_and_set_its_parts() -> None:
    architecture = {
        "network_class_name": PUBLISHED_NETWORK,
        "arch_kwargs": {"strides": [[1, 1], [2, 2]], "full_resolution_only": True},
        "_kw_requires_import": ["conv_op"],
    }
    layout = Layout((0, 0, 1), (0, 1, 0), ((1, 2), (2,), (3,)))
    block = multitask_architecture(architecture, layout=layout, patch_size=[16, 16], parts={}, gates="faithful")
    assert block["network_class_name"] == PUBLISHED_NETWORK == f"{PublishedUNet.__module__}.{PublishedUNet.__name__}"
    assert block["arch_kwargs"]["full_resolution_only"]
    assert block["arch_kwargs"]["bottleneck_size"] == [8, 8]


def test_off_is_the_default_everywhere() -> None:
    network = build()
    parts = [*network.task_attention, *network.encoder_conditioning, network.decoders, network.input_conditioning]
    assert {type(part) for part in parts} == {NoTaskAttention, NoEncoderConditioning, SharedDecoder, NoConditioning}
    assert all("." in name and name.split(".")[0] in ("encoder", "fusion", "decoder") for name in network.state_dict())


def test_outputs_of_encoder_and_decoder_pass_attention_where_there_is_some() -> None:
    class Doubled(NoStageAttention):
        def __init__(self, channels: int, level: int, dimensions: int) -> None:
            super().__init__(channels, level, dimensions)
            self.channels = channels

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == self.channels
            return 2 * x

    image = torch.randn(2, 1, 16, 16)
    off = build().eval()(image)
    for point, count in (("encoder_attention", 3), ("decoder_attention", 2)):
        network = build(**{point: Doubled}).eval()
        assert len(getattr(network, point)) == count
        assert not torch.allclose(network(image), off)
        assert torch.equal(build(**{point: NoStageAttention}).eval()(image), off)
