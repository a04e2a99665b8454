"""Pools a feature map inside a structure, the evidence of a question, and reads nothing outside the structure.

To save memory, the functions keep for the backward pass only the feature, which a normalisation keeps anyway, and one
channel of weights. The backward pass computes their products again.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Added to the denominators, so that empty evidence gives finite values; as a share of a cell of the feature map. It is
# far below the share that one voxel fills of a cell of the coarsest stage: with a larger number the descriptors of
# small lesions would shrink, and tell the size of a lesion before its texture.
_FLOOR = 1e-8
_EPS = 1e-6


def evidence_at(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Return the share of every cell of a coarser grid that the evidence fills.

    Args:
        mask: Evidence between 0 and 1, (B, 1, *spatial), float32.
        size: Spatial size of the coarser grid, two or three axes; the axes may shrink by different factors.

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

    With the evidence e as weight: the mean and the standard deviation of f, and the maximum of relu(f) e / max e.
    Voxels where e is exactly 0 have no influence on the result and get no gradient.

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
    """Return what `pooled_under` returns, with weights computed from the feature itself: attention over the patch.

    Args:
        feature: f, (B, C, *spatial).
        score: s, (C,). The logarithm of a voxel's weight is the scalar product of s and the voxel's channels.
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
    # Computed as a norm, because squares would leave the range of half precision. The weight is detached, because the
    # square root has no gradient at 0: a learnt weight gets its gradient from mean and maximum only.
    centred = (values - mean.unsqueeze(2).to(values.dtype)) * weight.detach().sqrt()
    variance = torch.linalg.vector_norm(centred, dim=2, dtype=dtype).square() / total
    return torch.cat((mean, (variance + _EPS).sqrt() - math.sqrt(_EPS), largest), dim=1)


def _scored(feature: Tensor, score: Tensor) -> Tensor:
    dtype = torch.promote_types(feature.dtype, torch.float32)
    scores = torch.matmul(score, feature.flatten(2)).to(dtype)
    weight = torch.exp(scores - scores.detach().amax(1, keepdim=True))
    return _pooled(feature, weight.unsqueeze(1).to(feature.dtype))
