"""Cond-NO: slots shared by all tasks, and nothing that says which task is asked for.

The control that every conditioning must beat, in the comparison of TGNet (Wu, Pang, Sowmya, ISBI 2022).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCondNO(MultiTaskTrainer):
    """The network does not know the task, so all tasks get the same output for organ and tumour."""

    defaults: ClassVar = {"head": "slots"}
    heads: ClassVar = {"slots": "nnunet_mtl.networks.heads.SlotHead"}
