"""The questions alone: the single-task control of every joint method, on the same plans, data and schedule.

Own control of this package. Without a segmentation there is no evidence: the head looks for itself, by attention.
"""

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerSTLCls(MultiTaskTrainer):
    """Answers the questions of the data set and learns no segmentation; its label maps mean nothing."""

    segments = False
