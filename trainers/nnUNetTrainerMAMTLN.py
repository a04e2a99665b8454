"""MA-MTLN: features shared over scales, from which one branch segments and one answers.

After Zhang et al., MA-MTLN, IEEE TMI 2021.
"""

from typing import Any, ClassVar

from nnunet_mtl.networks.architecture import PYRAMID
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import CLASS_HEADS, NO_EVIDENCE, switched
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMAMTLN(MultiTaskTrainer):
    """A pyramid replaces the decoder; one pass answers every task and question."""

    family: ClassVar = PYRAMID
    task_losses: ClassVar = True
    published_loss: ClassVar = "jaccard_focal"
    class_heads: ClassVar = CLASS_HEADS | {"own": "nnunet_mtl.networks.mamtln.aware_branches.AwareHead"}
    # the released code has no class weights and no dropout, and this L2 penalty
    defaults: ClassVar = NO_EVIDENCE | {
        "class_head": "own",
        "class_balance": "none",
        "class_dropout": 0.0,
        "class_weight_decay": 2e-5,
        "loss_weighting": "liebel_koerner",
    }
    variants: ClassVar = switched(
        visual_attention="nnunet_mtl.networks.mamtln.visual_attention.VisualAttention",
        adaptive_attention="nnunet_mtl.networks.mamtln.adaptive_attention.AdaptiveAttention",
        segmentation_aware="nnunet_mtl.networks.mamtln.aware_branches.SegmentationAwareBranch",
        classification_aware="nnunet_mtl.networks.mamtln.aware_branches.ClassificationAwareBranch",
    )

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return width, number of levels and output of the pyramid."""
        return {"width": settings.pyramid_width, "levels": settings.pyramid_levels, "output": settings.adaptive_output}
