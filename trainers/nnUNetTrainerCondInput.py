"""Cond-Input: the task's code as constant channels of the image.

In the comparison of TGNet (Wu, Pang, Sowmya, ISBI 2022), after Chen, Xu, Koltun, ICCV 2017.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCondInput(MultiTaskTrainer):
    """The input holds image and task, so the whole network runs once per task."""

    defaults: ClassVar = {"head": "slots"}
    heads: ClassVar = {"slots": "nnunet_mtl.networks.heads.SlotHead"}
    parts: ClassVar = {"input_conditioning": "nnunet_mtl.networks.task_code.TaskCode"}
