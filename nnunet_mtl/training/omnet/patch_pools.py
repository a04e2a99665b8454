"""Patches drawn in equal parts for the tasks of a chain: anywhere, around the whole, around the core.

After the three patch pools of OM-Net (Zhou et al., IEEE TIP 2020). The paper draws pools once and stores them; here a
pool is a rule for where the next patch lies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_mtl.training.evidence_crops import EvidenceCropLoader

KEY = "pool"
"""Under it a batch says which pool each sample was drawn from."""


class PoolLoader(EvidenceCropLoader):
    """nnU-Net's loader, whose samples come from pools in turn; a batch says from which.

    A pool is a number and the regions in whose foreground its patches are centred; patches of the pool without regions
    are drawn as `EvidenceCropLoader` draws them. A pool is open to a case in which a region of its tasks was annotated
    and that has foreground to be centred on: of the pool's regions, or if these were not annotated, of the regions of
    its tasks, which lie inside them. The pool without regions is open to all. The next patch comes from that open pool
    of which the fewest were drawn for cases to which the same pools are open: each gives its equal share of any row of
    their samples, whatever the size of a batch. Counted over all cases, those that are open to the pool without regions
    alone would make up its share, and nothing would be drawn from it of the others: their outer regions would not be
    learnt.

    Args:
        *args: As of `EvidenceCropLoader`; the data set must know the foreground of annotated regions only
            (`AnnotatedForeground`).
        pools: Of every pool, by its number, the label values of the regions to be centred on, and of the regions of
            its tasks.
        active: Which pools are drawn from, (pools,) uint8 in the order of `pools`, in shared memory: worker processes
            see what the trainer writes there. The pool without regions always is.
        **kwargs: As of `EvidenceCropLoader`.
    """

    def __init__(
        self,
        *args: Any,
        pools: Mapping[int, tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]],
        active: Tensor,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.numbers = list(pools)
        self._regions, self._of_tasks = (
            [frozenset(frozenset(labels) for labels in pool[part]) for pool in pools.values()] for part in (0, 1)
        )
        self._active = active
        self._drawn: dict[tuple[int, ...], Any] = {}  # by open pools, how many patches each of them gave
        self._counted = torch.zeros_like(active)  # the pools that were active when counting began
        self._of_batch: list[int] = []

    def get_bbox(
        self,
        data_shape: Any,
        force_fg: bool,
        class_locations: Mapping[Any, Any] | None,
        overwrite_class: Any = None,
        verbose: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Choose a pool and then a patch of it."""
        centres = [self._centres_in(class_locations or {}, pool) for pool in range(len(self.numbers))]
        pool = self._next([keys is None or bool(keys) for keys in centres])
        self._of_batch.append(self.numbers[pool])
        keys = centres[pool]
        if keys is None:
            return super().get_bbox(data_shape, force_fg, class_locations, overwrite_class, verbose)
        # the global generator, as nnU-Net: a generator of our own would be the same in every worker process
        chosen = keys[np.random.randint(len(keys))]  # noqa: NPY002 - see above
        box: tuple[list[int], list[int]] = nnUNetDataLoader.get_bbox(
            self, data_shape, True, class_locations, chosen, verbose
        )
        return box

    def generate_train_batch(self) -> dict[str, Any]:
        """Return nnU-Net's batch, with the pool of every sample."""
        self._of_batch = []
        batch: dict[str, Any] = super().generate_train_batch()
        return {**batch, KEY: np.array(self._of_batch)}

    def _centres_in(self, class_locations: Mapping[Any, Any], pool: int) -> list[Any] | None:
        """Return the keys of what a patch of a pool can be centred on in a case; None if on nothing in particular."""
        regions, of_tasks = self._regions[pool], self._of_tasks[pool]
        if not regions:
            return None
        annotated = {_labels(key): key for key in class_locations}  # also where there are no voxels
        if of_tasks.isdisjoint(annotated):
            return []
        wanted = of_tasks if regions.isdisjoint(annotated) else regions
        return [key for labels, key in annotated.items() if labels in wanted and len(class_locations[key])]

    def _next(self, is_open: Sequence[bool]) -> int:
        """Return the index of that open, active pool of which the fewest were drawn since pools became active."""
        if not torch.equal(self._counted, self._active):
            # a pool that opens late is not to be drawn alone until it has caught up
            self._counted = self._active.clone()
            self._drawn.clear()
        active = self._counted.tolist()
        candidates = [i for i, opened in enumerate(is_open) if opened and (active[i] or not self._regions[i])]
        drawn = self._drawn.setdefault(tuple(candidates), np.zeros(len(is_open), np.int64))
        equal = [index for index in candidates if drawn[index] == drawn[candidates].min()]
        # a lone pool draws no random number: its patches are those of `EvidenceCropLoader` bit for bit
        pool = equal[np.random.randint(len(equal))] if len(equal) > 1 else equal[0]  # noqa: NPY002 - as above
        drawn[pool] += 1
        return pool


def _labels(key: Any) -> frozenset[int]:
    """Return the labels of one of nnU-Net's keys, which are the labels as written: 2, (1, 2), (2, 2)."""
    return frozenset(key if isinstance(key, tuple) else (key,))
