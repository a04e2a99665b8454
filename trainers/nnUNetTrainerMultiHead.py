"""Multi-Head: a shared encoder, and a decoder (or only a head) for every task.

In the comparison of TGNet (Wu, Pang, Sowmya, ISBI 2022), after Chen, Ma, Zheng, Med3D, 2019 (arXiv:1904.00625).
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMultiHead(MultiTaskTrainer):
    """One encoder and K decoders; with the setting `multi_head=head` one decoder and K heads."""

    defaults: ClassVar = {"head": "slots"}
    heads: ClassVar = {"slots": "nnunet_mtl.networks.heads.SlotHead"}
    variants: ClassVar = {
        "multi_head": {
            "decoder": {"decoders": "nnunet_mtl.networks.decoders.TaskDecoders"},
            # with one channel per region, the channels of a task are its head
            "head": {"segmentation_head": "nnunet_mtl.networks.heads.RegionHead"},
        }
    }
