"""nnU-Net's own trainer with the numbers of the plans' settings: the control every comparison needs.

It does not look at the task block: what a case does not annotate is background to it.
"""

from nnunet_mtl.training.scheduled_trainer import ScheduledTrainer


class nnUNetTrainerStockSchedule(ScheduledTrainer):
    """Stock network, loss, sampling and validation, with epochs, learning rate and mirroring of the settings."""
