"""The head that answers each question from the question's own stream."""

from typing import ClassVar

from torch import Tensor

from nnunet_mtl.networks.classification import BottleneckHead, Features


class StreamHead(BottleneckHead):
    """Reads the mean over the patch of what a question sees of the deepest stage, and no evidence.

    A stream of a question is made of what the deepest stage's last normalisation reads, for behind an InstanceNorm a
    mean is the same for every image.
    """

    reads_streams: ClassVar[bool] = True

    def deepest(self, index: int, features: Features) -> Tensor:
        """Return the question's stream, (B, C, *spatial)."""
        return features.streams[index]
