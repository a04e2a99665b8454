"""CLIP-driven universal model: the weights of a region's head are computed from an embedding of the region.

After Liu et al., CLIP-driven universal model for organ segmentation and tumor detection, ICCV 2023. No text encoder
comes with it: embeddings are random, learned, or the user's own.
"""

from typing import ClassVar

from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerCLIPDriven(MultiTaskTrainer):
    """One pass for all tasks, a small head for every region."""

    defaults: ClassVar = {"head": "embeddings", "loss": "published"}
    published_loss = "pair"
    heads: ClassVar = {"embeddings": "nnunet_mtl.networks.clip_driven.region_embedding_head.RegionEmbeddingHead"}
