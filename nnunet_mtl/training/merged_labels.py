"""Labels that the annotation of a case does not tell apart are one label before a patch is augmented.

nnU-Net's spatial transform gives every voxel the label whose interpolated mask is the largest there. Two labels inside
an annotated organ that differ only in a tumour nobody annotated would share the organ's votes, and lose voxels at its
boundary to the background. So what was not annotated would move the boundary of what was.
"""

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from numpy.typing import NDArray

from nnunet_mtl.tasks import TaskSet


class MergedLabels:
    """A preprocessed segmentation, (1, *spatial), whose labels are merged when it is indexed, as far as it is indexed.

    Args:
        array: The file's: NumPy or blosc2.
        merged: What becomes of a label, by its value. A higher value is no label, so in no region: background.
            nnU-Net's -1, outside of the body, stays.
    """

    def __init__(self, array: Any, merged: tuple[int, ...]) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.ndim: int = array.ndim
        self.dtype = array.dtype
        self._table = np.array([*merged, 0, -1], dtype=np.int16)  # the last entry is that of the index -1

    def __getitem__(self, index: Any) -> NDArray[Any]:
        # in 16 bits: of a data set with hundreds of labels a case may be stored in 8 that holds the lower ones alone
        no_label = np.int16(len(self._table) - 2)
        merged: NDArray[Any] = self._table[np.minimum(self._array[index], no_label)]
        return merged.astype(self.dtype)


class MergedLabelsDataset:
    """nnU-Net's data set, in whose cases only those labels differ that an annotated region tells apart.

    To be handed to nnU-Net's loader in its place: its transforms do not know of which case a patch is. Two labels are
    told apart by an annotated region that holds one of them; those that lie in the same annotated regions become the
    least of them, and those in none become background. No annotated region gains or loses a voxel by that. nnU-Net's
    ignore label stays, and so do the previous stage's labels and `class_locations`, which are those of the file. A case
    in which every region is annotated is nnU-Net's own.

    Args:
        dataset: nnU-Net's, or one that stands in for it.
        tasks: Knows what is annotated in every case of it.
    """

    def __init__(self, dataset: nnUNetBaseDataset, tasks: TaskSet) -> None:
        self.dataset = dataset
        self.identifiers: list[str] = dataset.identifiers
        # cases that are annotated alike share their entry, also where they are sent to other processes
        alike: dict[tuple[bool, ...], tuple[int, ...]] = {}
        annotated = {case: tasks.annotated(case) for case in self.identifiers}
        self._merged = {
            case: alike.setdefault(known, merged_labels(tasks, known))
            for case, known in annotated.items()
            if not all(known)
        }

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return image, segmentation, the previous stage's segmentation, and properties of a case, as nnU-Net does."""
        image, segmentation, *rest = self.dataset.load_case(identifier)
        if identifier in self._merged:
            segmentation = MergedLabels(segmentation, self._merged[identifier])
        return (image, segmentation, *rest)


def merged_labels(tasks: TaskSet, annotated: tuple[bool, ...]) -> tuple[int, ...]:
    """Return what becomes of each label value, from 0 on, where only some of the regions, (R,), are annotated."""
    known = [set(labels) for labels, there in zip(tasks.region_labels, annotated, strict=True) if there]
    n_labels = 1 + max(label for labels in tasks.region_labels for label in labels)
    least: dict[tuple[bool, ...], int] = {}
    merged = tuple(least.setdefault(tuple(label in labels for labels in known), label) for label in range(n_labels))
    return merged if tasks.ignore_label is None else (*merged, tasks.ignore_label)
