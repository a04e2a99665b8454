"""MTAN: every task looks at the features of one network through masks of its own.

After Liu, Johns, Davison, End-to-end multi-task learning with attention, CVPR 2019 (arXiv:1803.10704).
"""

from typing import Any, ClassVar

from nnunet_mtl.networks.architecture import STREAMED
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import NO_EVIDENCE
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerMTAN(MultiTaskTrainer):
    """Masks in encoder and decoder; a question reads its masked features of the encoder's deepest stage."""

    family: ClassVar = STREAMED
    task_losses: ClassVar = True
    heads: ClassVar = {"regions": "nnunet_mtl.networks.heads.RegionHead"}
    class_heads: ClassVar = {
        **MultiTaskTrainer.class_heads,
        "own": "nnunet_mtl.networks.streams.stream_heads.StreamHead",
    }
    defaults: ClassVar = NO_EVIDENCE | {"class_head": "own", "loss_weighting": "dwa"}
    variants: ClassVar = {
        "mtan_form": {
            "segnet": {
                "streams": "nnunet_mtl.networks.streams.mtan_encoder.AttentionStreams",
                "stream_decoders": "nnunet_mtl.networks.streams.mtan_decoder.AttentionDecoders",
            },
            "resnet": {"streams": "nnunet_mtl.networks.streams.mtan_encoder.ResidualAttentionStreams"},
        }
    }

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the width of the masks, and what the backward pass recomputes."""
        return {"width": settings.attention_width, "recompute": settings.recompute}
