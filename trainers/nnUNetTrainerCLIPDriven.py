"""CLIP-driven universal model: the weights of a region's head are computed from an embedding of the region.

After Liu et al., CLIP-driven universal model for organ segmentation and tumor detection, ICCV 2023. No text encoder
comes with it: embeddings are random, learned, or the user's own.
"""

from typing import Any, ClassVar

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.region_embedding import embedding_options
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCLIPDriven(MultiTaskTrainer):
    """One pass serves all tasks; every region has a small head."""

    defaults: ClassVar = {"head": "own", "loss": "published"}
    published_loss = "pair"
    heads: ClassVar = {"own": "nnunet_mtl.networks.clip_driven.region_embedding_head.RegionEmbeddingHead"}

    @classmethod
    def head_options(cls, settings: Settings, tasks: TaskSet) -> dict[str, Any]:
        """Return the kind and the length of the region embeddings."""
        return embedding_options(settings, tasks.regions)
