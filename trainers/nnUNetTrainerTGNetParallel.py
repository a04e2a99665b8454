"""The row "parallel" of TGNet's Table 2: the mean of skips with scaled channels and with scaled voxels.

After TGNet (Wu, Pang, Sowmya, ISBI 2022).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTGNetParallel(MultiTaskTrainer):
    """Image and task scale channels and voxels of the skips in parallel."""

    defaults: ClassVar = {"head": "own", "gates": "faithful"}
    heads: ClassVar = {
        "own": "nnunet_mtl.networks.dodnet.dynamic_head.DynamicHead",
        "slots": "nnunet_mtl.networks.heads.SlotHead",
    }
    parts: ClassVar = {"task_attention": "nnunet_mtl.networks.tgnet.skip_gates.ParallelGates"}
