from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from nnunet_mtl.networks.architecture import GUIDED, PYRAMID, STREAMED, multitask_architecture
from nnunet_mtl.networks.description import ArchitectureError, NetworkDescription, read_description
from nnunet_mtl.networks.heads import RegionHead, SlotHead
from nnunet_mtl.networks.insertion_points import GuidedParts
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.off_parts import NoTaskAttention
from nnunet_mtl.networks.task_code import TaskCode

LAYOUT = Layout((0, 0, 1), (0, 1, 0), ((1, 2), (2,), (3,)))


def test_nothing_given_is_one_task_that_owns_every_region_and_nothing_at_any_point() -> None:
    description, others = read_description({"strides": [1]}, 3, GuidedParts)
    assert description.layout == Layout((0, 0, 0), (0, 1, 2), ((1,), (2,), (3,)))
    assert description == NetworkDescription(description.layout, GuidedParts())
    assert description.parts.task_attention is NoTaskAttention
    assert description.segmentation_head is RegionHead
    assert others == {"strides": [1]}


def test_what_is_given_is_taken_out_of_the_arguments_of_the_backbone() -> None:
    given: dict[str, Any] = {
        "task_of_region": [0, 0, 1],
        "slot_of_region": [0, 1, 0],
        "labels_of_region": [[1, 2], [2], [3]],
        "decoder_conditioning": TaskCode,
        "segmentation_head": SlotHead,
        "class_dropout": 0.5,
        "deep_supervision": True,
    }
    untouched = dict(given)
    description, others = read_description(given, 3, GuidedParts)
    assert description == NetworkDescription(
        LAYOUT, GuidedParts(decoder_conditioning=TaskCode), segmentation_head=SlotHead, class_dropout=0.5
    )
    assert others == {"deep_supervision": True}
    assert given == untouched


def test_it_is_checked_however_it_is_made_and_never_changes() -> None:
    with pytest.raises(ArchitectureError, match=r"arch_kwargs\.gates"):
        NetworkDescription(LAYOUT, GuidedParts(), gates="open")  # type: ignore[arg-type]
    with pytest.raises(ArchitectureError, match=r"arch_kwargs\.decoders names no class"):
        NetworkDescription(LAYOUT, GuidedParts(decoders=None))  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        NetworkDescription(LAYOUT, GuidedParts()).gates = "faithful"  # type: ignore[misc]


@pytest.mark.parametrize("family", [GUIDED, STREAMED, PYRAMID])
def test_plans_say_everything_that_is_in_a_description_and_the_defaults_are_the_same(family: Any) -> None:
    name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    stock = {"network_class_name": name, "arch_kwargs": {"strides": [1, 2]}, "_kw_requires_import": []}
    block = multitask_architecture(stock, layout=LAYOUT, patch_size=[8, 8], parts={}, family=family)
    kwargs = block["arch_kwargs"]
    numbers = {key: kwargs[key] for key in kwargs if key not in block["_kw_requires_import"]}
    read, _ = read_description(numbers, 3, family.parts_class)
    described = {one.name for one in fields(NetworkDescription)} - {"layout", "parts"}
    regions = {"task_of_region", "slot_of_region", "labels_of_region", "strides"}
    assert set(kwargs) == described | set(family.points) | regions
    default = NetworkDescription(LAYOUT, family.parts_class())
    for one in described - {"bottleneck_size"}:
        given, expected = getattr(read, one), getattr(default, one)
        assert (tuple(given), tuple(expected)) == ((), ()) if isinstance(given, list) else given == expected
