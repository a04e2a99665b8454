"""ACSNet: gates on the skips, deformable attention in the decoder, and a classification branch that reads both.

After He et al., ACSNet, 2024, segmentation and classification of breast ultrasound.
"""

from typing import Any, ClassVar

from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import NO_EVIDENCE
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerACSNet(MultiTaskTrainer):
    """One pass answers every task and question; settings switch off gates, deformable attention and branch."""

    task_losses: ClassVar = True
    class_heads: ClassVar = {
        **MultiTaskTrainer.class_heads,
        "own": "nnunet_mtl.networks.acsnet.channel_attention_head.ChannelAttentionHead",
    }
    # the paper has no dropout and learns the weights of the loss
    defaults: ClassVar = NO_EVIDENCE | {"class_head": "own", "class_dropout": 0.0, "loss_weighting": "liebel_koerner"}
    variants: ClassVar = {
        "gate_unit": {
            "published": {"encoder_attention": "nnunet_mtl.networks.acsnet.gate_unit.GateUnit"},
            "after_norm": {"encoder_attention": "nnunet_mtl.networks.acsnet.gate_unit.GateAfterNorm"},
            "none": {},
        },
        "deformable_attention": {
            "deformable": {"decoder_attention": "nnunet_mtl.networks.acsnet.deformable_attention.DeformableAttention"},
            "plain": {"decoder_attention": "nnunet_mtl.networks.acsnet.deformable_attention.PlainAttention"},
            "none": {},
        },
    }

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the number of decoder stages with attention."""
        return {"deformable_stages": settings.deformable_stages}
