"""Cond-Dec: the task's code as constant channels of what every decoder stage reads.

In the comparison of TGNet (Wu, Pang, Sowmya, ISBI 2022), after Dmitriev and Kaufman, CVPR 2019.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCondDec(MultiTaskTrainer):
    """The encoder runs once for all tasks, the decoder once per task."""

    defaults: ClassVar = {"head": "slots"}
    heads: ClassVar = {"slots": "nnunet_mtl.networks.heads.SlotHead"}
    parts: ClassVar = {"decoder_conditioning": "nnunet_mtl.networks.task_code.TaskCode"}
