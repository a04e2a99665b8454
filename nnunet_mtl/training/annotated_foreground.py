"""Centres foreground patches on annotated regions, because the loss reads no others.

nnU-Net centres a share of the patches on a voxel of a region, drawn from the regions with foreground in the case. A
label file may hold foreground of un-annotated regions: the organ, if only the tumour of its task was annotated, or the
tumour, if only the organ was. The rule is our choice and the same for every method.
"""

from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_mtl.tasks import TaskSet


class AnnotatedForeground:
    """Wraps nnU-Net's data set and removes un-annotated regions from the `class_locations` of a case.

    nnU-Net's loader takes the wrapper in place of its data set, because it does not know the case when it chooses a
    patch. If no un-annotated region has foreground, every batch is nnU-Net's bit for bit. A case without annotated
    foreground is cropped at random, as nnU-Net crops a case without foreground.

    Args:
        dataset: nnU-Net's data set.
        tasks: The task set with its case table.
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
        # the key of the ignore label stays, because the ignore label is no region
        known = {key: voxels for key, voxels in properties["class_locations"].items() if _labels(key) not in hidden}
        return image, segmentation, previous, {**properties, "class_locations": known}


def _labels(key: Any) -> frozenset[int]:
    """Return the labels of one of nnU-Net's keys, which are the labels as written: 2, (1, 2), (2, 2)."""
    return frozenset(key if isinstance(key, tuple) else (key,))
