"""The U-Net with a classification head."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from nnunet_mtl.networks.classification import (
    BottleneckHead,
    EvidenceHead,
    KnownEvidence,
    NoClassification,
    Question,
)
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.heads import SlotHead
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.networks.off_parts import NoTaskAttention
from nnunet_mtl.networks.task_passes import OFF

Build = Callable[..., nn.Module]
Trained = Callable[[nn.Module], nn.Module]
CallsOf = Callable[[nn.Module], AbstractContextManager[list[tuple[Any, ...]]]]
SavedBytes = Callable[[Callable[[], object]], int]
KINDS = ["plain", "residual"]
HEADS = [EvidenceHead, BottleneckHead]
ATTENTIONS: list[dict[str, Any]] = [{}, {"task_attention": NoTaskAttention}]
# of tasks 2 and 0, of none, and of 2 again; regions belong to tasks 0, 0, 1, 2, 2
QUESTIONS: list[Question] = [
    {"name": "spread", "outputs": 2, "evidence": 4, "task": 2},
    {"name": "grade", "outputs": 3, "evidence": 1, "task": 0},
    {"name": "contrast phase", "outputs": 4, "evidence": -1, "task": -1},
    {"name": "signs", "outputs": 1, "evidence": 3, "task": 2},
]
ASKED: dict[str, Any] = {"questions": QUESTIONS, "classification": EvidenceHead}


def image(batch: int = 2, dimensions: int = 2, size: int = 16) -> Tensor:
    return torch.randn(batch, 1, *[size] * dimensions, generator=torch.Generator().manual_seed(1))


def known_everywhere(batch: int = 2, size: int = 16) -> KnownEvidence:
    """The middle quarter of the patch for every question."""
    mask = torch.zeros(batch, len(QUESTIONS), size, size, dtype=torch.bool)
    mask[..., size // 4 : -size // 4, size // 4 : -size // 4] = True
    return KnownEvidence(mask, torch.ones(batch, len(QUESTIONS), dtype=torch.bool))


def same_answers(output: MultiTaskOutput, expected: MultiTaskOutput, names: list[str]) -> None:
    for name in names:
        torch.testing.assert_close(output.classification[name], expected.classification[name], atol=1e-4, rtol=1e-4)
        if name in expected.evidence:
            torch.testing.assert_close(output.evidence[name], expected.evidence[name], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "layout",
    [
        {"features": (4, 5), "dimensions": 2},
        {"features": (3, 5, 7, 7), "dimensions": 3, "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]},
        {"features": (4, 6, 8), "dimensions": 2, "strides": [[1, 1], [3, 2], [2, 3]], "convs": 3},
        {"features": (5, 4, 3), "dimensions": 2, "convs": 1},
        {"segmentation_head": SlotHead, "slot_of_region": [0, 1, 0, 0, 1]},
    ],
)
def test_any_layout_of_stages_gives_answers_of_the_questions_outputs(
    build: Build, kind: str, head: type, layout: dict[str, Any]
) -> None:
    network = build(kind, questions=QUESTIONS, classification=head, **layout)
    dimensions = layout.get("dimensions", 2)
    size = (37, 36) if [3, 2] in layout.get("strides", []) else (32, 16, 24)[:dimensions]
    x = torch.randn(2, 1, *size) if size != (37, 36) else torch.randn(2, 1, 36, 36)
    for output in (network(x, full_output=True), network(x, task=torch.tensor([2, 0]), full_output=True)):
        assert list(output.classification) == [question["name"] for question in QUESTIONS]
        for question in QUESTIONS:
            assert output.classification[question["name"]].shape == (2, question["outputs"])
        assert set(output.evidence) == {"spread", "grade", "signs"}
        assert all(volume.shape == (2,) for volume in output.evidence.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("head", HEADS)
def test_one_call_answers_every_question_once_as_a_call_with_its_task_does(
    build: Build, trained: Trained, calls_of: CallsOf, kind: str, attention: dict[str, Any], head: type
) -> None:
    network = trained(build(kind, questions=QUESTIONS, classification=head, **attention))
    stem = network.get_submodule(network.keys_to_in_proj[0])
    with calls_of(stem) as encoder_calls, calls_of(network.classification) as head_calls:
        output = network(image(), full_output=True)
    assert len(encoder_calls) == 1
    assert sorted(arguments[0] for arguments in head_calls) == [0, 1, 2, 3]
    assert torch.equal(output.segmentation, network(image()))
    for question in QUESTIONS:
        tasks = [question["task"]] if question["task"] >= 0 else [0, 1, 2]
        for task in tasks:
            alone = network(image(), task=torch.tensor([task, task]), full_output=True)
            same_answers(output, alone, [question["name"]])


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_batch_of_mixed_tasks_is_answered_as_its_samples_one_by_one(
    build: Build, trained: Trained, attention: dict[str, Any]
) -> None:
    network = trained(build(**ASKED, **attention))
    x, task = image(4), torch.tensor([2, 0, 1, 2])
    known = known_everywhere(4)
    known.known[1:] = torch.rand(3, len(QUESTIONS), generator=torch.Generator().manual_seed(0)) > 0.5
    together = network(x, task=task, full_output=True, evidence=known)
    for n in range(4):
        of_sample = KnownEvidence(known.mask[n : n + 1], known.known[n : n + 1])
        alone = network(x[n : n + 1], task=task[n : n + 1], full_output=True, evidence=of_sample)
        for name, logits in alone.classification.items():
            torch.testing.assert_close(together.classification[name][n : n + 1], logits, atol=1e-3, rtol=1e-3)


def test_questions_read_the_decoder_of_the_task_they_are_asked_under_but_for_those_without_evidence(
    build: Build, trained: Trained
) -> None:
    network = trained(build(**ASKED))
    outputs = [
        network(image(), task=torch.tensor([task, task]), full_output=True, evidence=known_everywhere())
        for task in (0, 2)
    ]
    for question in QUESTIONS:
        first, second = (output.classification[question["name"]] for output in outputs)
        assert torch.equal(first, second) == (question["evidence"] < 0)


@pytest.mark.parametrize("head", HEADS)
def test_known_evidence_is_used_where_it_is_known_and_the_own_probability_elsewhere(
    build: Build, trained: Trained, head: type
) -> None:
    network = trained(build(questions=QUESTIONS, classification=head))
    x, task = image(), torch.tensor([2, 2])
    own = network(x, task=task, full_output=True)
    probability = torch.sigmoid(own.segmentation[0]).flatten(2)
    probability = (probability * (probability >= 0.1)).sum(2)
    torch.testing.assert_close(own.evidence["spread"], probability[:, 4])
    torch.testing.assert_close(own.evidence["grade"], probability[:, 1])
    known = known_everywhere()
    known.known[0] = False
    half = network(x, task=task, full_output=True, evidence=known)
    assert float(half.evidence["spread"][1]) == 64
    assert float(half.evidence["spread"][0]) == float(own.evidence["spread"][0])
    for name in ("spread", "grade", "signs"):
        assert torch.equal(half.classification[name][0], own.classification[name][0])
        differs = not torch.equal(half.classification[name][1], own.classification[name][1])
        assert differs == (head is EvidenceHead)


def test_each_question_has_its_own_known_evidence(build: Build, trained: Trained) -> None:
    network = trained(build(**ASKED))
    task = torch.tensor([2, 0])
    before = network(image(), task=task, full_output=True, evidence=known_everywhere())
    known = known_everywhere()
    known.mask[:, 1, 6:10, 6:10] = False
    after = network(image(), task=task, full_output=True, evidence=known)
    changed = [n for n, logits in after.classification.items() if not torch.equal(logits, before.classification[n])]
    assert changed == ["grade"]
    assert after.evidence["grade"].tolist() == [48, 48]
    assert after.evidence["spread"].tolist() == [64, 64]
    known = known_everywhere()
    known.known[:, 1] = False
    own = network(image(), task=task, full_output=True, evidence=known)
    assert own.evidence["grade"].tolist() != [64, 64]
    assert own.evidence["spread"].tolist() == own.evidence["signs"].tolist() == [64, 64]


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_send_their_gradient_into_the_features_but_not_through_the_evidence(
    build: Build, trained: Trained, kind: str
) -> None:
    network = trained(build(kind, **ASKED))
    output = network(image(), task=torch.tensor([2, 2]), full_output=True)
    output.classification["spread"].square().sum().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert not any(".seg_layers." in name or name.startswith("decoder.stages.1.") for name in reached)
    assert not any(volume.requires_grad for volume in output.evidence.values())
    # the last convolution of a stage, before its normalisation
    for stage in range(3):
        inside = [n for n in reached if n.startswith(f"encoder.stages.{stage}.") and n.endswith("conv.weight")]
        assert any(bool(network.get_parameter(name).grad.abs().sum() > 0) for name in inside)
    assert "decoder.stages.0.convs.1.conv.weight" in reached
    assert "decoder.stages.0.convs.1.norm.weight" not in reached


def test_without_pooling_on_the_way_nothing_beyond_the_receptive_field_of_the_evidence_moves_the_logit(
    build: Build, trained: Trained
) -> None:
    # Normalisation and gates pool over the patch: the ways by which the outside reaches an answer after all.
    free = {"norm_op": None, "norm_op_kwargs": None, "task_attention": NoTaskAttention}
    network = trained(build(features=(4, 6), **ASKED, **free))
    x, task, known = image(size=64), torch.tensor([2, 0]), known_everywhere(size=64)
    before = network(x, task=task, full_output=True, evidence=known).classification
    far, inside = x.clone(), x.clone()
    far[..., :4, :] += 5
    inside[..., 30:34, 30:34] += 5
    after = network(far, task=task, full_output=True, evidence=known).classification
    moved = network(inside, task=task, full_output=True, evidence=known).classification
    for name in ("grade", "signs"):
        torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=1e-5)
        assert bool(((moved[name] - before[name]).abs() > 1e-2).any(1).all())


def shuffled(x: Tensor, where: Tensor) -> Tensor:
    """The same voxels in another order, where told."""
    result = x.clone()
    voxels = x[..., where]
    result[..., where] = voxels[..., torch.randperm(voxels.shape[-1])]
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_texture_inside_the_evidence_moves_the_logit_much_more_than_texture_outside(
    build: Build, kind: str, head: type
) -> None:
    # Mean and variance of the outside come in through the normalisation; another order of its voxels changes neither.
    own = {"questions": QUESTIONS, "classification": head, "task_attention": NoTaskAttention}
    network = build(kind, features=(8, 16, 16), **own)
    for parameter in network.classification.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, task, known = image(16, size=64), torch.full((16,), 2), known_everywhere(16, size=64)
    inside, outside = torch.zeros(64, 64, dtype=torch.bool), torch.ones(64, 64, dtype=torch.bool)
    inside[24:40, 24:40], outside[8:-8, 8:-8] = True, False
    known.mask.copy_(inside.expand_as(known.mask))
    for _ in range(3):
        network(torch.randn_like(x), task=task, full_output=True, evidence=known)
    network.eval()

    def moved(where: Tensor) -> float:
        outputs = (network(each, task=task, full_output=True, evidence=known) for each in (x, shuffled(x, where)))
        first, second = (output.classification["spread"] for output in outputs)
        return float((first - second).abs().mean())

    with torch.no_grad():
        ratio = moved(inside) / moved(outside)
    assert (ratio > 4) if head is EvidenceHead else (ratio < 1)


@pytest.mark.parametrize("head", HEADS)
def test_network_of_x_computes_no_head_and_keeps_no_features(build: Build, calls_of: CallsOf, head: type) -> None:
    network = build(questions=QUESTIONS, classification=head)
    with calls_of(network.classification) as head_calls:
        network(image())
        network(image(), task=torch.tensor([1, 2]))
    assert not head_calls
    encode, *_ = network.steps(raw=False, keep_features=False)
    encoded = encode.run(image())
    assert encoded.before_norm is None
    assert encoded.deepest_before_norm is None


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_changes_no_bit_of_the_segmentation(build: Build, kind: str, dimensions: int) -> None:
    asked, silent = build(kind, dimensions=dimensions, **ASKED), build(kind, dimensions=dimensions)
    silent.load_state_dict({n: v for n, v in asked.state_dict().items() if not n.startswith("classification.")})
    x, task = image(2, dimensions), torch.tensor([2, 0])
    expected = silent(x, task=task, full_output=True)
    output = asked(x, task=task, full_output=True)
    for scale, expected_scale in zip(output.segmentation, expected.segmentation, strict=True):
        assert torch.equal(scale, expected_scale)
    assert torch.equal(asked(x, full_output=True).segmentation, silent(x))
    assert torch.equal(asked(x), silent(x))
    assert expected.classification == {}


def test_without_a_head_the_parameters_are_those_of_before_whatever_is_asked(build: Build) -> None:
    plain, off = build(), build(questions=QUESTIONS, classification=NoClassification)
    assert list(plain.state_dict()) == list(off.state_dict())
    assert off(image(), full_output=True).classification == {}
    added = set(build(**ASKED).state_dict()) - set(plain.state_dict())
    assert added
    assert all(name.startswith("classification.answers.") for name in added)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_selected_tasks_are_segmented_and_their_questions_answered(
    build: Build, trained: Trained, calls_of: CallsOf, attention: dict[str, Any]
) -> None:
    network = trained(build(**ASKED, **attention))
    whole = network(image(), full_output=True)
    network.select_tasks([2])
    with calls_of(network.decoder.transpconvs[0]) as decoder_calls:
        output = network(image(), full_output=True)
    assert len(decoder_calls) == 1
    assert torch.equal(output.segmentation[:, 3:], whole.segmentation[:, 3:])
    assert bool((output.segmentation[:, :3] == OFF).all())
    assert list(output.classification) == ["spread", "contrast phase", "signs"]
    same_answers(output, whole, list(output.classification))
    assert torch.equal(network(image()), output.segmentation)
    assert torch.equal(
        network(image(), task=torch.tensor([0, 1])), build_again(network, build)(image(), torch.tensor([0, 1]))
    )


def build_again(network: nn.Module, build: Build) -> nn.Module:
    """The same network with nothing selected."""
    own: dict[str, Any] = dict(ASKED)
    if not list(network.task_attention.parameters()):
        own["task_attention"] = NoTaskAttention
    other = build(**own).eval()
    other.load_state_dict(network.state_dict())
    return other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_a_step_reaches_every_parameter_if_the_loss_touches_every_answer(build: Build, kind: str, head: type) -> None:
    network = build(kind, questions=QUESTIONS, classification=head)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        output = network(image(), task=torch.tensor([1, 1]), full_output=True, evidence=known_everywhere())
        loss = sum(scale.square().mean() for scale in output.segmentation)
        (loss + sum((logits - 1).square().sum() for logits in output.classification.values())).backward()
        missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert not missing
        optimizer.step()
    still = [
        name
        for name, parameter in network.classification.named_parameters()
        if not bool(parameter.grad.abs().sum() > 0)
    ]
    assert not still


def test_a_batch_without_any_evidence_still_touches_every_parameter(build: Build) -> None:
    network = build(**ASKED)
    nothing = KnownEvidence(torch.zeros_like(known_everywhere().mask), known_everywhere().known)
    output = network(image(), task=torch.tensor([1, 1]), full_output=True, evidence=nothing)
    sum(logits.sum() for logits in output.classification.values()).backward()
    gradients = [parameter.grad for parameter in network.classification.parameters()]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    assert output.evidence["spread"].tolist() == [0, 0]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question", QUESTIONS[1:3])
def test_autograd_keeps_little_more_for_an_answer(
    build: Build, saved_bytes: SavedBytes, kind: str, autocast: bool, question: Question
) -> None:
    # Features are a quarter of the default 3D plans': one channel of evidence is four times as much here.
    asked, silent = (
        build(kind, dimensions=3, features=(8, 16, 32, 64), **own)
        for own in ({"questions": [question], "classification": EvidenceHead}, {})
    )
    x, task = torch.randn(2, 1, 32, 32, 32), torch.tensor([0, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        before, after = (saved_bytes(lambda n=n: n(x, task=task, full_output=True)) for n in (silent, asked))
    assert 0 < after / before - 1 <= 0.02


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_autocast_gives_single_precision_answers_near_those_of_float32(
    build: Build, trained: Trained, head: type
) -> None:
    network = trained(build(questions=QUESTIONS, classification=head))
    task = torch.tensor([0, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image(), task=task, full_output=True, evidence=known_everywhere())
        sum(logits.square().sum() for logits in output.classification.values()).backward()
    expected = network(image(), task=task, full_output=True, evidence=known_everywhere())
    for name, logits in output.classification.items():
        assert logits.dtype == torch.float32
        error = (logits - expected.classification[name]).abs().mean()
        assert bool(error < 0.1 * expected.classification[name].abs().mean())
    assert all(volume.dtype == torch.float32 for volume in output.evidence.values())


@pytest.mark.parametrize("kind", KINDS)
def test_compilation_breaks_no_graph_and_recompiles_for_no_task(build: Build, kind: str) -> None:
    torch._dynamo.reset()
    network = build(kind, features=(4, 6), convs=1, questions=QUESTIONS[1:3], classification=EvidenceHead)
    counter = CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    known = KnownEvidence(*(tensor[:, 1:3] for tensor in known_everywhere()))
    for task in ([0, 0], [1, 2], [2, 0]):
        output = compiled(image(), task=torch.tensor(task), full_output=True, evidence=known)
        total = sum(scale.mean() for scale in output.segmentation)
        (total + sum(logits.sum() for logits in output.classification.values())).backward()
    assert counter.frame_count == 1
    compiled.eval()
    task = torch.tensor([1, 2])
    answers, expected = (
        each(image(), task=task, full_output=True, evidence=known).classification for each in (compiled, network)
    )
    for name, logits in expected.items():
        torch.testing.assert_close(answers[name], logits)
    torch._dynamo.reset()


def test_a_saved_network_gives_the_same_answers(build: Build, trained: Trained) -> None:
    network = trained(build(**ASKED))
    other = build(**ASKED).eval()
    other.load_state_dict(network.state_dict())
    first, second = (each(image(), full_output=True) for each in (network, other))
    assert all(torch.equal(logits, second.classification[name]) for name, logits in first.classification.items())


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"classification": None}, r"classification names no class.*NoClassification"),
        ({"questions": [{"name": "a", "outputs": 2, "evidence": 5, "task": 2}]}, r"questions: \{'name': 'a'"),
        ({"questions": [{"name": "a", "outputs": 2, "evidence": 1, "task": 2}]}, r"the task that owns it"),
        ({"questions": [{"name": "a", "outputs": 2, "evidence": -1, "task": 0}]}, r"or -1 and -1 for none"),
        ({"questions": [{"name": "a", "outputs": 0, "evidence": 1, "task": 0}]}, r"an output or more"),
        ({"questions": [QUESTIONS[0], QUESTIONS[0]]}, r"a name twice in \['spread', 'spread'\]"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(build: Build, own: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build(**(ASKED | own))
