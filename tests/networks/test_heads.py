import torch
from torch import nn

from nnunet_mtl.networks.heads import RegionHead, SlotHead
from nnunet_mtl.networks.layout import Layout


def layout(slots: tuple[int, ...]) -> Layout:
    return Layout((0,) * len(slots), slots, tuple((label,) for label in range(1, len(slots) + 1)))


FIVE = layout((0, 1, 0, 0, 1))


def test_region_head_is_the_layer_itself() -> None:
    layer = nn.Conv2d(3, 5, 1)
    features = torch.randn(2, 3, 4, 4)
    head = RegionHead(FIVE, 8)
    assert RegionHead.channels(FIVE) == 5
    assert torch.equal(head(features, layer), layer(features))


def test_slot_head_reads_the_channel_of_each_regions_slot() -> None:
    slots = (0, 1, 0, 2, 1)
    assert SlotHead.channels(layout(slots)) == 3
    layer = nn.Conv2d(3, 3, 1)
    features = torch.randn(2, 3, 4, 4)
    logits = SlotHead(layout(slots), 8)(features, layer)
    assert logits.shape == (2, 5, 4, 4)
    for region, slot in enumerate(slots):
        assert torch.equal(logits[:, region], layer(features)[:, slot])


def test_heads_add_nothing_to_a_checkpoint() -> None:
    assert not RegionHead(FIVE, 8).state_dict()
    assert not SlotHead(FIVE, 8).state_dict()
