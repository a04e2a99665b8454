"""The parts of ACSNet in the network: where they stand, and what the answers teach."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.acsnet.channel_attention_head import ChannelAttentionHead
from nnunet_mtl.networks.acsnet.deformable_attention import DeformableAttention, PlainAttention
from nnunet_mtl.networks.acsnet.gate_unit import GateAfterNorm, GateUnit
from nnunet_mtl.networks.classification import BottleneckHead, EvidenceHead, NoClassification, Question
from nnunet_mtl.networks.off_parts import NoStageAttention, NoTaskAttention

QUESTIONS: list[Question] = [{"name": "malignancy", "outputs": 2, "evidence": 0, "task": 0}]
ANISOTROPIC = [[1, 1, 1], [1, 2, 2], [2, 2, 1]]
Build = Callable[..., Any]


@pytest.fixture
def acsnet(build: Build) -> Build:
    def acsnet(kind: str = "plain", **changed: Any) -> Any:
        own: dict[str, Any] = {
            "task_attention": NoTaskAttention,
            "encoder_attention": GateUnit,
            "decoder_attention": DeformableAttention,
            "method_options": {"deformable_stages": 2},
            "classification": ChannelAttentionHead,
            "questions": QUESTIONS,
            "deep_supervision": False,
        }
        return build(kind, **(own | changed)).eval()

    return acsnet


def image(size: Sequence[int] = (16, 16)) -> Tensor:
    return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))


def outputs(network: nn.Module, x: Tensor) -> Any:
    return network(x, task=torch.zeros(len(x), dtype=torch.long), full_output=True)


def taught(network: Any) -> list[str]:
    """The parts of the network that the cross-entropy of the answers gives a gradient."""
    network.zero_grad()
    logits = outputs(network, image()).classification["malignancy"]
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    named = {
        **{f"encoder {stage}": part for stage, part in enumerate(network.encoder.stages)},
        **{f"gate {level}": part for level, part in enumerate(network.encoder_attention)},
        **{f"stage {level}": part for level, part in enumerate(network.decoder.stages)},
        **{f"attention {level}": part for level, part in enumerate(network.decoder_attention)},
        "output": network.decoder.seg_layers,
    }
    return [name for name, part in named.items() if any(p.grad is not None and p.grad.any() for p in part.parameters())]


FOUR = {"features": (4, 6, 8, 8)}  # stages; three in the decoder, two of them with attention


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_answers_teach_the_encoder_and_the_first_attention_and_nothing_behind_it(acsnet: Build, kind: str) -> None:
    encoder = [f"encoder {stage}" for stage in range(4)]
    reached = taught(acsnet(kind, **FOUR))
    assert reached == [*encoder, "gate 0", "gate 1", "stage 0", "attention 0"]
    # with another head in its place they do not get so far
    assert taught(acsnet(kind, **FOUR, classification=BottleneckHead)) == []  # whose last layer starts at zero
    control = acsnet(kind, **FOUR, classification=BottleneckHead)
    nn.init.ones_(control.classification.answers[0].output.weight[0])
    assert taught(control) == encoder


def test_with_frozen_features_answers_teach_the_branch_alone(acsnet: Build) -> None:
    network = acsnet(class_gradient=0.0)
    assert taught(network) == []
    assert all(p.grad is not None for p in network.classification.parameters())


def test_answers_follow_the_first_attention_and_not_the_second(acsnet: Build) -> None:
    network, x = acsnet(**FOUR), image()
    before = outputs(network, x)
    for level, follows in ((1, False), (0, True)):
        with torch.no_grad():
            network.decoder_attention[level].attend.first.convolution.bias.add_(torch.linspace(-1, 1, 8 - 2 * level))
        after = outputs(network, x)
        same = torch.equal(after.classification["malignancy"], before.classification["malignancy"])
        assert same != follows
        assert not torch.equal(after.segmentation, before.segmentation)


def calls(network: Any, x: Tensor) -> list[int]:
    """How often the gates, the attention and the first convolution of the encoder run in a pass over all tasks."""
    counts = [0, 0, 0]
    first = next(part for part in network.encoder.modules() if isinstance(part, nn.Conv2d | nn.Conv3d))
    for index, parts in enumerate((network.encoder_attention, network.decoder_attention, [first])):
        for part in parts:

            def count(*_: Any, index: int = index) -> None:
                counts[index] += 1

            part.register_forward_hook(count)
    with torch.no_grad():
        network(x)
    return counts


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_every_encoder_output_passes_a_gate_once_in_one_pass_for_all_tasks(acsnet: Build, kind: str) -> None:
    network = acsnet(kind, **FOUR)
    assert not network.conditioned
    assert calls(network, image()) == [4, 3, 1]
    assert [type(part) for part in network.encoder_attention] == [GateUnit] * 4


def test_the_gates_stand_behind_the_encoder_not_inside_it(acsnet: Build) -> None:
    """A closed gate takes nothing from the next stage of the encoder."""
    network, x = acsnet(encoder_attention=GateAfterNorm, **FOUR), image()
    inputs: list[Tensor] = []
    deepest = next(part for part in network.encoder.stages[3].modules() if isinstance(part, nn.Conv2d))
    deepest.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    before = network(x)
    with torch.no_grad():
        for gate in network.encoder_attention:
            gate.scores[-1].bias.fill_(-100.0)
    assert not torch.equal(network(x), before)
    assert torch.equal(inputs[0], inputs[1])


STRIDES = {2: ([2, 2], [2, 1], [1, 2], [2, 2]), 3: ([1, 2, 2], [2, 2, 1], [1, 1, 2])}


@pytest.mark.parametrize("stages", range(2, 9))
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_any_number_of_stages(acsnet: Build, kind: str, dimensions: int, stages: int) -> None:
    ones = [1] * dimensions
    strides = [ones, *STRIDES[dimensions], *[ones] * 8][:stages]
    features = [4, 5, 6, 8, 9, 4, 7, 8][:stages]
    network = acsnet(kind, dimensions=dimensions, features=features, strides=strides, convs=1)
    deformable = [bool(list(level.parameters())) for level in network.decoder_attention]
    assert deformable == [level < 2 for level in range(stages - 1)]
    factors = list(accumulate(strides, lambda a, b: [x * y for x, y in zip(a, b, strict=True)]))[-1]
    with torch.no_grad():
        result = outputs(network, x := image([2 * factor for factor in factors]))
        assert network(x).shape == (2, 5, *x.shape[2:])
    assert torch.isfinite(result.segmentation).all()
    assert torch.isfinite(result.classification["malignancy"]).all()


def test_its_kernels_are_3_along_every_axis_also_where_those_of_the_plans_are_1(acsnet: Build) -> None:
    network = acsnet(dimensions=3, strides=ANISOTROPIC, kernels=[[1, 3, 3]] * 3)
    gates = [gate.refine.kernel_size for gate in network.encoder_attention]
    deformable = [level.attend.first.convolution.kernel_size for level in network.decoder_attention]
    assert {*gates, *deformable} == {(3, 3, 3)}


def test_odd_sizes(acsnet: Build) -> None:
    network = acsnet(dimensions=3, strides=ANISOTROPIC)
    assert network(image((6, 8, 12))).shape == (2, 5, 6, 8, 12)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_each_part_is_off_by_itself(acsnet: Build, build: Build, kind: str) -> None:
    x = image()
    stock = build(kind, stock=True, deep_supervision=False).eval()
    off = {"encoder_attention": NoStageAttention, "decoder_attention": NoStageAttention}
    for changed in (
        {"encoder_attention": NoStageAttention},
        {"decoder_attention": NoStageAttention},
        {"decoder_attention": PlainAttention},
        {"classification": EvidenceHead},
        {"classification": BottleneckHead},
        {"classification": NoClassification, "questions": []},
        off,
    ):
        network = acsnet(kind, **changed)
        result = outputs(network, x)
        assert result.segmentation.shape == (2, 5, 16, 16)
        assert set(result.classification) == ({"malignancy"} if changed.get("questions", QUESTIONS) else set())
    network.load_state_dict(stock.state_dict(), strict=False)
    torch.testing.assert_close(network(x), stock(x), rtol=0, atol=0)  # with all of them off


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_parameters_by_the_formula(acsnet: Build, build: Build, kind: str, dimensions: int) -> None:
    features = (16, 32, 40, 48)
    network, stock = (
        make(kind, features=features, dimensions=dimensions, **own)
        for make, own in ((acsnet, {}), (build, {"stock": True}))
    )
    k = 3**dimensions
    gates = sum(k * (c * (c // 8) + 2 * (c // 8) + c * c) + 3 * (c // 8) + 3 * c + 2 for c in features)
    deformable = sum(k * (3 * c * c + 2) + 6 * c + 2 + (dimensions + 1) * k * (3 * k * c + 2) for c in (40, 32))
    read = (40, 48, 40)
    total = sum(read)
    branch = sum(3 * c * (c // 16) + c // 16 + c for c in read) + (total + 1) * (total // 2) + (total // 2 + 1) * 2
    count = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in stock.parameters())
    assert count == gates + deformable + branch


def test_nnunets_initialisation_leaves_the_attention_at_its_start(acsnet: Build) -> None:
    predictors = [value for name, value in acsnet().named_parameters() if ".predict." in name]
    assert len(predictors) == 8
    assert not any(value.any() for value in predictors)


@pytest.mark.parametrize("dimensions", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_it_compiles_whole(acsnet: Build, dimensions: int) -> None:
    torch._dynamo.reset()
    network, x = acsnet(dimensions=dimensions, features=(4, 6), convs=1), image([8] * dimensions)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    ours, theirs = outputs(network, x), outputs(compiled, x)
    torch.testing.assert_close(theirs.segmentation, ours.segmentation)
    torch.testing.assert_close(theirs.classification["malignancy"], ours.classification["malignancy"])
    torch._dynamo.reset()
