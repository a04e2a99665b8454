"""Foreground patches are centred on what was annotated: on anything else the loss does not look.

nnU-Net centres a share of the patches on a voxel of a region, drawn from those with foreground in the case. A label
file may hold foreground that nobody vouches for: the organ, where only the tumour of its task was annotated, or the
tumour, where only its organ was. The rule is our choice, for every method alike.
"""

from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_mtl.tasks import TaskSet


class AnnotatedForeground:
    """nnU-Net's data set, whose cases know where the foreground of their annotated regions is, and of no others.

    To be handed to nnU-Net's loader in its place. The loader itself cannot tell: where it chooses a patch it does not
    know of which case. Everything else is nnU-Net's: without foreground of un-annotated regions every batch is, bit for
    bit, and a case without any annotated foreground is cropped at random, as a case without any is there.

    Args:
        dataset: nnU-Net's.
        tasks: Knows what is annotated in every case of it.
    """

    def __init__(self, dataset: nnUNetBaseDataset, tasks: TaskSet) -> None:
        self.dataset = dataset
        self.identifiers: list[str] = dataset.identifiers  # the loader draws from these
        self._hidden = {
            case: {
                frozenset(labels)
                for labels, known in zip(tasks.region_labels, tasks.annotated(case), strict=True)
                if not known
            }
            for case in self.identifiers
        }

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return image, segmentation, the previous stage's segmentation, and properties of a case, as nnU-Net does."""
        image, segmentation, previous, properties = self.dataset.load_case(identifier)
        hidden = self._hidden[identifier]
        # the key of the ignore label, which is no region, stays
        known = {key: at for key, at in properties["class_locations"].items() if _labels(key) not in hidden}
        return image, segmentation, previous, {**properties, "class_locations": known}


def _labels(key: Any) -> frozenset[int]:
    """Return the labels of one of nnU-Net's keys, which are the labels as written: 2, (1, 2), (2, 2)."""
    return frozenset(key if isinstance(key, tuple) else (key,))
