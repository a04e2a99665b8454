"""The ablation of `nnUNetTrainerMTLAttention`: the same head and loss, gates off."""

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMTLNoAttention(MultiTaskTrainer):
    """One network for every task that does not know which task it is asked for."""
