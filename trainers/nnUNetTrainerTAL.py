"""TAL: one softmax over all label values, of which those that an annotator did not tell apart are merged in the loss.

After Fang and Yan, Multi-organ segmentation over partially labeled datasets with multi-scale feature abstraction,
IEEE TMI 2020: target adaptive loss.
"""

from typing import ClassVar

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import REGION_HEAD
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTAL(MultiTaskTrainer):
    """One pass serves all tasks; the probability of a region is the sum over its label values."""

    defaults: ClassVar = {"head": "own"}
    heads: ClassVar = {"own": "nnunet_mtl.networks.tal.leaf_head.LeafHead"}
    loss_mode = "marginal"

    @classmethod
    def segmentation_head(cls, settings: Settings, tasks: TaskSet) -> str:
        """Return the head of label values; without regions nnU-Net's own channels are a softmax over them already."""
        head = super().segmentation_head(settings, tasks)
        return head if tasks.has_regions else REGION_HEAD
