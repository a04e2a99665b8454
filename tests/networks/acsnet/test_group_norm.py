import pytest
import torch
from torch import Tensor

from nnunet_mtl.networks.acsnet.group_norm import group_norm


@pytest.mark.parametrize(
    ("channels", "asked", "groups"),
    [(32, 8, 8), (320, 80, 80), (320, 20, 20), (36, 9, 9), (6, 1, 1), (4, 0, 1), (30, 7, 6), (30, 4, 3), (7, 1, 1)],
)
def test_the_nearest_divisor_is_taken_and_of_two_the_smaller(channels: int, asked: int, groups: int) -> None:
    assert group_norm(channels, asked).num_groups == groups


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 8, 12, 33, 320])
def test_no_group_is_a_single_channel(channels: int) -> None:
    for asked in range(channels + 2):
        norm = group_norm(channels, asked)
        assert channels % norm.num_groups == 0
        assert channels // norm.num_groups >= 2


def test_a_single_channel_is_a_group() -> None:
    assert group_norm(1, 1).num_groups == 1


def varies(norm: torch.nn.Module) -> bool:
    """Whether what is pooled behind it differs between two images."""
    images = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
    images[1, 0] += 3
    pooled: Tensor = norm(images).mean((2, 3))
    return bool((pooled[0] - pooled[1]).abs().max() > 0.1)


def test_what_is_pooled_behind_it_says_something_about_the_image_unlike_behind_instance_norm() -> None:
    assert varies(group_norm(8, 8))
    assert not varies(torch.nn.InstanceNorm2d(8, affine=True))
