"""Draws patches in equal parts from pools: patches anywhere, around the whole tumour, around its core.

After the three patch pools of OM-Net (Zhou et al., IEEE TIP 2020). The paper draws the patches once and stores them;
here a pool is a rule for the position of the next patch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from nnunet_mtl.training.evidence_crops import EvidenceCropLoader

KEY = "pool"
"""Key of a batch that holds the pool of every sample, (B,)."""


class PoolLoader(EvidenceCropLoader):
    """nnU-Net's loader, which draws samples from pools in turn and adds the pool of every sample to the batch.

    A pool has a number and regions; its patches are centred on the foreground of the regions. A pool without regions
    draws patches as `EvidenceCropLoader` does. A pool is open to a case if a region of the pool's tasks is annotated
    and the case has foreground of the pool's regions; if these regions are not annotated, foreground of the tasks'
    regions, which lie inside, counts instead. The pool without regions is open to every case.

    The next patch comes from the open pool with the fewest patches, counted over cases with the same open pools, so
    that every pool has an equal share of their samples for any batch size. A count over all cases would be wrong: cases
    that only the pool without regions is open to would fill its share, and the pool would draw nothing from other
    cases, whose outer regions would then not be learnt.

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
        """Choose a pool, then a patch of the pool."""
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
