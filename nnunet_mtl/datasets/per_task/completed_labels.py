"""Chooses the label of a voxel from the annotation of some regions and predictions of the others.

A label map has one leaf (label value) per voxel, and a leaf decides every region at once. A prediction can only choose
among the leaves that agree with the annotation in every annotated region. If no such leaf agrees with all predictions,
the leaf that agrees with most of them is painted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_mtl.datasets.label_maps import Table, Values, membership


class Completion(NamedTuple):
    """The painted leaves of N combinations of annotated leaf and predictions.

    A leaf is possible if it agrees with the annotation in every annotated region. All tables are (N, R) bool for R
    regions, and False for annotated regions.

    Attributes:
        leaves: The painted leaves, (N,); the ignore label where the annotator wrote it.
        filled: The painted leaf lies in the region, but not all possible leaves do: the prediction decided.
        implied: Every possible leaf lies in the region: the annotation of other regions decided.
        forbidden: The region is predicted, but no possible leaf lies in the region.
        overruled: The region is predicted and possible, but the painted leaf agrees with more predictions.
    """

    leaves: Values
    filled: Table
    implied: Table
    forbidden: Table
    overruled: Table


class Completer:
    """Completes the label maps of a data set.

    Args:
        region_labels: Leaves of every region.
        order: The leaf that nnU-Net paints for every region, in the order of painting.
        ignore_label: nnU-Net's ignore label, or None.
    """

    def __init__(
        self, region_labels: Sequence[Sequence[int]], order: Sequence[int], ignore_label: int | None = None
    ) -> None:
        n_leaves = 1 + max(leaf for labels in region_labels for leaf in labels)
        self.ignore_label = ignore_label
        self.membership = membership(region_labels, n_leaves)
        # place of every leaf in the order of painting, in which a later region covers an earlier one; background is 0
        self._painted = np.zeros(n_leaves, np.int64)
        for place, leaf in enumerate(order, start=1):
            self._painted[leaf] = place

    def complete(self, labels: Values, predicted: Table, annotated: npt.ArrayLike) -> Completion:
        """Choose the painted leaf for N combinations of an annotated leaf and predictions.

        The possible leaf that agrees with the most predictions is painted; among equals, the leaf that nnU-Net would
        paint last.

        Args:
            labels: The annotated leaves, (N,).
            predicted: Which regions are predicted, (N, R) bool; columns of annotated regions are not read.
            annotated: Which regions were annotated, (R,) bool.
        """
        annotated = np.asarray(annotated, np.bool_)
        ignored = np.zeros(len(labels), np.bool_) if self.ignore_label is None else labels == self.ignore_label
        leaves = np.where(ignored, 0, labels)
        in_annotated = self.membership[:, annotated]
        possible = (in_annotated[leaves][:, None] == in_annotated[None]).all(-1)  # (N, V)
        in_open = self.membership[:, ~annotated]
        predicted_open = predicted[:, ~annotated]
        agreement = predicted_open.astype(np.int64) @ in_open.T + (~predicted_open).astype(np.int64) @ (~in_open).T
        # one more agreement weighs more than any place in the order of painting
        score = agreement * (self._painted.max() + 1) + self._painted
        best = np.where(possible, score, -1).argmax(1)
        inside, open_region = self.membership[best], ~annotated & ~ignored[:, None]
        some = (possible.astype(np.int64) @ self.membership) > 0
        every = (possible.astype(np.int64) @ ~self.membership) == 0
        return Completion(
            leaves=np.where(ignored, labels, best),
            filled=inside & ~every & open_region,
            implied=every & open_region,
            forbidden=predicted & ~some & open_region,
            overruled=predicted & some & ~inside & open_region,
        )
