"""DoDNet: the weights of the head are computed for the task.

After Zhang, Xie, Xia, Shen, DoDNet: learning to segment multi-organ and tumors from multiple partially labeled
datasets, CVPR 2021.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerDoDNet(MultiTaskTrainer):
    """Encoder and decoder run once for all tasks; every task has a small head."""

    defaults: ClassVar = {"head": "own"}
    heads: ClassVar = {"own": "nnunet_mtl.networks.dodnet.dynamic_head.DynamicHead"}
