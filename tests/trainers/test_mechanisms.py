"""What each published method is about, as one property of its network or loss, and that it is the mechanism's doing.

Every property holds with the mechanism and fails with its "off" object in its place: a property that also held without
would be no evidence for it.
"""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings, SettingsError
from nnunet_mtl.training.segmentation_loss import segmentation_loss

TASKS = TaskSet.from_dataset_json(
    {
        "labels": {
            "background": 0,
            "liver": [1, 2],
            "liver_tumour": [2],
            "spleen": [3, 3],
            "kidney": [4, 5],
            "kidney_tumour": [5],
        },
        "regions_class_order": [1, 2, 3, 4, 5],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
                "spleen": {"regions": ["spleen"], "slots": ["organ"]},
                "kidney": {"regions": ["kidney", "kidney_tumour"], "slots": ["organ", "tumour"]},
            },
            "cases": {},
        },
    }
)
SLOTS = {"head": "nnunet_mtl.networks.heads.SlotHead"}
REGIONS = {"head": "nnunet_mtl.networks.heads.RegionHead"}


def trainer(name: str) -> Any:
    return getattr(importlib.import_module(f"nnunet_mtl.trainers.nnUNetTrainer{name}"), f"nnUNetTrainer{name}")


def stock(kind: str) -> dict[str, Any]:
    depth = {"Plain": "n_conv_per_stage", "Residual": "n_blocks_per_stage"}[kind]
    name = {"Plain": "PlainConvUNet", "Residual": "ResidualEncoderUNet"}[kind]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [8, 8, 16],
            "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * 3,
            "strides": [[1, 1], [2, 2], [2, 2]],
            depth: [2, 2, 2],
            "n_conv_per_stage_decoder": [1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }


def network(name: str, kind: str = "Plain", off: tuple[str, ...] = (), head: str | None = None, **changed: Any) -> Any:
    """The network of a trainer, some of its parts off, or with another head, or with other settings."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(0)
    of = trainer(name)
    settings = Settings.from_mapping({**of.defaults, **changed}, name)
    block = of.architecture(stock(kind), [16, 16], TASKS, settings)
    block["arch_kwargs"] |= {part: of.family.points[part] for part in off}
    if head is not None:
        block["arch_kwargs"] |= {"segmentation_head": head, "head_options": {}}
    block = json.loads(json.dumps(block))
    built = get_network_from_plans(
        block["network_class_name"], block["arch_kwargs"], block["_kw_requires_import"], 1, 5, deep_supervision=False
    )
    return built.eval()


IMAGE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    yield seen
    handle.remove()


def of_tasks(net: Any, module: nn.Module) -> tuple[bool, bool]:
    """Whether what a module reads differs between the first and the last task, and whether their slots' logits do."""
    with inputs_of(module) as seen, torch.no_grad():
        first, last = (net(IMAGE, task=torch.full((2,), task)) for task in (0, 2))
    # the organ of the first task and of the last one read the same channel of a shared head
    return not torch.equal(seen[0], seen[1]), not torch.equal(first[:, 0], last[:, 3])


def encoder_knows_the_task(net: Any) -> bool:
    return of_tasks(net, net.decoder.transpconvs[0])[0]


def skips_know_the_task(net: Any) -> bool:
    """The decoder's first stage is told, its last one reads other features; the bottleneck need not be."""
    level = net.task_attention[0]
    skip, coarser, upsampled = torch.ones(1, 8, 4, 4), torch.randn(1, 16, 2, 2), torch.randn(1, 8, 4, 4)
    gated = [level(skip, coarser, upsampled, *([torch.tensor([t])] if level.conditioned else [])) for t in (0, 2)]
    return not torch.equal(gated[0], gated[1])


def only_the_decoder_knows_the_task(net: Any) -> bool:
    bottleneck, logits = of_tasks(net, net.bottleneck_conditioning)
    return logits and not bottleneck


def only_the_head_knows_the_task(net: Any) -> bool:
    features, logits = of_tasks(net, net.decoder.seg_layers[-1])
    return logits and not features


def the_bottleneck_comes_with_a_prompt(net: Any) -> bool:
    bottleneck, _ = of_tasks(net, net.bottleneck_conditioning)
    return of_tasks(net, net.decoder.transpconvs[0])[0] and not bottleneck


def a_region_follows_its_embedding(net: Any) -> bool:
    """Two regions that change their embeddings change their logits."""
    with torch.no_grad():
        before = net(IMAGE)
        rows = getattr(net.segmentation_head, "embedding", None)
        if rows is None:
            return False
        rows.copy_(rows[[3, 1, 2, 0, 4]].clone())
        after = net(IMAGE)
    return torch.allclose(after[:, [3, 1, 2, 0, 4]], before, atol=1e-4) and not torch.allclose(after, before, atol=1e-3)


def levels_are_gated_on_their_way_down(net: Any) -> bool:
    with torch.no_grad():
        x = torch.randn(2, 64, 4, 4)
        return not any(torch.equal(attention(x), x) for attention in net.decoder.pyramid.visual_attention)


def logits_follow(net: Any, module: nn.Module) -> bool:
    """Whether they change with what a module makes."""
    with torch.no_grad():
        before = net(IMAGE)
        handle = module.register_forward_hook(lambda _, __, made: made + torch.randn_like(made))
        after = net(IMAGE)
        handle.remove()
    return not torch.equal(before, after)


def levels_hear_of_their_fusion(net: Any) -> bool:
    return logits_follow(net, net.decoder.fuse0)


def what_segments_is_not_what_the_second_path_is_supervised_on(net: Any) -> bool:
    return not logits_follow(net, net.decoder.fuse1)


def logits_follow_parameters(net: Any, *ends: str) -> bool:
    """Whether they change with the parameters whose names end so, all else equal."""
    with torch.no_grad():
        before = net(IMAGE)
        for name, parameter in net.named_parameters():
            if name.endswith(ends):
                parameter.add_(3 * torch.randn_like(parameter))
        after = net(IMAGE)
    return not torch.allclose(before, after, atol=1e-3)


def gates_tell_on_the_logits(net: Any) -> bool:
    # through the bias of the convolution behind the factor, which training moves away from nnU-Net's zero
    logits_follow_parameters(net, "refine.bias")
    return logits_follow_parameters(net, "scores.3.bias")


def the_decoder_reads_where_offsets_say(net: Any) -> bool:
    return logits_follow_parameters(net, "predict.bias")


def seen_by_tasks(net: Any) -> list[list[Tensor]]:
    """What every pixel-level task sees of the encoder's stages."""
    encoded = net._encode(IMAGE, keep_features=False).stages
    shared = net.streams(encoded)
    return [net.streams.of_task(index, shared) for index in range(3)]


def tasks_see_different_features(net: Any) -> bool:
    with torch.no_grad():
        first, *others = seen_by_tasks(net)
    return all(not torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def weights_moved_by(net: Any, regions: list[int]) -> set[str]:
    net.zero_grad()
    net(IMAGE)[:, regions].square().sum().backward()
    return {name for name, value in net.named_parameters() if value.grad is not None and bool(value.grad.any())}


def every_task_teaches_the_decoder(net: Any) -> bool:
    return all("decoder.stages.0.convs.0.conv.weight" in weights_moved_by(net, regions) for regions in ([0, 1], [3, 4]))


def a_task_sees_what_another_masked(net: Any) -> bool:
    """At full resolution, before any bottleneck."""
    with torch.no_grad():
        before = seen_by_tasks(net)[0][0]
        for name, parameter in net.named_parameters():
            if name.startswith("streams.masks.2.0."):
                parameter.add_(torch.randn_like(parameter))
        after = seen_by_tasks(net)[0][0]
    return not torch.allclose(before, after, atol=1e-3)


def tasks_meet_at_the_bottleneck(net: Any) -> bool:
    deepest = [torch.randn(2, 16, 4, 4) for _ in range(3)]
    other = [deepest[0], deepest[1], torch.randn(2, 16, 4, 4)]
    with torch.no_grad():
        return not torch.allclose(net.stream_bottleneck(deepest)[0], net.stream_bottleneck(other)[0], atol=1e-4)


def a_tumour_is_scored_by_what_its_organ_scored(net: Any) -> bool:
    """In what the loss reads; the organ's score teaches, the tumour's does not teach it."""
    layer, known = net.decoder.seg_layers[-1], {"task": torch.zeros(2, dtype=torch.long), "full_output": True}
    organ = layer.tasks[0].score.bias if hasattr(layer, "tasks") else layer.bias
    net.zero_grad()
    before = net(IMAGE, **known).segmentation
    before[:, 1].square().sum().backward()
    silent = organ.grad is None or not organ.grad[0].any()
    with torch.no_grad():
        organ[0] += 3
        after = net(IMAGE, **known).segmentation
    return silent and not torch.allclose(before[:, 1], after[:, 1], atol=1e-3)


def a_tumour_is_never_outside_its_organ(net: Any) -> bool:
    with torch.no_grad():
        logits = net(IMAGE)
    return bool((logits[:, 1] <= logits[:, 0]).all()) and bool((logits[:, 4] <= logits[:, 3]).all())


@dataclass(frozen=True)
class Mechanism:
    """A property, and what is put in the mechanism's place."""

    trainer: str
    holds: Callable[[Any], bool]
    off: tuple[str, ...] = ()
    head: str | None = None


MECHANISMS = [
    Mechanism("TGNet", encoder_knows_the_task, off=("encoder_conditioning",)),
    Mechanism("TGNet", skips_know_the_task, off=("task_attention",)),
    *(
        Mechanism(f"TGNet{name}", skips_know_the_task, off=("task_attention",))
        for name in ("A", "Spatial", "Serial", "Parallel")
    ),
    Mechanism("DoDNet", only_the_head_knows_the_task, head=SLOTS["head"]),
    Mechanism("CondInput", encoder_knows_the_task, off=("input_conditioning",)),
    Mechanism("CondDec", only_the_decoder_knows_the_task, off=("decoder_conditioning",)),
    Mechanism("MultiHead", only_the_decoder_knows_the_task, off=("decoders",)),
    Mechanism("UniSeg", the_bottleneck_comes_with_a_prompt, off=("bottleneck_conditioning",)),
    Mechanism("CLIPDriven", a_region_follows_its_embedding, head=REGIONS["head"]),
    Mechanism("OMNet", a_tumour_is_scored_by_what_its_organ_scored, head=REGIONS["head"]),
    Mechanism("OMNet", a_tumour_is_never_outside_its_organ, head=REGIONS["head"]),
    Mechanism("ACSNet", gates_tell_on_the_logits, off=("encoder_attention",)),
    Mechanism("ACSNet", the_decoder_reads_where_offsets_say, off=("decoder_attention",)),
    Mechanism("MTAN", tasks_see_different_features, off=("streams",)),
    Mechanism("MTAN", every_task_teaches_the_decoder, off=("stream_decoders",)),
    Mechanism("CTAN", a_task_sees_what_another_masked, off=("streams",)),
    Mechanism("CTAN", tasks_meet_at_the_bottleneck, off=("stream_bottleneck",)),
    Mechanism("MAMTLN", levels_are_gated_on_their_way_down, off=("visual_attention",)),
    Mechanism("MAMTLN", levels_hear_of_their_fusion, off=("adaptive_attention",)),
    Mechanism("MAMTLN", what_segments_is_not_what_the_second_path_is_supervised_on, off=("segmentation_aware",)),
]


@pytest.mark.parametrize("kind", ["Plain", "Residual"])
@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda each: f"{each.trainer}-{each.holds.__name__}")
def test_a_method_is_what_its_paper_says_and_without_its_mechanism_it_is_not(mechanism: Mechanism, kind: str) -> None:
    assert mechanism.holds(network(mechanism.trainer, kind))
    assert not mechanism.holds(network(mechanism.trainer, kind, mechanism.off, mechanism.head))


@pytest.mark.parametrize("kind", ["Plain", "Residual"])
@pytest.mark.parametrize("heads", ["se", "plain"])
def test_nested_tasks_are_guided_by_cross_task_attention_alone_but_always_kept_inside(kind: str, heads: str) -> None:
    assert not a_tumour_is_scored_by_what_its_organ_scored(network("OMNet", kind, nested_head=heads))
    assert a_tumour_is_never_outside_its_organ(network("OMNet", kind, nested_head=heads))


@pytest.mark.parametrize("kind", ["Plain", "Residual"])
def test_in_hard_parameter_sharing_tasks_share_the_encoder_and_nothing_else(kind: str) -> None:
    def shared(net: Any) -> set[str]:
        """The parts of a network that both the first and the last task teach."""
        both = weights_moved_by(net, [0, 1]) & weights_moved_by(net, [3, 4])
        return {name.partition(".")[0] for name in both}

    assert shared(network("HPS", kind)) == {"encoder"}
    assert shared(network("MTLNoAttention", kind)) == {"encoder", "decoder"}


@pytest.mark.parametrize("kind", ["Plain", "Residual"])
def test_parts_of_the_joint_methods_are_exchanged_by_settings(kind: str) -> None:
    assert not a_task_sees_what_another_masked(network("CTAN", kind, cross_encoder=False))
    assert tasks_see_different_features(network("CTAN", kind, cross_encoder=False, cross_bottleneck=False))
    assert not tasks_meet_at_the_bottleneck(network("CTAN", kind, cross_bottleneck=False))
    assert tasks_see_different_features(network("MTAN", kind, mtan_form="resnet"))
    assert not every_task_teaches_the_decoder(network("MTAN", kind, mtan_form="resnet"))

    def size(name: str, **changed: Any) -> int:
        return sum(parameter.numel() for parameter in network(name, kind, **changed).streams.parameters())

    assert size("CTAN", pair_attention="shared") < size("CTAN")
    assert size("MTAN", attention_width="quarter") == size("CTAN", cross_encoder=False)
    net = network("HPS", kind, recompute="all")
    assert net.decoders.recompute.on
    assert not network("HPS", kind).decoders.recompute.on
    assert network("CTAN", kind).streams.recompute.on
    assert not network("CTAN", kind, recompute="none").streams.recompute.on


@pytest.mark.parametrize("kind", ["Plain", "Residual"])
def test_the_control_is_not_told_the_task(kind: str) -> None:
    net = network("CondNO", kind)
    assert of_tasks(net, net.decoder.seg_layers[-1]) == (False, False)
    logits = net(IMAGE)
    assert torch.equal(logits[:, 0], logits[:, 3])  # whatever organ it sees, for liver and kidney alike
    told = network("CondInput", kind)(IMAGE)
    assert not torch.equal(told[:, 0], told[:, 3])


@pytest.mark.parametrize("kind", ["Plain", "Residual"])
def test_multi_head_with_heads_alone_is_one_pass_in_which_a_region_owns_a_channel(kind: str) -> None:
    net = network("MultiHead", kind, multi_head="head")
    assert not net.conditioned
    assert not net.one_task_per_sample
    logits = net(IMAGE)
    assert not torch.equal(logits[:, 0], logits[:, 3])


def test_a_head_that_a_trainer_does_not_offer_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"head='regions' is not a head of nnUNetTrainerDoDNet, which offers own"):
        trainer("DoDNet").architecture(stock("Plain"), [16, 16], TASKS, Settings(head="regions"))


def sums_over_regions(mode: Any) -> bool:
    """What one region teaches does not depend on another that is annotated beside it."""
    layout, rng = Layout.from_tasks(TASKS), torch.Generator().manual_seed(0)
    loss = segmentation_loss(mode, layout, batch_dice=True, use_ignore_label=False)
    target = torch.rand(1, 5, 8, 8, generator=rng) > 0.5
    gradients = []
    for known in ([True, False], [True, True]):
        logits = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        loss(logits, target, torch.tensor([[*known, False, False, False]])).backward()
        assert logits.grad is not None
        gradients.append(logits.grad[:, 0])
    return torch.allclose(gradients[0], gradients[1])


def merges_what_nobody_told_apart(mode: Any) -> bool:
    """A voxel that is no liver moves the logits of everything else, in proportion to their probabilities."""
    loss = segmentation_loss(mode, Layout.from_tasks(TASKS), batch_dice=False, use_ignore_label=False, dice_weight=0.0)
    channels = 6 if mode == "marginal" else 5
    logits = torch.randn(1, channels, 1, 1, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss(
        logits, torch.zeros(1, 5, 1, 1, dtype=torch.bool), torch.tensor([[True, True, False, False, False]])
    ).backward()
    assert logits.grad is not None
    others = logits.grad.flatten()[-3:]
    return bool((others < 0).all())


def test_what_the_losses_of_multitalent_and_tal_are_about() -> None:
    assert trainer("MultiTalent").loss_mode == "summed"
    assert sums_over_regions("summed")
    assert not sums_over_regions("masked")
    assert trainer("TAL").loss_mode == "marginal"
    assert merges_what_nobody_told_apart("marginal")
    assert not merges_what_nobody_told_apart("masked")


def test_every_published_method_has_its_property_here() -> None:
    names = {path.stem.removeprefix("nnUNetTrainer") for path in Path(__file__).parents[2].glob("trainers/nnUNet*.py")}
    ours = {"MTLAttention", "MTLNoAttention", "STLCls", "StockSchedule"}
    assert names - ours == {each.trainer for each in MECHANISMS} | {"CondNO", "MultiTalent", "TAL", "HPS"}
