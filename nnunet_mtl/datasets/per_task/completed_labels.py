"""What is painted where some regions were annotated and others are predicted.

A label map has one leaf per voxel and a leaf decides every region at once. So a prediction can only choose among the
leaves that say of every annotated region what the annotator said; where none of them says of every other region what
was predicted, the one that says most of it is taken.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_mtl.datasets.label_maps import Table, Values, membership


class Completion(NamedTuple):
    """What is painted for each of N combinations of annotated leaf and predictions; all tables (N, R), R regions.

    Attributes:
        leaves: What is painted, (N,); the ignore label where the annotator wrote it.
        filled: The painted leaf lies in the region, and another leaf that was possible does not: this is predicted.
        implied: Every leaf that was possible lies in the region: the annotation of other regions says so.
        forbidden: Predicted, but no leaf that was possible lies in the region: the annotation says no.
        overruled: Predicted and possible, but the leaf painted agrees with more of the predictions.
    """

    leaves: Values
    filled: Table
    implied: Table
    forbidden: Table
    overruled: Table


class Completer:
    """Completes the label maps of a data set.

    Args:
        region_labels: Leaves of each region.
        order: The leaf nnU-Net paints for each region, in the order in which it paints.
        ignore_label: nnU-Net's ignore label, if there is one.
    """

    def __init__(
        self, region_labels: Sequence[Sequence[int]], order: Sequence[int], ignore_label: int | None = None
    ) -> None:
        n_leaves = 1 + max(leaf for labels in region_labels for leaf in labels)
        self.ignore_label = ignore_label
        self.membership = membership(region_labels, n_leaves)
        # a later region is painted over an earlier one; background, the first of the rest, comes before all of them
        self._painted = np.zeros(n_leaves, np.int64)
        for place, leaf in enumerate(order, start=1):
            self._painted[leaf] = place

    def complete(self, labels: Values, predicted: Table, annotated: npt.ArrayLike) -> Completion:
        """Complete combinations of an annotated leaf and predictions.

        Of the leaves that lie in the same annotated regions as the annotated leaf, the one is painted that agrees with
        the most predictions; of those that agree with as many, the one nnU-Net would paint last.

        Args:
            labels: The annotated leaf, (N,).
            predicted: Which regions are predicted, (N, R); what is predicted of annotated regions is not read.
            annotated: Which regions were annotated, (R,).
        """
        annotated = np.asarray(annotated, np.bool_)
        ignored = np.zeros(len(labels), np.bool_) if self.ignore_label is None else labels == self.ignore_label
        leaves = np.where(ignored, 0, labels)
        said = self.membership[:, annotated]
        possible = (said[leaves][:, None] == said[None]).all(-1)  # (N, V)
        free = self.membership[:, ~annotated]
        wanted = predicted[:, ~annotated]
        agreement = wanted.astype(np.int64) @ free.T + (~wanted).astype(np.int64) @ (~free).T
        # one more agreement counts more than any place in the painting order
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
