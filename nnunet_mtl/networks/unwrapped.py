"""The network inside the wrappers that training puts around it."""

from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel


def unwrapped(network: nn.Module) -> Any:
    """Return the network without the wrappers of DistributedDataParallel and torch.compile, if it has them."""
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    return inner._orig_mod if isinstance(inner, OptimizedModule) else inner
