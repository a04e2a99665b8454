from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.classification import Features, Question
from nnunet_mtl.networks.mamtln.aware_branches import (
    AwareAttention,
    AwareHead,
    ClassificationAwareBranch,
    NoClassificationAwareness,
    NoSegmentationAwareness,
    SegmentationAwareBranch,
)
from nnunet_mtl.networks.mamtln.pyramid_blocks import Level, Shape

STRIDES = ((2, 2), (2, 1), (3, 2), (1, 2))
SIZES = ((12, 16), (6, 16), (2, 8), (2, 4))


def shape(n_levels: int) -> Shape:
    return Shape(nn.Conv2d, 4, tuple(Level((3, 3), stride) for stride in STRIDES[:n_levels]))


def levels(n_levels: int, *, grad: bool = False) -> list[Tensor]:
    rng = torch.Generator().manual_seed(3)
    return [torch.randn(2, 4, *size, generator=rng).requires_grad_(grad) for size in SIZES[:n_levels]]


def up(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def means(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def test_the_attention_is_one_factor_per_channel_and_voxel_of_the_level() -> None:
    attention = AwareAttention(shape(2), 0, 4)
    (feature, _), context = levels(2), torch.randn(2, 4, *SIZES[0])
    gate = attention.attend(torch.cat((context, feature), dim=1))
    assert bool(((gate > 0) & (gate < 1)).all())
    assert gate.shape == feature.shape
    torch.testing.assert_close(attention(feature, context), attention.refine(gate * feature))
    assert not torch.allclose(attention(feature, context), attention(feature, -context), atol=1e-3)


def test_four_levels_segment_as_published() -> None:
    branch = SegmentationAwareBranch(shape(4))
    s1, s2, s3, s4 = levels(4)
    att1, att0 = branch.attention
    y2 = att0(s2, up(torch.cat((up(s4, s3), s3), dim=1), s2))
    torch.testing.assert_close(branch([s1, s2, s3, s4], None), att1(s1, up(y2, s1)))
    assert att0.attend[0][0].in_channels == 12  # 192 of width 64
    assert att1.attend[0][0].in_channels == 8  # 128


def test_four_levels_answer_as_published() -> None:
    branch = ClassificationAwareBranch(shape(4))
    s1, s2, s3, s4 = levels(4)
    (pool2, pool3), (att2, att3) = branch.pools, branch.attention
    c3 = att3(s3, pool3(att2(s2, pool2(s1))))
    torch.testing.assert_close(branch([s1, s2, s3, s4]), torch.cat((means(c3), means(s4)), dim=1))
    assert [pool[0].stride for pool in branch.pools] == [STRIDES[1], STRIDES[2]]


def test_no_voxel_is_dropped_on_the_way_to_the_answer() -> None:
    """As released: kernel 3 with the stride; kernel 1 would read one voxel of four and of eight."""
    for conv_op, dimensions in ((nn.Conv2d, 2), (nn.Conv3d, 3)):
        planned = tuple(Level((3,) * dimensions, (2,) * dimensions) for _ in range(4))
        (pool, _) = ClassificationAwareBranch(Shape(conv_op, 4, planned)).pools
        x = torch.randn(1, 4, *[8] * dimensions, requires_grad=True)
        pool(x).square().sum().backward()
        assert x.grad is not None
        assert bool((x.grad.abs().sum(1) > 0).all())
        assert pool[0].weight.shape == (4, 4, *[3] * dimensions)
        assert pool[0].bias is None
    flat = Shape(nn.Conv3d, 4, tuple(Level((1, 3, 3), (1, 2, 2)) for _ in range(4)))
    assert ClassificationAwareBranch(flat).pools[0][0].kernel_size == (1, 3, 3)  # where the plans' is 1


@pytest.mark.parametrize("n_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("branch_class", [SegmentationAwareBranch, ClassificationAwareBranch])
def test_any_number_of_levels_is_read_whole_and_leaves_no_weight_unused(branch_class: Any, n_levels: int) -> None:
    branch, given = branch_class(shape(n_levels)), levels(n_levels, grad=True)
    segments = branch_class is SegmentationAwareBranch
    made = branch(given, None) if segments else branch(given)
    assert made.shape == (2, 4, *SIZES[0]) if segments else (2, 8)
    assert branch.attention  # something is attended to, however few the levels
    made.square().sum().backward()
    assert all(level.grad is not None and float(level.grad.abs().sum()) > 0 for level in given)
    assert not [name for name, value in branch.named_parameters() if value.grad is None]


def attends(branch: Any, *others: Any) -> bool:
    """Twice the levels are not twice the result."""
    given = levels(4)
    doubled = branch([2 * level for level in given], *others)
    return not torch.allclose(doubled, 2 * branch(given, *others), atol=1e-3)


def test_without_the_branches_what_was_there_before_is_handed_on() -> None:
    given = levels(4)
    fused = torch.randn(2, 4, *SIZES[0])
    off = NoSegmentationAwareness(shape(4))
    assert off.reads_fused
    assert off(given, fused) is fused
    assert not SegmentationAwareBranch.reads_fused
    described = NoClassificationAwareness(shape(4))(given)
    torch.testing.assert_close(described, torch.cat((means(given[2]), means(given[3])), dim=1))
    assert NoClassificationAwareness(shape(1))(given[:1]).shape == (2, 8)
    assert attends(ClassificationAwareBranch(shape(4)))
    assert not attends(NoClassificationAwareness(shape(4)))
    torch.manual_seed(0)
    answer = ClassificationAwareBranch(shape(4))
    reads_finest = [
        not torch.equal(each([given[0] + 1, *given[1:]]), each(given))
        for each in (answer, NoClassificationAwareness(shape(4)))
    ]
    assert reads_finest == [True, False]


QUESTIONS: list[Question] = [
    {"name": "nodes", "outputs": 2, "evidence": -1, "task": -1},
    {"name": "grade", "outputs": 3, "evidence": 0, "task": 0},
]


def test_the_head_is_one_linear_layer_for_each_question_and_reads_no_evidence() -> None:
    head = AwareHead(QUESTIONS, [4, 8], [4], 0.5).eval()
    described = torch.randn(2, 8)
    features = Features([], torch.empty(0), described)
    for index, question in enumerate(QUESTIONS):
        answer = head(index, features, torch.rand(2, 1, 4, 4))
        assert answer.shape == (2, question["outputs"])
        assert torch.equal(answer, head(index, features, None))
        torch.testing.assert_close(answer, head.answers[index](described))
        assert float(head.answers[index].weight.detach().abs().min()) > 0  # else the branch would not learn at first
    assert head.reads_attended
    assert sum(value.numel() for value in head.parameters()) == 8 * 5 + 5
    dropped = head.train()(0, features, None)
    assert not torch.allclose(dropped, head.eval()(0, features, None))


def test_descriptors_are_single_precision_at_least() -> None:
    branch = NoClassificationAwareness(shape(2))
    assert branch([level.bfloat16() for level in levels(2)]).dtype == torch.float32
    assert branch([level.double() for level in levels(2)]).dtype == torch.float64
