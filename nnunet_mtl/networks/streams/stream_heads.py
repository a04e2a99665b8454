"""The head that answers each question from the question's own stream."""

from typing import ClassVar

from torch import Tensor

from nnunet_mtl.networks.classification import BottleneckHead, Features


class StreamHead(BottleneckHead):
    """Reads the mean over the patch of the deepest feature of the question's stream, and no evidence.

    The stream of a question starts before the last normalisation of the deepest stage, because behind an InstanceNorm
    the mean of a channel is the same in every image.
    """

    reads_streams: ClassVar[bool] = True

    def deepest(self, index: int, features: Features) -> Tensor:
        """Return the deepest feature of the question's stream, (B, C, *spatial)."""
        return features.streams[index]
