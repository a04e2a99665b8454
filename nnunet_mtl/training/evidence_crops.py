"""Centres patches on the evidence of questions, because a patch without a tumour teaches nothing about the tumour."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_mtl.tasks import TaskSet


def evidence_labels(tasks: TaskSet) -> tuple[tuple[int, ...], ...]:
    """Return the label values of every region that is the evidence of a question, without repeated regions."""
    regions = dict.fromkeys(question.evidence for question in tasks.classification if question.evidence is not None)
    return tuple(tasks.region_labels[tasks.regions.index(region)] for region in regions)


class EvidenceCropLoader(nnUNetDataLoader):
    """nnU-Net's loader, which centres a share of the patches on evidence in cases whose label map holds evidence.

    Other patches are drawn as nnU-Net draws them. With a share of 0 no random number is drawn here, and all patches are
    nnU-Net's bit for bit.

    Args:
        *args: nnU-Net's arguments.
        evidence: Label values of each evidence region, in any order (see `evidence_labels`).
        share: Probability that a patch of such a case is centred on its evidence, 0 to 1.
        **kwargs: nnU-Net's arguments.
    """

    def __init__(self, *args: Any, evidence: Sequence[tuple[int, ...]], share: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.evidence = tuple(frozenset(labels) for labels in evidence)
        self.share = share

    def get_bbox(
        self,
        data_shape: Any,
        force_fg: bool,
        class_locations: Mapping[Any, Any] | None,
        overwrite_class: Any = None,
        verbose: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Choose a patch as nnU-Net does, or centre it on a random voxel of an evidence region of the case."""
        present = self._evidence_in(class_locations or {}) if self.share > 0 else []
        # nnU-Net's global generator, because another generator would draw the same numbers in every worker process
        if present and np.random.uniform() < self.share:  # noqa: NPY002 - see above
            force_fg, overwrite_class = True, present[np.random.randint(len(present))]  # noqa: NPY002 - see above
        box: tuple[list[int], list[int]] = super().get_bbox(
            data_shape, force_fg, class_locations, overwrite_class, verbose
        )
        return box

    def _evidence_in(self, class_locations: Mapping[Any, Any]) -> list[Any]:
        """Return the keys of evidence regions with foreground; a key is a label or a tuple: 2, (1, 2), (2, 2)."""
        return [
            key
            for key, locations in class_locations.items()
            if len(locations) and frozenset(key if isinstance(key, tuple) else (key,)) in self.evidence
        ]
