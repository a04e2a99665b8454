"""The full output of a multi-task network: segmentation, answers, evidence and regression."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class MultiTaskOutput:
    """Segmentation logits and image-level logits of one forward call.

    This class is not a tuple, because nnU-Net takes a tuple or list for outputs of deep supervision.

    Attributes:
        segmentation: Logits before the sigmoid (or softmax), (B, R, *spatial); with deep supervision a list of such
            tensors, full resolution first.
        classification: Logits by the name of the question, (B, outputs) float32; empty without a classification head.
        evidence: Evidence volume in voxels by the name of the question, (B,) float32, for questions about a region: the
            sum over the patch of the region's mask, or of the probabilities that count as evidence.
        regression: Values per voxel by the name of the regression task, (B, 1, *spatial).
    """

    segmentation: Tensor | list[Tensor]
    classification: dict[str, Tensor] = field(default_factory=dict)
    evidence: dict[str, Tensor] = field(default_factory=dict)
    regression: dict[str, Tensor] = field(default_factory=dict)
