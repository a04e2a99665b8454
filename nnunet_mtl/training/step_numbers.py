"""The numbers that a step returns, and those of an epoch brought together from all ranks of a distributed training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import Tensor
from torch import distributed as dist

from nnunet_mtl.losses.partial import process_count
from nnunet_mtl.training.image_level import PROBABILITIES, TARGETS


def step_numbers(total: Tensor, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> dict[str, Any]:
    """Turn a step's losses into what nnU-Net collates: the same keys in each step, NumPy scalars.

    Args:
        total: The loss, a scalar.
        losses: Its terms, a scalar for each name.
        present: Which terms the batch taught.
    """
    terms = {f"loss/{name}": loss.detach().cpu().numpy() for name, loss in losses.items()}
    taught = {f"present/{name}": np.float64(is_taught) for name, is_taught in present.items()}
    return {"loss": total.detach().cpu().numpy(), **terms, **taught}


def gathered(outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate step outputs as nnU-Net does; losses are averaged over ranks, counts added up, answers joined."""
    collated = {key: np.asarray(values) for key, values in collate_outputs(outputs).items()}
    if process_count() > 1:
        ranks: list[Any] = [None] * process_count()
        dist.all_gather_object(ranks, collated)
        collated = {key: _over_ranks(key, [rank[key] for rank in ranks]) for key in collated}
    return collated


def _over_ranks(key: str, values: Sequence[Any]) -> Any:
    if key in (PROBABILITIES, TARGETS):
        return np.concatenate(values, axis=1)
    return np.stack(values).sum(0) / (len(values) if "loss" in key else 1)
