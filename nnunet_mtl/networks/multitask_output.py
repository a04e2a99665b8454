"""What a multi-task network returns when it is asked for everything it computed."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class MultiTaskOutput:
    """Segmentation logits and image-level logits of one forward call; not a tuple: a list means deep supervision here.

    Attributes:
        segmentation: Logits before the sigmoid (or softmax), (B, R, *spatial); with deep supervision a list of them,
            full resolution first.
        classification: Logits per question, each (B, outputs), float32; empty for a network without a head.
        evidence: Evidence volume per question that is about a region, each (B,), float32: the sum of the region's mask
            over the patch, in voxels, or of the probabilities that count as evidence.
        regression: Values per voxel of each regression task, (B, 1, *spatial).
    """

    segmentation: Tensor | list[Tensor]
    classification: dict[str, Tensor] = field(default_factory=dict)
    evidence: dict[str, Tensor] = field(default_factory=dict)
    regression: dict[str, Tensor] = field(default_factory=dict)
