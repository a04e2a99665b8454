import inspect
from dataclasses import fields
from typing import Any

import pytest
from torch import nn

from nnunet_mtl.networks.architecture import GUIDED, PYRAMID, STREAMED
from nnunet_mtl.networks.attention import TaskGuidedAttention
from nnunet_mtl.networks.decoders import TaskDecoders
from nnunet_mtl.networks.dodnet.residual_unet import PublishedUNet
from nnunet_mtl.networks.insertion_points import GuidedParts, PyramidParts, StreamedParts, table_of
from nnunet_mtl.networks.mamtln.pyramid_unet import PyramidPlainConvUNet, PyramidResidualEncoderUNet
from nnunet_mtl.networks.streams.ctan_bottleneck import CrossTaskBottleneck
from nnunet_mtl.networks.streams.ctan_encoder import CrossAttentionStreams
from nnunet_mtl.networks.streams.streamed_unet import StreamedPlainConvUNet, StreamedResidualEncoderUNet
from nnunet_mtl.networks.task_code import TaskCode
from nnunet_mtl.networks.tgnet.residual_gates import TaskGuidedResidual
from nnunet_mtl.networks.unet import TaskGuidedPlainConvUNet, TaskGuidedResidualEncoderUNet
from nnunet_mtl.networks.uniseg.prompt import UniversalPrompt

# Of every class of parts a method that stands at its points, where this package has one that adds no arguments.
METHODS: dict[type, dict[str, type]] = {
    GuidedParts: {
        "input_conditioning": TaskCode,
        "encoder_conditioning": TaskGuidedResidual,
        "bottleneck_conditioning": UniversalPrompt,
        "task_attention": TaskGuidedAttention,
        "decoder_conditioning": TaskCode,
        "decoders": TaskDecoders,
    },
    StreamedParts: {"streams": CrossAttentionStreams, "stream_bottleneck": CrossTaskBottleneck},
    PyramidParts: {},
}
POINTS = [(parts, point) for parts in METHODS for point in table_of(parts)]


def names(function: Any) -> list[str]:
    """The names of a function's arguments without `self`; `**options` as the table writes it."""
    parameters = list(inspect.signature(function).parameters.values())
    return [("**" if p.kind is p.VAR_KEYWORD else "") + p.name for p in parameters if p.name != "self"]


def call_of(part: Any) -> Any:
    return part.run if hasattr(part, "run") else part.forward


@pytest.mark.parametrize(("parts", "point"), POINTS, ids=[point for _, point in POINTS])
def test_a_row_of_the_table_says_how_a_part_is_built_and_called(parts: type, point: str) -> None:
    row, off = table_of(parts)[point], getattr(parts, point)
    method = METHODS[parts].get(point)
    assert row.built_with.split(", ") == names(off.__init__)
    if off.forward is not nn.Module.forward or hasattr(off, "run"):
        assert row.called_with.split(", ") == names(call_of(off))
    else:
        assert method is not None  # what is off is never called: the method alone shows how
    if method is not None and not hasattr(off, "of_task"):
        assert row.called_with.split(", ") == [name for name in names(call_of(method)) if name != "task"]
        assert ("task" in names(call_of(method))) == getattr(method, "conditioned", False)


@pytest.mark.parametrize(
    ("family", "networks"),
    [
        (GUIDED, [TaskGuidedPlainConvUNet, TaskGuidedResidualEncoderUNet, PublishedUNet]),
        (STREAMED, [StreamedPlainConvUNet, StreamedResidualEncoderUNet]),
        (PYRAMID, [PyramidPlainConvUNet, PyramidResidualEncoderUNet]),
    ],
)
def test_plans_and_networks_have_the_points_of_the_table_and_its_defaults(family: Any, networks: list[Any]) -> None:
    for network in networks:
        assert network.parts_class is family.parts_class
    defaults = {one.name: one.default for one in fields(family.parts_class)}
    assert list(family.points) == list(table_of(family.parts_class)) == list(defaults)
    for point, path in family.points.items():
        module, _, name = path.rpartition(".")
        assert (module, name) == (defaults[point].__module__, defaults[point].__name__)


def test_a_point_has_one_name_in_all_networks_and_another_points_name_in_none() -> None:
    every = [point for _, point in POINTS]
    assert len(set(every)) == len(every)
