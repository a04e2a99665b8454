"""Cond-NO: slots shared by all tasks, and nothing that says which task is asked for.

The control that every conditioning must beat, in the comparison of TGNet (Wu, Pang, Sowmya, ISBI 2022).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCondNO(MultiTaskTrainer):
    """One network that draws whatever organ and tumour it sees; all tasks get the same."""

    defaults: ClassVar = {"head": "slots"}
    heads: ClassVar = {"slots": "nnunet_mtl.networks.heads.SlotHead"}
