from pathlib import Path

import torch
from torch import nn

from nnunet_mtl.networks.unwrapped import unwrapped


def test_the_network_is_found_inside_both_wrappers_and_inside_either(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(network)
        compiled = torch.compile(network, backend="eager")
        both = nn.parallel.DistributedDataParallel(torch.compile(network, backend="eager"))
        assert all(unwrapped(one) is network for one in (network, parallel, compiled, both))
    finally:
        torch.distributed.destroy_process_group()
