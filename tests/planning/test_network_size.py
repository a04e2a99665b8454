import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.planning.network_size import NetworkSize

EXPECTED_MESSAGE = re.compile(
    r"must be divisible by [\d ]+; the nearest multiple is ([\d ]+)$|pooled to \d of the \d stages"
)
EDGES = st.integers(4, 80)
SPACINGS = st.sampled_from([(1.0, 1.0, 1.0), (5.0, 1.0, 1.25), (3.0, 0.8, 0.8), (1.0, 2.5, 1.0)])


def configuration(spacing=(1.0, 1.0, 1.0), patch_size=(64, 64, 64), depth="n_conv_per_stage", depths=(2, 2, 2, 2, 2)):
    n_stages = len(depths)
    arch_kwargs = {
        "n_stages": n_stages,
        "features_per_stage": [32, 64, 128, 256, 320][:n_stages],
        "kernel_sizes": [[3, 3, 3]] * n_stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n_stages - 1),
        depth: list(depths),
        "n_conv_per_stage_decoder": [2] * (n_stages - 1),
        "conv_bias": True,
    }
    architecture = {"network_class_name": "some.Network", "arch_kwargs": arch_kwargs, "_kw_requires_import": []}
    return {"patch_size": list(patch_size), "spacing": list(spacing), "batch_size": 2, "architecture": architecture}


def kwargs_of(size: NetworkSize, planned) -> dict:
    return size.changes(planned, "3d_fullres")["architecture"]["arch_kwargs"]


def attempt(size: NetworkSize, planned):
    try:
        return kwargs_of(size, planned), ""
    except UserError as error:
        return None, str(error)


def test_batch_size_alone_leaves_the_network():
    assert NetworkSize(batch_size=5).changes(configuration(), "3d_fullres") == {"batch_size": 5}
    assert NetworkSize().changes(configuration(), "3d_fullres") == {}
    assert NetworkSize().is_empty
    assert not NetworkSize(batch_size=5).is_empty


def test_planned_configuration_is_not_written_to():
    planned = configuration()
    NetworkSize(patch_size=(32, 32, 32), features_per_stage=(4, 8)).changes(planned, "3d_fullres")
    assert planned == configuration()


def test_patch_decides_the_stages_where_no_features_are_given():
    kwargs = kwargs_of(NetworkSize(patch_size=(24, 32, 32)), configuration())
    assert kwargs["features_per_stage"] == [32, 64, 128, 256]
    assert kwargs["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    assert kwargs["kernel_sizes"] == [[3, 3, 3]] * 4
    assert kwargs["n_stages"] == 4
    assert kwargs["n_conv_per_stage"] == [2] * 4
    assert kwargs["n_conv_per_stage_decoder"] == [2] * 3


def test_features_cut_the_stages_and_the_bottleneck_sees_every_axis():
    kwargs = kwargs_of(NetworkSize(features_per_stage=(8, 8, 8)), configuration(spacing=(9.0, 1.0, 1.0)))
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [1, 2, 2]]
    assert kwargs["kernel_sizes"] == [[1, 3, 3], [1, 3, 3], [3, 3, 3]]


@pytest.mark.parametrize(
    ("depths", "n_stages", "expected"),
    [((1, 3, 4, 6, 6), 3, [1, 3, 4]), ((1, 3, 4), 5, [1, 3, 4, 4, 4]), ((2, 2), 4, [2, 2, 2, 2])],
)
def test_depths_are_cut_or_continued(depths, n_stages, expected):
    planned = configuration(depth="n_blocks_per_stage", depths=depths)
    kwargs = kwargs_of(NetworkSize(features_per_stage=(8,) * n_stages), planned)
    assert kwargs["n_blocks_per_stage"] == expected
    assert "n_conv_per_stage" not in kwargs
    assert len(kwargs["n_conv_per_stage_decoder"]) == n_stages - 1


def test_a_single_depth_for_all_stages_stays_one():
    planned = configuration()
    planned["architecture"]["arch_kwargs"]["n_conv_per_stage"] = 2
    assert kwargs_of(NetworkSize(features_per_stage=(8, 8)), planned)["n_conv_per_stage"] == 2


@given(SPACINGS, st.tuples(EDGES, EDGES, EDGES), st.integers(2, 6))
def test_any_patch_is_accepted_or_refused_with_one_that_is(spacing, patch_size, n_stages):
    planned = configuration(spacing=spacing)
    size = NetworkSize(patch_size=patch_size, features_per_stage=(8,) * n_stages)
    kwargs, refusal = attempt(size, planned)
    if kwargs is None:
        message = EXPECTED_MESSAGE.search(refusal)
        assert message, refusal
        if message[1]:
            nearest = tuple(int(edge) for edge in message[1].split())
            assert nearest != patch_size
            assert kwargs_of(NetworkSize(patch_size=nearest, features_per_stage=(8,) * n_stages), planned)
        return
    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing, patch_size, 4, 999999)
    assert kwargs["strides"] == [list(stride) for stride in strides[:n_stages]]
    assert kwargs["kernel_sizes"][:-1] == [list(kernel) for kernel in kernels[: n_stages - 1]]
    for axis in range(3):
        edge = patch_size[axis]
        for stride in kwargs["strides"]:
            assert edge % stride[axis] == 0
            edge //= stride[axis]


def test_a_multiple_that_would_be_pooled_otherwise_is_not_offered():
    # 14 230 is as near as 16 230, but its long axis would be pooled five times.
    planned = configuration(spacing=(0.7, 5.0), patch_size=(16, 16))
    with pytest.raises(UserError, match=r"nearest multiple is 16 230$"):
        NetworkSize(patch_size=(15, 230)).changes(planned, "2d")
    assert NetworkSize(patch_size=(16, 230)).changes(planned, "2d")["patch_size"] == [16, 230]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (NetworkSize(patch_size=(32, 32)), "patch_size=32 32 must have 3 numbers"),
        (NetworkSize(patch_size=(30, 32, 32)), "divisible by 8 8 8; the nearest multiple is 32 32 32"),
        (NetworkSize(patch_size=(16, 16, 16), features_per_stage=(8,) * 4), "can be pooled to 3 of the 4 stages"),
        (NetworkSize(patch_size=(4, 4, 4)), "can be pooled to 1 of the 2 stages"),
    ],
)
def test_refusals(size, message):
    with pytest.raises(UserError, match=message):
        size.changes(configuration(), "3d_fullres")


@pytest.mark.parametrize(
    "values",
    [{"patch_size": (32, 0, 32)}, {"batch_size": 0}, {"batch_size": True}, {"features_per_stage": (8, 1.5)}],
)
def test_numbers_are_whole_and_positive(values):
    with pytest.raises(UserError, match="whole numbers of at least 1"):
        NetworkSize(**values)


def test_a_network_has_two_stages():
    with pytest.raises(UserError, match="at least 2 numbers"):
        NetworkSize(features_per_stage=(8,))
