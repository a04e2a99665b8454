import copy
import json
from typing import Any

import pytest
import torch

from nnunet_mtl.networks.architecture import (
    GUIDED,
    PYRAMID,
    STREAMED,
    ArchitectureError,
    family_of,
    multitask_architecture,
)
from nnunet_mtl.networks.attention import TaskGuidedAttention
from nnunet_mtl.networks.classification import EvidenceHead, NoClassification
from nnunet_mtl.networks.heads import SlotHead
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet, TaskGuidedResidualEncoderUNet

CHOICES = {
    "layout": Layout((0, 0, 1), (0, 1, 0), ((1, 2), (2,), (3,))),
    "patch_size": [16, 20],
    "parts": {"task_attention": "nnunet_mtl.networks.attention.TaskGuidedAttention"},
    "head": "nnunet_mtl.networks.heads.SlotHead",
    "gates": "identity",
}
ASKED = CHOICES | {
    "questions": [
        {"name": "malignant.tumour", "outputs": 2, "evidence": 1, "task": 0},
        {"name": "severity", "outputs": 3, "evidence": -1, "task": -1},
    ],
    "classification": "nnunet_mtl.networks.classification.EvidenceHead",
    "class_dropout": 0.25,
}


def stock_architecture(name: str = "unet.PlainConvUNet") -> dict[str, Any]:
    blocks = "n_conv_per_stage" if "Plain" in name else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.{name}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
            "strides": [[1, 1], [2, 2], [2, 2]],
            blocks: [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def build(block: dict[str, Any]) -> Any:
    """Build a network as nnU-Net does, from plans that were a file."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    block = json.loads(json.dumps(block))
    return get_network_from_plans(
        block["network_class_name"],
        block["arch_kwargs"],
        block["_kw_requires_import"],
        input_channels=2,
        output_channels=3,
        allow_init=True,
        deep_supervision=True,
    )


@pytest.mark.parametrize(
    ("stock", "ours"),
    [
        ("unet.PlainConvUNet", TaskGuidedPlainConvUNet),
        ("unet.ResidualEncoderUNet", TaskGuidedResidualEncoderUNet),
        ("residual_unet.ResidualEncoderUNet", TaskGuidedResidualEncoderUNet),
    ],
)
def test_nnunet_builds_the_network_from_the_block_after_a_trip_through_json(stock: str, ours: type) -> None:
    network = build(multitask_architecture(stock_architecture(stock), **CHOICES))
    assert type(network) is ours
    assert isinstance(network.segmentation_head, SlotHead)
    assert network.decoder.seg_layers[0].out_channels == 2
    assert network(torch.randn(1, 2, 16, 16)).shape == (1, 3, 16, 16)
    for gate in network.task_attention:
        assert isinstance(gate, TaskGuidedAttention)
        skip = torch.randn(1, gate.gate.output.out_features, 4, 4)
        feature = torch.randn(1, 8, 4, 4)
        assert torch.equal(gate(skip, feature, skip, torch.tensor([1])), skip)


def test_nnunet_builds_the_head_and_its_last_layer_still_starts_at_zero() -> None:
    network = build(multitask_architecture(stock_architecture(), **ASKED))
    assert isinstance(network.classification, EvidenceHead)
    output = network(torch.randn(2, 2, 16, 16), full_output=True)
    assert {name: tuple(logits.shape) for name, logits in output.classification.items()} == {
        "malignant.tumour": (2, 2),
        "severity": (2, 3),
    }
    assert not any(bool(logits.any()) for logits in output.classification.values())
    assert [module.p for module in network.classification.modules() if isinstance(module, torch.nn.Dropout)] == [
        0.25
    ] * 2


def test_plans_written_before_there_were_questions_give_the_network_they_gave() -> None:
    block = multitask_architecture(stock_architecture(), **CHOICES)
    later = {"questions", "classification", "class_dropout", "class_gradient", "labels_of_region", "head_options"}
    for key in (later | {"bottleneck_size"} | GUIDED.points.keys()) - {"task_attention"}:
        del block["arch_kwargs"][key]
        if key in block["_kw_requires_import"]:
            block["_kw_requires_import"].remove(key)
    before, now = build(block), build(multitask_architecture(block, **CHOICES))
    assert isinstance(before.classification, NoClassification)
    now.load_state_dict(before.state_dict())
    assert not any("classification" in name for name in now.state_dict())


def test_the_input_is_not_changed_and_a_second_application_only_sets_the_values() -> None:
    stock = stock_architecture()
    untouched = copy.deepcopy(stock)
    once = multitask_architecture(stock, **CHOICES)
    assert stock == untouched
    assert multitask_architecture(once, **CHOICES) == once
    off = multitask_architecture(once, **(CHOICES | {"parts": {}}))
    assert off["arch_kwargs"]["task_attention"] == "nnunet_mtl.networks.off_parts.NoTaskAttention"
    assert off["_kw_requires_import"] == once["_kw_requires_import"]
    asked = multitask_architecture(once, **ASKED)
    assert asked["arch_kwargs"]["questions"] == ASKED["questions"]
    assert multitask_architecture(asked, **ASKED) == asked
    assert multitask_architecture(asked, **CHOICES) == once


def test_everything_else_of_the_block_stays() -> None:
    stock = stock_architecture()
    block = multitask_architecture(stock, **CHOICES)
    own = {"task_of_region", "slot_of_region", "labels_of_region", "segmentation_head", "head_options", "gates"}
    own |= {"bottleneck_size", *GUIDED.points}
    own |= {"questions", "classification", "class_dropout", "class_gradient", "method_options", "regressions"}
    assert {key: value for key, value in block["arch_kwargs"].items() if key not in own} == stock["arch_kwargs"]
    assert set(block) == set(stock)


def test_the_bottlenecks_size_is_that_of_the_feature_and_an_unknown_point_is_refused() -> None:
    block = multitask_architecture(stock_architecture(), **CHOICES)
    assert block["arch_kwargs"]["bottleneck_size"] == [4, 5]
    odd = multitask_architecture(stock_architecture(), **(CHOICES | {"patch_size": [18, 21]}))
    assert odd["arch_kwargs"]["bottleneck_size"] == list(build(odd).encoder(torch.zeros(1, 2, 18, 21))[-1].shape[2:])
    with pytest.raises(ArchitectureError, match=r"no point 'skip'; known are input_conditioning"):
        multitask_architecture(stock_architecture(), **(CHOICES | {"parts": {"skip": "x.y"}}))


@pytest.mark.parametrize("name", ["primus.Primus", "unet.ResidualUNet", "my_package.PlainConvUNet"])
def test_an_unknown_network_is_refused_with_what_is_supported(name: str) -> None:
    stock = stock_architecture() | {"network_class_name": name}
    with pytest.raises(ArchitectureError, match=r"network_class_name .* supported are .*unet\.ResidualEncoderUNet"):
        multitask_architecture(stock, **CHOICES)


@pytest.mark.parametrize("family", [GUIDED, STREAMED, PYRAMID])
def test_a_family_is_known_by_its_networks_and_any_of_them_can_become_another(family: Any) -> None:
    for stock in ("unet.PlainConvUNet", "unet.ResidualEncoderUNet"):
        block = multitask_architecture(stock_architecture(stock), **(CHOICES | {"parts": {}}), family=family)
        assert family_of(block["network_class_name"]) is family
        other = multitask_architecture(block, **(CHOICES | {"parts": {}}), family=GUIDED)
        assert other["network_class_name"] == GUIDED.networks[stock.partition(".")[2]]
    assert family_of(stock_architecture()["network_class_name"]) is GUIDED
