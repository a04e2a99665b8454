"""MultiTalent: a sigmoid for every region, losses summed over what is annotated.

After Ulrich, Isensee, Wald, Zenk, Baumgartner, Maier-Hein, MultiTalent: a multi-dataset approach to medical image
segmentation, MICCAI 2023.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMultiTalent(MultiTaskTrainer):
    """One pass serves all tasks; a case of a task with n cases is drawn with weight 1/sqrt(n)."""

    defaults: ClassVar = {"sampling": "sqrt"}
    loss_mode = "summed"
