"""Patches that show what a question is about: a patch without the tumour teaches nothing about the tumour."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_mtl.tasks import TaskSet


def evidence_labels(tasks: TaskSet) -> tuple[tuple[int, ...], ...]:
    """Return the label values of every region that is the evidence of a question, each region once."""
    regions = dict.fromkeys(question.evidence for question in tasks.classification if question.evidence is not None)
    return tuple(tasks.region_labels[tasks.regions.index(region)] for region in regions)


class EvidenceCropLoader(nnUNetDataLoader):
    """nnU-Net's loader, which centres a share of the patches on evidence, in cases whose label map holds some.

    A sample that is not chosen for it is drawn as nnU-Net does. With a share of 0 no random number is drawn here, and
    the patches are nnU-Net's bit for bit.

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
        """Choose a patch as nnU-Net does, or centred on a random voxel of one of the evidence regions present."""
        present = self._evidence_in(class_locations or {}) if self.share > 0 else []
        # the global generator, as nnU-Net: a generator of our own would be the same in every worker process
        if present and np.random.uniform() < self.share:  # noqa: NPY002 - see above
            force_fg, overwrite_class = True, present[np.random.randint(len(present))]  # noqa: NPY002 - see above
        box: tuple[list[int], list[int]] = super().get_bbox(
            data_shape, force_fg, class_locations, overwrite_class, verbose
        )
        return box

    def _evidence_in(self, class_locations: Mapping[Any, Any]) -> list[Any]:
        """Keys of the evidence regions with foreground; nnU-Net's keys are the labels as written: 2, (1, 2), (2, 2)."""
        return [
            key
            for key, locations in class_locations.items()
            if len(locations) and frozenset(key if isinstance(key, tuple) else (key,)) in self.evidence
        ]
