import math

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn

from nnunet_mtl.training.pseudo_dice import dice, label_counts, nan_mean, region_counts


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("ignored", [False, True])
def test_everything_annotated_counts_as_nnunet_does(rng: torch.Generator, ignored: bool) -> None:
    logits = torch.randn(2, 3, 5, 6, generator=rng)
    target = torch.rand(2, 3, 5, 6, generator=rng) > 0.6
    ignore = torch.rand(2, 1, 5, 6, generator=rng) > 0.8
    mask = ~ignore if ignored else None
    tp, fp, fn, _ = get_tp_fp_fn_tn((logits > 0).float(), target, axes=[0, 2, 3], mask=mask)
    ours = region_counts(logits, torch.cat((target, ignore), 1) if ignored else target, torch.ones(2, 3).bool())
    for mine, theirs in zip(ours, (tp, fp, fn), strict=True):
        np.testing.assert_array_equal(mine, theirs.numpy())


def test_only_annotated_pairs_count(rng: torch.Generator) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=rng)
    target = torch.rand(2, 3, 4, 4, generator=rng) > 0.5
    annotated = torch.tensor([[True, False, False], [False, True, False]])
    before = region_counts(logits, target, annotated)
    scrambled = torch.where(annotated[..., None, None], target, ~target)
    for mine, theirs in zip(before, region_counts(logits, scrambled, annotated), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine[2] == 0
    assert before[0][0] == ((logits[0, 0] > 0) & target[0, 0]).sum()


def test_label_maps(rng: torch.Generator) -> None:
    logits = torch.randn(2, 3, 4, 5, generator=rng)
    target = torch.randint(0, 4, (2, 1, 4, 5), generator=rng)
    valid = target != 3
    onehot = torch.nn.functional.one_hot(logits.argmax(1), 3).permute(0, 3, 1, 2).float()
    tp, fp, fn, _ = get_tp_fp_fn_tn(onehot, torch.where(valid, target, 0), axes=[0, 2, 3], mask=valid)
    ours = label_counts(logits, target, ignore_label=3)
    for mine, theirs in zip(ours, (tp, fp, fn), strict=True):
        np.testing.assert_array_equal(mine[1:], theirs.numpy()[1:])
        assert mine[0] == 0


def test_dice_by_hand() -> None:
    values = dice(np.array([2.0, 0, 0]), np.array([1.0, 3, 0]), np.array([1.0, 0, 0]))
    np.testing.assert_allclose(values[:2], [4 / 6, 0])
    assert math.isnan(values[2])


def test_mean_over_what_is_available() -> None:
    assert nan_mean([0.5, float("nan"), 1.0]) == 0.75
    assert math.isnan(nan_mean([float("nan")]))
    assert math.isnan(nan_mean([]))
