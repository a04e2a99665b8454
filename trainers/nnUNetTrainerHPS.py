"""HPS: hard parameter sharing, one encoder, and a decoder or a head for every task.

After Caruana, Multitask learning, Machine Learning 28, 1997; the baseline of the joint methods.
"""

from typing import Any, ClassVar

from nnunet_mtl.networks.architecture import STREAMED
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.composition import NO_EVIDENCE
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerHPS(MultiTaskTrainer):
    """Tasks share the encoder alone; a question reads the mean of the bottleneck before normalisation."""

    family: ClassVar = STREAMED
    task_losses: ClassVar = True
    heads: ClassVar = {"regions": "nnunet_mtl.networks.heads.RegionHead"}
    defaults: ClassVar = NO_EVIDENCE | {"class_head": "bottleneck"}

    @classmethod
    def method_options(cls, settings: Settings) -> dict[str, Any]:
        """Return what the backward pass recomputes."""
        return {"recompute": settings.recompute}
