"""The row "serial" of TGNet's Table 2: channels of the skips are scaled, then voxels.

After TGNet (Wu, Pang, Sowmya, ISBI 2022).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTGNetSerial(MultiTaskTrainer):
    """Image and task scale the channels of the skips, then the voxels."""

    defaults: ClassVar = {"head": "own", "gates": "faithful"}
    heads: ClassVar = {
        "own": "nnunet_mtl.networks.dodnet.dynamic_head.DynamicHead",
        "slots": "nnunet_mtl.networks.heads.SlotHead",
    }
    parts: ClassVar = {"task_attention": "nnunet_mtl.networks.tgnet.skip_gates.SerialGates"}
