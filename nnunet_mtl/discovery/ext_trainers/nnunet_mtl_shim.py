"""What nnU-Net finds when it searches this folder: the trainers under their own, importable names.

nnU-Net imports every file of a folder named in `nnUNet_extTrainer` as a top-level module and drops it again after the
look-up. A class defined in such a file is another class at every look-up and cannot be pickled; a re-exported one is
not. So this module only re-exports, by explicit imports: an editable install does not list `nnunet_mtl.trainers`.
"""

from nnunet_mtl.trainers.nnUNetTrainerACSNet import nnUNetTrainerACSNet
from nnunet_mtl.trainers.nnUNetTrainerCLIPDriven import nnUNetTrainerCLIPDriven
from nnunet_mtl.trainers.nnUNetTrainerCondDec import nnUNetTrainerCondDec
from nnunet_mtl.trainers.nnUNetTrainerCondInput import nnUNetTrainerCondInput
from nnunet_mtl.trainers.nnUNetTrainerCondNO import nnUNetTrainerCondNO
from nnunet_mtl.trainers.nnUNetTrainerCTAN import nnUNetTrainerCTAN
from nnunet_mtl.trainers.nnUNetTrainerDoDNet import nnUNetTrainerDoDNet
from nnunet_mtl.trainers.nnUNetTrainerHPS import nnUNetTrainerHPS
from nnunet_mtl.trainers.nnUNetTrainerMAMTLN import nnUNetTrainerMAMTLN
from nnunet_mtl.trainers.nnUNetTrainerMTAN import nnUNetTrainerMTAN
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention
from nnunet_mtl.trainers.nnUNetTrainerMultiHead import nnUNetTrainerMultiHead
from nnunet_mtl.trainers.nnUNetTrainerMultiTalent import nnUNetTrainerMultiTalent
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet
from nnunet_mtl.trainers.nnUNetTrainerSTLCls import nnUNetTrainerSTLCls
from nnunet_mtl.trainers.nnUNetTrainerStockSchedule import nnUNetTrainerStockSchedule
from nnunet_mtl.trainers.nnUNetTrainerTAL import nnUNetTrainerTAL
from nnunet_mtl.trainers.nnUNetTrainerTGNet import nnUNetTrainerTGNet
from nnunet_mtl.trainers.nnUNetTrainerTGNetA import nnUNetTrainerTGNetA
from nnunet_mtl.trainers.nnUNetTrainerTGNetParallel import nnUNetTrainerTGNetParallel
from nnunet_mtl.trainers.nnUNetTrainerTGNetSerial import nnUNetTrainerTGNetSerial
from nnunet_mtl.trainers.nnUNetTrainerTGNetSpatial import nnUNetTrainerTGNetSpatial
from nnunet_mtl.trainers.nnUNetTrainerUniSeg import nnUNetTrainerUniSeg

__all__ = [
    "nnUNetTrainerACSNet",
    "nnUNetTrainerCLIPDriven",
    "nnUNetTrainerCTAN",
    "nnUNetTrainerCondDec",
    "nnUNetTrainerCondInput",
    "nnUNetTrainerCondNO",
    "nnUNetTrainerDoDNet",
    "nnUNetTrainerHPS",
    "nnUNetTrainerMAMTLN",
    "nnUNetTrainerMTAN",
    "nnUNetTrainerMTLAttention",
    "nnUNetTrainerMTLNoAttention",
    "nnUNetTrainerMultiHead",
    "nnUNetTrainerMultiTalent",
    "nnUNetTrainerOMNet",
    "nnUNetTrainerSTLCls",
    "nnUNetTrainerStockSchedule",
    "nnUNetTrainerTAL",
    "nnUNetTrainerTGNet",
    "nnUNetTrainerTGNetA",
    "nnUNetTrainerTGNetParallel",
    "nnUNetTrainerTGNetSerial",
    "nnUNetTrainerTGNetSpatial",
    "nnUNetTrainerUniSeg",
]
