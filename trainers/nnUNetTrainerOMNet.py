"""OM-Net: nested tasks in one pass, each guided by what the one around it found.

After Zhou, Ding, Wang, Lu, Tao, One-pass multi-task networks with cross-task guided attention for brain tumor
segmentation, IEEE TIP 2020.
"""

from nnunet_mtl.training.nested_trainer import NestedTrainer


class nnUNetTrainerOMNet(NestedTrainer):
    """One pass for all tasks; a pool of patches for each, and a curriculum from coarse to fine."""
