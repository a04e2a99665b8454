"""TAL: one softmax over all label values, of which those that an annotator did not tell apart are merged in the loss.

After Fang and Yan, Multi-organ segmentation over partially labeled datasets with multi-scale feature abstraction,
IEEE TMI 2020: target adaptive loss.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTAL(MultiTaskTrainer):
    """One pass for all tasks; regions are sums of probabilities of label values."""

    defaults: ClassVar = {"head": "leaves"}
    heads: ClassVar = {"leaves": "nnunet_mtl.networks.tal.leaf_head.LeafHead"}
    loss_mode = "marginal"
