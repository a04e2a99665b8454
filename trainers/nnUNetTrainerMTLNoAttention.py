"""The ablation of `nnUNetTrainerMTLAttention`: the same head and loss, gates off."""

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMTLNoAttention(MultiTaskTrainer):
    """One network serves every task without knowing the task."""
