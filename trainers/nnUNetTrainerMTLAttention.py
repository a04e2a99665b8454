"""Task-guided channel attention on the skips: the flagship.

Own method of this package; the attention follows TGNet (Wu, Pang, Sowmya, ISBI 2022), section on task-guided attention,
with one output channel per region and gates that start at the identity.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMTLAttention(MultiTaskTrainer):
    """One network serves every task; image and task gate the skips."""

    parts: ClassVar = {"task_attention": "nnunet_mtl.networks.attention.TaskGuidedAttention"}
