"""What nnU-Net finds when it searches this folder: the trainers under their own, importable names.

nnU-Net imports every file of a folder named in `nnUNet_extTrainer` as a top-level module and drops it again after the
look-up. A class defined in such a file is another class at every look-up and cannot be pickled; a re-exported one is
not. So this module only re-exports, by explicit imports: an editable install does not list `nnunet_mtl.trainers`.
"""

from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention
from nnunet_mtl.trainers.nnUNetTrainerSTLCls import nnUNetTrainerSTLCls
from nnunet_mtl.trainers.nnUNetTrainerStockSchedule import nnUNetTrainerStockSchedule

__all__ = [
    "nnUNetTrainerMTLAttention",
    "nnUNetTrainerMTLNoAttention",
    "nnUNetTrainerSTLCls",
    "nnUNetTrainerStockSchedule",
]
