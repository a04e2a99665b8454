"""The numbers that a step returns, and their collection over the steps and ranks of an epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.utilities.collate_outputs import collate_outputs
from torch import Tensor
from torch import distributed as dist

from nnunet_mtl.losses.partial import process_count
from nnunet_mtl.training.image_level import PROBABILITIES, TARGETS


def step_numbers(total: Tensor, losses: Mapping[str, Tensor], present: Mapping[str, bool]) -> dict[str, Any]:
    """Return a step's losses as NumPy scalars with the same keys in every step, so that nnU-Net can collate them.

    Args:
        total: The loss, a scalar.
        losses: The terms of the loss by name, scalars.
        present: Whether the batch taught a term, by name.
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
