"""ACSNet: gates on the skips, deformable attention in the decoder, and a classification branch that reads both.

After He et al., ACSNet, 2024, segmentation and classification of breast ultrasound.
"""

from typing import Any, ClassVar

from nnunet_mtl.settings import Settings
from nnunet_mtl.training.multitask_trainer import MultiTaskTrainer

NETWORKS = "nnunet_mtl.networks"
GATES = {"published": f"{NETWORKS}.gate_unit.GateUnit", "after_norm": f"{NETWORKS}.gate_unit.GateAfterNorm"}
ATTENTION = {
    "deformable": f"{NETWORKS}.deformable_attention.DeformableAttention",
    "plain": f"{NETWORKS}.deformable_attention.PlainAttention",
}
BRANCH = f"{NETWORKS}.channel_attention_head.ChannelAttentionHead"
# no dropout, and answers that weigh in full from the first epoch
PUBLISHED = {"class_warmup": 0.0, "class_dropout": 0.0, "loss_weighting": "liebel_koerner"}


class nnUNetTrainerACSNet(MultiTaskTrainer):
    """One pass for every task and question; gates, deformable attention and branch each off by setting."""

    task_losses: ClassVar = True
    class_heads: ClassVar = {**MultiTaskTrainer.class_heads, "own": BRANCH}
    defaults: ClassVar = {"class_head": "own", "class_weight": 1.0, "class_gradient": 1.0, **PUBLISHED}
    variants: ClassVar = {
        "gate_unit": {"none": {}, **{name: {"encoder_attention": part} for name, part in GATES.items()}},
        "deformable_attention": {"none": {}, **{name: {"decoder_attention": part} for name, part in ATTENTION.items()}},
    }

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return how many stages of the decoder have attention."""
        return {"deformable_stages": settings.deformable_stages}
