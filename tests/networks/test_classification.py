from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.classification import (
    BottleneckHead,
    EvidenceHead,
    Features,
    NoClassification,
    Perceptron,
    Question,
    evidence_mask,
)
from nnunet_mtl.networks.evidence_pooling import pooled_by_score, pooled_under

ENCODER, DECODER = [4, 6, 8], [6, 4]
QUESTIONS: list[Question] = [
    {"name": "tumour", "outputs": 2, "evidence": 1, "task": 0},
    {"name": "whole.image", "outputs": 3, "evidence": -1, "task": -1},
    {"name": "organ", "outputs": 1, "evidence": 0, "task": 0},
]
UNDER_EVIDENCE, BY_ATTENTION = 0, 1
STRIDES = {"2d": [(1, 1), (2, 2), (2, 2)], "anisotropic": [(1, 1, 1), (1, 2, 2), (2, 2, 2)]}
LAYOUTS = list(STRIDES)


def sizes(layout: str) -> list[tuple[int, ...]]:
    size: tuple[int, ...] = (16,) * len(STRIDES[layout][0])
    found = []
    for stride in STRIDES[layout]:
        size = tuple(voxels // step for voxels, step in zip(size, stride, strict=True))
        found.append(size)
    return found


def features(layout: str = "2d", batch: int = 3, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    encoder = [
        1 + torch.randn(batch, channels, *size, generator=generator)
        for channels, size in zip(ENCODER, sizes(layout), strict=True)
    ]
    return Features(encoder, torch.randn(batch, DECODER[0], *sizes(layout)[1], generator=generator))


def evidence(layout: str = "2d", batch: int = 3) -> Tensor:
    """A corner of each patch; whole cells of every stage, so that no cell is partly outside."""
    mask = torch.zeros(batch, 1, *sizes(layout)[0])
    mask[..., :8, 4:12] = 1
    return mask


def everywhere(change: Callable[[Tensor, Tensor], Tensor], given: Features, mask: Tensor) -> Features:
    """Apply a change to every stage, given the stage's cells that hold evidence."""

    def of_stage(feature: Tensor) -> Tensor:
        return change(feature, functional.interpolate(mask, size=feature.shape[2:], mode="nearest"))

    return Features([of_stage(feature) for feature in given.encoder], of_stage(given.decoder))


def trained(head_class: type, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    head: nn.Module = head_class(QUESTIONS, ENCODER, DECODER, dropout)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for seed in range(5):
        for index, question in enumerate(QUESTIONS):
            head(index, features(seed=seed), evidence() if question["evidence"] >= 0 else None)
    return head.eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texture_inside_the_evidence_moves_the_logit_outside_not_by_a_bit(layout: str) -> None:
    head, given, mask = trained(EvidenceHead), features(layout), evidence(layout)
    before = head(UNDER_EVIDENCE, given, mask)

    def noise(where: float) -> Features:
        return everywhere(lambda f, e: f + torch.randn_like(f) * (e == where), given, mask)

    assert torch.equal(head(UNDER_EVIDENCE, noise(0), mask), before)
    inside = head(UNDER_EVIDENCE, noise(1), mask)
    assert bool(((inside - before).abs() > 0.05).any(1).all())


@pytest.mark.parametrize("stage", range(4))
def test_every_stage_is_read_and_the_coarsest_of_the_decoder(stage: int) -> None:
    head, given, mask = trained(EvidenceHead), features(), evidence()
    other = features(seed=9)
    mixed = Features([*given.encoder], given.decoder)
    if stage < 3:
        mixed.encoder[stage] = other.encoder[stage]
    else:
        mixed = Features(given.encoder, other.decoder)
    assert bool((head(UNDER_EVIDENCE, mixed, mask) != head(UNDER_EVIDENCE, given, mask)).any(1).all())
    if stage == 3:
        assert torch.equal(head(BY_ATTENTION, mixed, None), head(BY_ATTENTION, given, None))
    else:
        assert bool((head(BY_ATTENTION, mixed, None) != head(BY_ATTENTION, given, None)).any(1).all())


def test_the_logits_are_those_of_the_pooled_standardised_descriptor() -> None:
    head, given, mask = trained(EvidenceHead), features(), evidence()
    answer = head.answers[UNDER_EVIDENCE].perceptron
    shares = [functional.avg_pool2d(mask, step) for step in (1, 2, 4, 2)]
    stages = [*given.encoder, given.decoder]
    descriptor = torch.cat([pooled_under(f, e) for f, e in zip(stages, shares, strict=True)], 1)
    standard = ((descriptor - answer.standardise.mean) / (answer.standardise.var + 1e-6).sqrt()).clamp(-5, 5)
    hidden = functional.leaky_relu(answer.description(standard * 64 / 65))  # 8 x 8 voxels of evidence
    torch.testing.assert_close(head(UNDER_EVIDENCE, given, mask), answer.output(hidden), atol=1e-5, rtol=1e-5)
    attention = head.answers[BY_ATTENTION]
    pooled = [pooled_by_score(f, score) for f, score in zip(given.encoder, attention.scores, strict=True)]
    torch.testing.assert_close(head(BY_ATTENTION, given, None), attention.perceptron(torch.cat(pooled, 1)))


def test_without_evidence_the_answer_is_finite_and_the_same_for_every_image() -> None:
    head, nothing = trained(EvidenceHead), torch.zeros(3, 1, 16, 16)
    logits = head(UNDER_EVIDENCE, features(), nothing)
    assert bool(logits.isfinite().all())
    torch.testing.assert_close(logits, head(UNDER_EVIDENCE, features(seed=7), nothing), atol=0, rtol=0)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))
    given = everywhere(lambda f, _: f.requires_grad_(), features(), nothing)
    head(UNDER_EVIDENCE, given, nothing).sum().backward()
    assert all(bool((f.grad == 0).all()) for f in (*given.encoder, given.decoder))


def test_patches_with_less_than_a_voxel_of_evidence_do_not_move_the_estimates() -> None:
    head = EvidenceHead(QUESTIONS, ENCODER, DECODER, 0.0)
    mask = evidence()
    mask[1] = 0.9 / 256
    head(UNDER_EVIDENCE, features(), mask)
    alone = EvidenceHead(QUESTIONS, ENCODER, DECODER, 0.0)
    kept = torch.tensor([0, 2])
    alone(UNDER_EVIDENCE, everywhere(lambda f, _: f[kept], features(), mask), mask[kept])
    for name in ("mean", "var", "num_batches"):
        seen, expected = (getattr(each.answers[UNDER_EVIDENCE].perceptron.standardise, name) for each in (head, alone))
        torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("head_class", [EvidenceHead, BottleneckHead])
def test_answers_start_at_zero_and_have_the_outputs_of_their_question(head_class: type) -> None:
    head = head_class(QUESTIONS, ENCODER, DECODER, 0.0)
    for index, question in enumerate(QUESTIONS):
        logits = head(index, features(), evidence() if question["evidence"] >= 0 else None)
        assert torch.equal(logits, torch.zeros(3, question["outputs"]))
    assert head.questions == QUESTIONS


@pytest.mark.parametrize("head_class", [EvidenceHead, BottleneckHead])
def test_questions_share_nothing_and_every_parameter_learns(head_class: type) -> None:
    head = trained(head_class).train()
    head.zero_grad()
    for index, question in enumerate(QUESTIONS):
        head.zero_grad()
        head(index, features(), evidence() if question["evidence"] >= 0 else None).square().sum().backward()
        touched = {name.split(".")[1] for name, parameter in head.named_parameters() if parameter.grad is not None}
        assert touched == {str(index)}
        of_question = head.answers[index].parameters()
        assert all(bool((parameter.grad != 0).any()) for parameter in of_question)


def test_the_bottleneck_head_reads_the_mean_of_the_bottleneck_and_no_evidence() -> None:
    head, given = trained(BottleneckHead), features()
    logits = head(UNDER_EVIDENCE, given, evidence())
    assert torch.equal(head(UNDER_EVIDENCE, given, None), logits)
    expected = head.answers[UNDER_EVIDENCE](given.encoder[-1].mean((2, 3)))
    torch.testing.assert_close(logits, expected)
    other = features(seed=9)
    replaced = Features([*other.encoder[:-1], given.encoder[-1]], other.decoder)
    assert torch.equal(head(UNDER_EVIDENCE, replaced, None), logits)


@pytest.mark.parametrize(("head_class", "tolerance"), [(EvidenceHead, 0.05), (BottleneckHead, 1e-4)])
def test_half_precision_features_give_single_precision_logits_near_the_true_ones(
    head_class: type, tolerance: float
) -> None:
    head = trained(head_class)
    half = everywhere(lambda f, _: f.bfloat16(), features(), evidence())
    exact = everywhere(lambda f, _: f.float(), half, evidence())
    for index, question in enumerate(QUESTIONS):
        mask = evidence() if question["evidence"] >= 0 else None
        logits = head(index, half, mask)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, head(index, exact, mask), atol=tolerance, rtol=0)


def test_values_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    head = trained(EvidenceHead, dropout=0.5)
    ask = lambda: head(UNDER_EVIDENCE, features(), evidence())  # noqa: E731 - three calls of one expression
    assert torch.equal(ask(), ask())
    head.train()
    head.answers[UNDER_EVIDENCE].perceptron.standardise.eval()  # whose estimates move in training
    assert not torch.allclose(ask(), ask())


def test_a_value_far_from_all_that_was_seen_counts_no_more_than_the_farthest() -> None:
    perceptron = Perceptron(2, 1, 0.0)
    nn.init.ones_(perceptron.output.weight)
    perceptron(torch.randn(64, 2))
    perceptron.eval()
    values = torch.tensor([[1e2, 0.0], [1e6, 0.0]])
    near, far = perceptron(values)
    torch.testing.assert_close(near, far)


def test_evidence_is_the_annotation_where_known_and_the_probability_elsewhere() -> None:
    logits = torch.randn(4, 5, 6).clamp_min(-2).requires_grad_()
    truth = torch.rand(4, 5, 6) > 0.5
    known = torch.tensor([True, False, True, False])
    mask = evidence_mask(logits, truth, known)
    assert mask.shape == (4, 1, 5, 6)
    assert torch.equal(mask[[0, 2], 0], truth[[0, 2]].float())
    assert bool((torch.sigmoid(logits) >= 0.1).all())
    torch.testing.assert_close(mask[[1, 3], 0], torch.sigmoid(logits[[1, 3]]).detach())
    assert not mask.requires_grad
    torch.testing.assert_close(evidence_mask(logits)[:, 0], torch.sigmoid(logits).detach())
    assert evidence_mask(logits.half()).dtype == torch.float32


def test_small_probabilities_do_not_add_up_to_evidence() -> None:
    background = torch.full((1, 40, 40), -3.0)  # 76 voxels of probability
    assert float(evidence_mask(background).sum()) == 0
    background[:, 3:5, 7:9] = 0.0
    assert float(evidence_mask(background).sum()) == 2


def test_no_classification_asks_nothing_and_holds_nothing() -> None:
    head = NoClassification(QUESTIONS, ENCODER, DECODER, 0.5)
    assert head.questions == []
    assert not head.state_dict()
