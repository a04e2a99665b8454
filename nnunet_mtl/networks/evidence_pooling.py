"""What a feature map says about the structure a question is about, and nothing about what lies beside it.

Every function keeps for the backward pass no more than the feature, which a normalisation has kept already, and one
channel of weights: the products of the two are computed again.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Of a cell of the feature map. It makes empty evidence finite and is far below the least share of a cell that one voxel
# fills in the coarsest stage: descriptors that shrink with the size of a lesion would tell its size before its texture.
_FLOOR = 1e-8
_EPS = 1e-6


def evidence_at(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Return the share of every cell of a coarser grid that the evidence fills.

    Args:
        mask: Evidence between 0 and 1, (B, 1, *spatial), float32.
        size: Spatial size of the coarser grid, two or three axes; each axis may shrink by a factor of its own.

    Returns:
        (B, 1, *size), exactly 0 in cells without evidence.
    """
    if tuple(mask.shape[2:]) == tuple(size):
        return mask
    pool: Any = functional.adaptive_avg_pool2d if len(size) == 2 else functional.adaptive_avg_pool3d
    shares: Tensor = pool(mask, tuple(size))
    return shares


def pooled_under(feature: Tensor, evidence: Tensor) -> Tensor:
    """Return mean, standard deviation and maximum of every channel under the evidence.

    Weighted by the evidence, e: the mean and the deviation of f, and the maximum of relu(f) e / max e. What lies where
    e is exactly 0 has no influence, neither on the result nor through a gradient.

    Args:
        feature: f, (B, C, *spatial).
        evidence: e between 0 and 1, (B, 1, *spatial).

    Returns:
        (B, 3C), at least float32; 0 where there is no evidence.
    """
    pooled: Tensor = checkpoint(
        _pooled, feature, evidence.to(feature.dtype), use_reentrant=False, preserve_rng_state=False
    )
    return pooled


def pooled_by_score(feature: Tensor, score: Tensor) -> Tensor:
    """Return what `pooled_under` returns with a weight that the feature itself decides: attention over the patch.

    Args:
        feature: f, (B, C, *spatial).
        score: How a voxel's score, the logarithm of its weight, is computed from its channels: (C,).
    """
    pooled: Tensor = checkpoint(
        _scored, feature, score.to(feature.dtype), use_reentrant=False, preserve_rng_state=False
    )
    return pooled


def _pooled(feature: Tensor, evidence: Tensor) -> Tensor:
    values, weight = feature.flatten(2), evidence.flatten(2)
    dtype = torch.promote_types(values.dtype, torch.float32)
    weighted = values * weight
    total = weight.sum(2, dtype=dtype) + _FLOOR
    mean = weighted.sum(2, dtype=dtype) / total
    largest = functional.relu(weighted.amax(2)) / (weight.amax(2).to(dtype) + _FLOOR)
    # As a norm: squares would leave the range of half precision. A learnt weight learns from mean and maximum only,
    # because the square root has no gradient at 0.
    centred = (values - mean.unsqueeze(2).to(values.dtype)) * weight.detach().sqrt()
    variance = torch.linalg.vector_norm(centred, dim=2, dtype=dtype).square() / total
    return torch.cat((mean, (variance + _EPS).sqrt() - math.sqrt(_EPS), largest), dim=1)


def _scored(feature: Tensor, score: Tensor) -> Tensor:
    dtype = torch.promote_types(feature.dtype, torch.float32)
    scores = torch.matmul(score, feature.flatten(2)).to(dtype)
    weight = torch.exp(scores - scores.detach().amax(1, keepdim=True))
    return _pooled(feature, weight.unsqueeze(1).to(feature.dtype))
