"""CTAN-style: every task masks the shared features, and tasks exchange what they see.

After Kim, Purdie, McIntosh, Cross-task attention network, 2023 (arXiv:2309.03837), whose abstract alone we
know: the equations are ours.
"""

from typing import Any, ClassVar

from nnunet_mtl.networks.architecture import STREAMED
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import NO_EVIDENCE
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCTAN(MultiTaskTrainer):
    """Settings switch the exchange in the encoder and at the bottleneck; without both the encoder is MTAN's."""

    family: ClassVar = STREAMED
    task_losses: ClassVar = True
    heads: ClassVar = {"regions": "nnunet_mtl.networks.heads.RegionHead"}
    class_heads: ClassVar = {
        **MultiTaskTrainer.class_heads,
        "own": "nnunet_mtl.networks.streams.stream_heads.StreamHead",
    }
    defaults: ClassVar = NO_EVIDENCE | {"class_head": "own", "loss_weighting": "dwa", "attention_width": "quarter"}
    variants: ClassVar = {
        "cross_encoder": {
            True: {"streams": "nnunet_mtl.networks.streams.ctan_encoder.CrossAttentionStreams"},
            False: {"streams": "nnunet_mtl.networks.streams.mtan_encoder.AttentionStreams"},
        },
        "cross_bottleneck": {
            True: {"stream_bottleneck": "nnunet_mtl.networks.streams.ctan_bottleneck.CrossTaskBottleneck"},
            False: {},
        },
    }

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the width of the masks, whether pairs share a mask, and what the backward pass recomputes."""
        return {"width": settings.attention_width, "pairs": settings.pair_attention, "recompute": settings.recompute}
