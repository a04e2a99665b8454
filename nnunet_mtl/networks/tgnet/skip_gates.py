"""Task-guided gates on the skips, as published, and the three ablations of the paper's Table 2.

All read what the transposed convolution hands to the decoder's stage, which has the skip's channels: only so does the
number of parameters come out as published. It costs dependence on the image: in nnU-Net that tensor is a linear map of
features behind an InstanceNorm, whose means are nearly the same in every image, and so is the descriptor pooled from
it. `nnunet_mtl.networks.attention` is this package's own gate, which reads a convolution before its normalisation.

Source: Wu, Pang, Sowmya, TGNet: a task-guided network architecture for multi-organ and tumour segmentation from
partially labelled datasets, ISBI 2022, task-guided attention and Table 2. Written from the paper. It names the spatial,
serial and parallel gates without equations: theirs are ours.
"""

from typing import ClassVar, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_mtl.networks.attention import Gates
from nnunet_mtl.networks.normalised_feature import GlobalMean, NormalisedFeature
from nnunet_mtl.networks.tgnet.descriptor_gate import DescriptorGate


class ChannelGate(nn.Module):
    """One factor for every channel of the skip: x' = x * sigmoid(W [GAP(ReLU(GN(g))) || e_t] + b). This is TGNet-A.

    It adds (C + K) C + C + 2 C parameters to a skip of C channels.

    Args:
        skip_channels: C.
        feature_channels: Not used.
        num_tasks: K.
        gates: How the factors start, see `DescriptorGate`.
    """

    conditioned: ClassVar[bool] = True

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()
        descriptor = nn.Sequential(NormalisedFeature(skip_channels), GlobalMean())
        self.gate = DescriptorGate(descriptor, skip_channels, num_tasks, skip_channels, gates)

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor, task: Tensor) -> Tensor:
        """Return the gated skip.

        Args:
            skip: x, (B, C, *spatial).
            coarser: Not read.
            upsampled: g, the transposed convolution's output, (B, C, *spatial).
            task: Task index per sample, (B,) long.
        """
        return skip * _factors(self.gate, upsampled, task).to(skip.dtype)


class SpatialGate(nn.Module):
    """One factor for every voxel of the skip: x' = x * sigmoid(w [ReLU(GN(g)) || e_t] + b), e_t at every voxel.

    It adds C + K + 1 + 2 C parameters to a skip of C channels.

    Args:
        skip_channels: C.
        feature_channels: Not used.
        num_tasks: K.
        gates: How the factors start, see `DescriptorGate`.
    """

    conditioned: ClassVar[bool] = True

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()
        self.gate = DescriptorGate(NormalisedFeature(skip_channels), skip_channels, num_tasks, 1, gates)

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor, task: Tensor) -> Tensor:
        """Return the gated skip; the arguments are those of `ChannelGate`."""
        return skip * _factors(self.gate, upsampled, task).to(skip.dtype)


class _BothGates(nn.Module):
    conditioned: ClassVar[bool] = True

    def __init__(self, skip_channels: int, feature_channels: int, num_tasks: int, gates: Gates) -> None:
        super().__init__()
        self.channel = ChannelGate(skip_channels, feature_channels, num_tasks, gates)
        self.spatial = SpatialGate(skip_channels, feature_channels, num_tasks, gates)


class SerialGates(_BothGates):
    """The channel gate, then the spatial one: x' = spatial(channel(x)); built as they are."""

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor, task: Tensor) -> Tensor:
        """Return the gated skip; the arguments are those of `ChannelGate`."""
        gated: Tensor = self.channel(skip, coarser, upsampled, task)
        return cast(Tensor, self.spatial(gated, coarser, upsampled, task))


class ParallelGates(_BothGates):
    """The mean of what both gates make of the skip (a sum would double it): x' = (channel(x) + spatial(x)) / 2."""

    def forward(self, skip: Tensor, coarser: Tensor, upsampled: Tensor, task: Tensor) -> Tensor:
        """Return the gated skip; the arguments are those of `ChannelGate`."""
        by_channel: Tensor = self.channel(skip, coarser, upsampled, task)
        by_voxel: Tensor = self.spatial(skip, coarser, upsampled, task)
        return (by_channel + by_voxel) / 2


def _factors(gate: nn.Module, upsampled: Tensor, task: Tensor) -> Tensor:
    # The normalised feature is as large as the skip and cheap: computed again in the backward pass rather than kept.
    return cast(Tensor, checkpoint(gate, upsampled, task, use_reentrant=False, preserve_rng_state=False))
