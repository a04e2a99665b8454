"""UniSeg: a prompt for every task, computed from one learned map and the image.

After Ye, Xie, Zhang, Chen, Xia, UniSeg: a prompt-driven universal segmentation model as well as a strong representation
learner, MICCAI 2023.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerUniSeg(MultiTaskTrainer):
    """The encoder runs once for all tasks, the decoder once per task; all tasks are drawn equally often."""

    defaults: ClassVar = {"head": "slots", "sampling": "tasks"}
    heads: ClassVar = {"slots": "nnunet_mtl.networks.heads.SlotHead"}
    parts: ClassVar = {"bottleneck_conditioning": "nnunet_mtl.networks.uniseg.prompt.UniversalPrompt"}
