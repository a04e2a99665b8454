"""The gate of TGNet: factors between 0 and 1, computed from a descriptor of a feature and from the task.

    v = GAP(ReLU(GN(g))),    a = sigmoid(W [v || e_t] + b)

g is a feature, e_t the task's one-hot code, W one convolution with kernel 1: no bottleneck, no hidden layer. On a skip
the gate reads v of a decoder feature; in a residual block GAP(u), u the output of the first convolution, which nothing
has normalised yet; the spatial gate of the ablations leaves out GAP. They are one gate on three descriptors.

Source: Wu, Pang, Sowmya, TGNet: a task-guided network architecture for multi-organ and tumour segmentation from
partially labelled datasets, ISBI 2022. Written from the paper: the prose, for its equation of the gate leaves out code
and normalisation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.attention import Gates
from nnunet_mtl.networks.task_code import TaskCode


class DescriptorGate(nn.Module):
    """Computes factors from a descriptor and the task, in at least float32 also under autocast.

    Args:
        descriptor: Computes v, (B, C, *size), of a feature.
        channels: C.
        num_tasks: K.
        factors: F.
        gates: "faithful": sigmoid, W initialised as convolutions are by default and b zero, so that factors start near
            one half; "identity": 2 sigmoid with W and b zero, so that they start at exactly 1.
    """

    def __init__(self, descriptor: nn.Module, channels: int, num_tasks: int, factors: int, gates: Gates) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.task_code = TaskCode(num_tasks)
        # A linear layer, for nnU-Net initialises convolutions anew after construction.
        self.output = nn.Linear(channels + num_tasks, factors)
        nn.init.zeros_(self.output.bias)
        self.scale = 1.0
        if gates == "identity":
            nn.init.zeros_(self.output.weight)
            self.scale = 2.0

    def forward(self, feature: Tensor, task: Tensor) -> Tensor:
        """Return factors (B, F, *size) of a feature (B, C', *spatial) and task indices (B,)."""
        with torch.autocast(feature.device.type, enabled=False):
            described = self.descriptor(feature)
            batch, channels, *size = described.shape
            code = self.task_code(described.new_empty(batch, 0), task)
            descriptor_weight, code_weight = self.output.weight[:, :channels], self.output.weight[:, channels:]
            # The code is the same at every voxel, so that its part of the sum is computed once.
            task_part = functional.linear(code, code_weight, self.output.bias).unsqueeze(2)
            logits = torch.baddbmm(task_part, descriptor_weight.expand(batch, -1, -1), described.flatten(2))
            return self.scale * torch.sigmoid(logits).reshape(batch, -1, *size)
