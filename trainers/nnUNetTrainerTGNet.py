"""TGNet: the task in the encoder and on the skips.

After Wu, Pang, Sowmya, TGNet: a task-guided network architecture for multi-organ and tumour segmentation from partially
labelled datasets, ISBI 2022.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTGNet(MultiTaskTrainer):
    """Task-guided residual blocks and task-guided attention; the whole network runs once per task."""

    defaults: ClassVar = {"head": "own", "gates": "faithful"}
    heads: ClassVar = {
        "own": "nnunet_mtl.networks.dodnet.dynamic_head.DynamicHead",
        "slots": "nnunet_mtl.networks.heads.SlotHead",
    }
    parts: ClassVar = {
        "encoder_conditioning": "nnunet_mtl.networks.tgnet.residual_gates.TaskGuidedResidual",
        "task_attention": "nnunet_mtl.networks.tgnet.skip_gates.ChannelGate",
    }
