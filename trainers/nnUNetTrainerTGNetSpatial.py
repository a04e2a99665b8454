"""The row "spatial" of TGNet's Table 2: voxels of the skips are scaled instead of channels.

After TGNet (Wu, Pang, Sowmya, ISBI 2022).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTGNetSpatial(MultiTaskTrainer):
    """Image and task scale the voxels of the skips."""

    defaults: ClassVar = {"head": "own", "gates": "faithful"}
    heads: ClassVar = {
        "own": "nnunet_mtl.networks.dodnet.dynamic_head.DynamicHead",
        "slots": "nnunet_mtl.networks.heads.SlotHead",
    }
    parts: ClassVar = {"task_attention": "nnunet_mtl.networks.tgnet.skip_gates.SpatialGate"}
