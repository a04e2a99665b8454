"""A dynamic head per region, told which region by an embedding of it, such as one of its name: CLIP-driven."""

import math
from collections.abc import Callable
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, cat, nn
from torch.nn import functional

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import shown
from nnunet_mtl.networks.description import ArchitectureError
from nnunet_mtl.networks.dodnet.dynamic_head import (
    WIDTH,
    PooledDescriptor,
    dynamic_layers,
    initialise_controller,
    theta_size,
)
from nnunet_mtl.networks.heads import DeepestStage, RegionHead
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.normalised_feature import NormalisedFeature

Embedding = Literal["random", "learned", "file"]
_BRANCH = 256  # channels of the image's and of the region's part of what the controller reads, as published
_SQUARES = 16.0  # sum over these channels at the start: much more or less is unstable or slow in short runs


class EmbeddingError(UserError):
    """A file does not hold a usable embedding of every region."""


class RegionEmbeddingHead(RegionHead):
    """One dynamic head for every region; all of them run in the one pass that serves all tasks.

    From the decoder's features GroupNorm (16 groups), ReLU and 1x1 convolutions (the decoder's own segmentation layers)
    make 8 channels at every scale. v is a linear layer, C -> 256, of the descriptor of the deepest stage; w_r is ReLU
    of one, E -> 256, of region r's row. A linear layer computes theta_r = A [v || w_r] + a: the 153 numbers of three
    1x1 layers 8-8-1 that make the region's logit, before a sigmoid, of the 8 channels.

    It has 2 C + 256 (C + 1) + 256 (E + 1) + 153 * 513 parameters (292,633 for C = 320 and E = 512), 2 C' more at a
    scale of C' features, and R E more where the embedding is learned. In training it keeps 16 R float32 numbers per
    voxel.

    From the paper's released code, re-implemented from equations, is all of this for embeddings from a file. Ours are
    rows of unit norm, the same branch for rows that are random or learned (there learned ones have 256 numbers and skip
    it), one theta for all scales of deep supervision, the initialisation, and that v is read before that stage's
    normalisation (there behind a batch normalisation; behind an instance normalisation means hardly differ by image).

    Args:
        layout: The regions.
        deepest_channels: C.
        embedding: "random": unit vectors that stay as they are; "learned": the same ones, as a parameter; "file": from
            `load_embedding` or a checkpoint, NaN before, and with it every logit.
        embedding_size: E.
        seed: Of the random vectors.

    Raises:
        ArchitectureError: If `embedding` is none of the three.

    Source: Liu, Zhang, Chen et al., CLIP-driven universal model for organ segmentation and tumor detection, ICCV 2023.
    """

    reads_deepest: ClassVar[bool] = True
    embedding: Tensor

    def __init__(
        self,
        layout: Layout,
        deepest_channels: int,
        embedding: Embedding = "random",
        embedding_size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(layout, deepest_channels)
        if embedding not in get_args(Embedding):
            raise ArchitectureError(
                f"plans: the head's embedding={shown(embedding)} must be one of {', '.join(get_args(Embedding))}"
            )
        generator = torch.Generator("cpu").manual_seed(seed)
        rows = _unit_rows(torch.randn(layout.num_regions, embedding_size, generator=generator, device="cpu"))
        if embedding == "learned":
            self.embedding = nn.Parameter(rows)
        else:
            self.register_buffer("embedding", rows if embedding == "random" else torch.full_like(rows, torch.nan))
        self.descriptor = PooledDescriptor(deepest_channels)
        self.of_image = nn.Linear(deepest_channels, _BRANCH)
        self.of_region = nn.Linear(embedding_size, _BRANCH)
        self.controller = nn.Linear(2 * _BRANCH, theta_size(WIDTH, 1))
        # Image and region count the same; by default the region's part, of a row of unit norm, would hardly count.
        nn.init.normal_(self.of_image.weight, std=math.sqrt(_SQUARES / _BRANCH / PooledDescriptor.squares))
        nn.init.normal_(self.of_region.weight, std=math.sqrt(2 * _SQUARES / _BRANCH))
        nn.init.zeros_(self.of_image.bias)
        nn.init.zeros_(self.of_region.bias)
        initialise_controller(self.controller, ((_BRANCH, _SQUARES), (_BRANCH, _SQUARES)), WIDTH, last=0.1)

    @staticmethod
    def channels(layout: Layout) -> int:
        """Return 8."""
        return WIDTH

    def seg_layer(self, convolution: nn.Module, layout: Layout) -> nn.Module:
        """Return a scale's GroupNorm, ReLU and 1x1 convolution.

        Args:
            convolution: The decoder's own, alone or already behind the other two.
            layout: The regions.
        """
        if not isinstance(convolution, nn.Conv2d | nn.Conv3d):
            return convolution
        return nn.Sequential(NormalisedFeature(convolution.in_channels), convolution)

    def load_embedding(self, embedding: Tensor) -> None:
        """Replace the embedding; it is then part of every checkpoint.

        Args:
            embedding: A row per region, (R, E), of any scale: rows are scaled to unit norm.

        Raises:
            EmbeddingError: If the shape is another, or a row is not finite or all zero.
        """
        if embedding.shape != self.embedding.shape:
            expected, given = tuple(self.embedding.shape), tuple(embedding.shape)
            raise EmbeddingError(
                f"expected an embedding of shape {expected}, got {given}; set embedding_size to its width"
            )
        rows = _unit_rows(embedding)
        if not bool(rows.isfinite().all()):
            raise EmbeddingError("the embedding has rows that are all zero or not finite; compute them again")
        with torch.no_grad():
            self.embedding.copy_(rows)

    def context(self, deepest: DeepestStage, *task: Tensor) -> Tensor:
        """Return theta, (B, R, 153), in float32 also under autocast.

        Args:
            deepest: With `before_norm`, (B, C, *spatial).
            *task: Not given; the head is not conditioned.
        """
        before_norm = cast(Tensor, deepest.before_norm)
        with torch.autocast(before_norm.device.type, enabled=False):
            of_image = self.of_image(self.descriptor(before_norm))
            of_region = functional.relu(self.of_region(self.embedding))
            shape = len(of_image), len(of_region), _BRANCH
            both = cat((of_image[:, None].expand(shape), of_region.expand(shape)), dim=2)
            return cast(Tensor, self.controller(both))

    def forward(  # type: ignore[override]
        self, features: Tensor, seg_layer: Callable[[Tensor], Tensor], context: Tensor
    ) -> Tensor:
        """Return logits (B, R, *spatial), float32 also under autocast.

        Args:
            features: Decoder features of any scale, (B, C', *spatial).
            seg_layer: That scale's projection to 8 channels.
            context: theta of every region.
        """
        return dynamic_layers(seg_layer(features), context, 1)[:, :, 0]


def _unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to unit norm, which CLIP's own comparison of embeddings does; NaN where a row is all zero."""
    rows = rows.double()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return (rows / norms).float()
