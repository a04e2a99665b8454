"""TGNet-A: TGNet's attention on the skips alone, the row "channel" of its Table 2.

After TGNet (Wu, Pang, Sowmya, ISBI 2022).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerTGNetA(MultiTaskTrainer):
    """Image and task scale the channels of the skips."""

    defaults: ClassVar = {"head": "own", "gates": "faithful"}
    heads: ClassVar = {
        "own": "nnunet_mtl.networks.dodnet.dynamic_head.DynamicHead",
        "slots": "nnunet_mtl.networks.heads.SlotHead",
    }
    parts: ClassVar = {"task_attention": "nnunet_mtl.networks.tgnet.skip_gates.ChannelGate"}
