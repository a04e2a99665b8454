"""Merges labels that the annotation of a case does not tell apart, before a patch is augmented.

nnU-Net's spatial transform gives a voxel the label whose interpolated mask is largest in the voxel. Two labels inside
an annotated organ that differ only in an un-annotated tumour would split the organ's vote, and the organ would lose
voxels at its boundary to the background. An un-annotated tumour would then move the boundary of the annotated organ.
"""

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from numpy.typing import NDArray

from nnunet_mtl.tasks import TaskSet


class MergedLabels:
    """A preprocessed segmentation, (1, *spatial), that merges the labels of the part that is read by indexing.

    Args:
        array: Array of the preprocessed file, NumPy or blosc2.
        merged: The new label of every label value. A value beyond the end is no label and becomes background;
            nnU-Net's -1 (outside the body) stays.
    """

    def __init__(self, array: Any, merged: tuple[int, ...]) -> None:
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.ndim: int = array.ndim
        self.dtype = array.dtype
        self._table = np.array([*merged, 0, -1], dtype=np.int16)  # the index -1 reads the last entry

    def __getitem__(self, index: Any) -> NDArray[Any]:
        # 16 bits: a case of a data set with hundreds of labels is stored in 8 if it holds low labels only
        no_label = np.int16(len(self._table) - 2)
        merged: NDArray[Any] = self._table[np.minimum(self._array[index], no_label)]
        return merged.astype(self.dtype)


class MergedLabelsDataset:
    """Wraps nnU-Net's data set and merges the labels of a case that no annotated region tells apart.

    nnU-Net's loader takes the wrapper in place of its data set, because its transforms do not know the case of a patch.
    An annotated region tells two labels apart if it holds one of the two. Labels in the same annotated regions become
    the least of these labels, and labels in no annotated region become background, so that no annotated region gains or
    loses a voxel. nnU-Net's ignore label, the previous stage's labels and `class_locations` stay. A case in which every
    region is annotated stays as it is.

    Args:
        dataset: nnU-Net's data set, or a wrapper of it.
        tasks: The task set with its case table.
    """

    def __init__(self, dataset: nnUNetBaseDataset, tasks: TaskSet) -> None:
        self.dataset = dataset
        self.identifiers: list[str] = dataset.identifiers
        # cases with the same annotation share one tuple, which keeps what is pickled for other processes small
        shared: dict[tuple[bool, ...], tuple[int, ...]] = {}
        annotated = {case: tasks.annotated(case) for case in self.identifiers}
        self._merged = {
            case: shared.setdefault(known, merged_labels(tasks, known))
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
    """Return the new label of every label value, from 0 on, given which regions are annotated, (R,)."""
    known = [set(labels) for labels, is_known in zip(tasks.region_labels, annotated, strict=True) if is_known]
    n_labels = 1 + max(label for labels in tasks.region_labels for label in labels)
    least: dict[tuple[bool, ...], int] = {}
    merged = tuple(least.setdefault(tuple(label in labels for labels in known), label) for label in range(n_labels))
    return merged if tasks.ignore_label is None else (*merged, tasks.ignore_label)
