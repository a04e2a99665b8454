import torch
from torch import nn

from nnunet_mtl.networks.heads import RegionHead, SlotHead


def test_region_head_is_the_layer_itself() -> None:
    layer = nn.Conv2d(3, 5, 1)
    features = torch.randn(2, 3, 4, 4)
    head = RegionHead([0, 1, 0, 0, 1])
    assert RegionHead.channels([0, 1, 0, 0, 1]) == 5
    assert torch.equal(head(features, layer), layer(features))


def test_slot_head_reads_the_channel_of_each_regions_slot() -> None:
    slots = [0, 1, 0, 2, 1]
    assert SlotHead.channels(slots) == 3
    layer = nn.Conv2d(3, 3, 1)
    features = torch.randn(2, 3, 4, 4)
    logits = SlotHead(slots)(features, layer)
    assert logits.shape == (2, 5, 4, 4)
    for region, slot in enumerate(slots):
        assert torch.equal(logits[:, region], layer(features)[:, slot])


def test_heads_add_nothing_to_a_checkpoint() -> None:
    assert not RegionHead([0, 1]).state_dict()
    assert not SlotHead([0, 1]).state_dict()
