"""MA-MTLN's decoder and descriptor written out once more, from the equations, in functions of torch alone.

The reference names kernels, strides, groups and where a bias is itself; of our modules it takes weights, nothing else.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.insertion_points import PyramidParts
from nnunet_mtl.networks.mamtln.adaptive_attention import AdaptiveAttention
from nnunet_mtl.networks.mamtln.aware_branches import ClassificationAwareBranch, SegmentationAwareBranch
from nnunet_mtl.networks.mamtln.pyramid_blocks import Level, Shape
from nnunet_mtl.networks.mamtln.pyramid_decoder import PyramidDecoder
from nnunet_mtl.networks.mamtln.visual_attention import VisualAttention

WIDTH, CHANNELS, STRIDE = 16, (6, 8, 10, 10), (1, 2, 2)
SIZES = ((3, 16, 24), (3, 8, 12), (3, 4, 6), (3, 2, 3))
DILATIONS = ((1, 1, 1), (3, 3, 3), (5, 5, 5), (5, 7, 7))
SHAPE = Shape(nn.Conv3d, WIDTH, tuple(Level((3, 3, 3), STRIDE) for _ in SIZES))  # sizes not known: none is clipped
PARTS = PyramidParts(VisualAttention, AdaptiveAttention, SegmentationAwareBranch, ClassificationAwareBranch)


def up(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="trilinear", align_corners=False)


class Reference:
    """Reads weights by name.

    Args:
        weights: Of our decoder and of the branch that answers, the latter's names behind "answers.".
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.read: set[str] = set()

    def get(self, name: str) -> Tensor:
        self.read.add(name)
        return self.weights[name]

    def conv(self, name: str, x: Tensor, kernel: int, dilation: Any = 1, **options: Any) -> Tensor:
        weight = self.get(f"{name}.weight")
        assert weight.shape[2:] == (kernel,) * 3
        bias = self.get(f"{name}.bias") if options.pop("bias", True) else None
        apart = (dilation,) * 3 if isinstance(dilation, int) else dilation
        padding = tuple((kernel - 1) // 2 * each for each in apart)
        return functional.conv3d(x, weight, bias, padding=padding, dilation=dilation, **options)

    def prelu(self, name: str, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, self.get(f"{name}.weight") * x)

    def block(self, name: str, x: Tensor, kernel: int, per_group: int = 2, **options: Any) -> Tensor:
        x = self.conv(f"{name}.0", x, kernel, **options)
        x = functional.group_norm(x, x.shape[1] // per_group, self.get(f"{name}.1.weight"), self.get(f"{name}.1.bias"))
        return self.prelu(f"{name}.2", x)

    def strided(self, name: str, x: Tensor, kernel: int) -> Tensor:
        return self.block(name, x, kernel, per_group=4, bias=False, stride=STRIDE)

    def mixed(self, name: str, *features: Tensor) -> Tensor:
        weight = self.get(f"{name}.weight")
        mean = sum(share * x for share, x in zip(weight / (weight.sum() + 1e-4), features, strict=True))
        return mean * torch.sigmoid(mean)

    def visual(self, level: int, x: Tensor) -> Tensor:
        name, gated = f"pyramid.visual_attention.{level}", []
        for branch in range((4, 3, 2, 2)[level]):
            gate, n_convs = x, (1, 1, 2, 3)[branch]
            for index in range(n_convs):
                gate = self.conv(f"{name}.branches.{branch}.{index}", gate, 1 if branch == 0 else 3)
            gate = self.conv(f"{name}.branches.{branch}.{n_convs}", gate, 3, DILATIONS[branch])
            gated.append(torch.sigmoid(gate) * x)
        return self.prelu(f"{name}.activation", self.conv(f"{name}.mix", torch.cat(gated, 1), 1) + x)

    def pyramid(self, features: list[Tensor]) -> list[Tensor]:
        down = {3: self.visual(3, features[3])}
        for level in (2, 1, 0):
            below = up(down[level + 1], features[level])
            down[level] = self.visual(level, self.mixed(f"pyramid.down.{level}", features[level], below))
        made = [self.mixed("pyramid.up.0", features[0], down[0])]
        for level in (1, 2, 3):
            pooled = self.strided(f"pyramid.pools.{level - 1}", made[-1], 1)
            made.append(self.mixed(f"pyramid.up.{level}", features[level], down[level], pooled))
        return made

    def refined(self, name: str, x: Tensor) -> Tensor:
        return self.block(f"{name}.2", self.block(f"{name}.1", self.block(f"{name}.0", x, 1), 3), 3)

    def fused(self, name: str, levels: list[Tensor]) -> Tensor:
        return self.refined(f"{name}.blocks", torch.cat([levels[0], *(up(x, levels[0]) for x in levels[1:])], 1))

    def adaptive(self, level: int, feature: Tensor, fused: Tensor) -> Tensor:
        name = f"adaptive_attention.{level}"
        for _ in range(level):
            fused = self.strided(f"{name}.down.block", fused, 3)

        def attend(x: Tensor) -> Tensor:
            hidden = self.block(f"{name}.attend.1", self.block(f"{name}.attend.0", x, 1), 3)
            return torch.sigmoid(self.conv(f"{name}.attend.2", hidden, 3))

        reduced = [
            self.block(f"{name}.{part}", x, 1, per_group=1, bias=False)
            for part, x in (("reduce_feature", feature), ("reduce_fused", fused))
        ]
        share = self.conv(f"{name}.compare", torch.cat(reduced, 1), 1).softmax(1)
        a = share[:, :1] * attend(feature) * feature + share[:, 1:] * attend(fused) * fused
        return self.refined(f"{name}.refine", torch.cat((feature, a * fused), 1))

    def aware(self, name: str, feature: Tensor, context: Tensor) -> Tensor:
        hidden = self.block(f"{name}.attend.0", torch.cat((context, feature), 1), 1)
        return self.block(f"{name}.refine", torch.sigmoid(self.conv(f"{name}.attend.1", hidden, 1)) * feature, 3)


def test_decoder_and_descriptor_are_the_published_ones() -> None:
    torch.manual_seed(0)
    decoder = PyramidDecoder(SHAPE, CHANNELS, 2, PARTS, "product").double()
    answers = ClassificationAwareBranch(SHAPE).double()
    with torch.no_grad():
        for value in (*decoder.parameters(), *answers.parameters()):
            value.add_(0.1 * torch.randn_like(value))
    stages = [torch.randn(2, count, *size).double() for count, size in zip(CHANNELS, SIZES, strict=True)]
    of_answers = {f"answers.{name}": value for name, value in answers.state_dict().items()}
    weights = {**decoder.state_dict(), **of_answers}

    ref = Reference(weights)
    levels = ref.pyramid([ref.block(f"reduce.{level}", x, 1) for level, x in enumerate(stages)])
    fuse0 = ref.fused("fuse0", levels)
    s1, s2, s3, s4 = shared = [ref.adaptive(level, x, fuse0) for level, x in enumerate(levels)]
    fuse1 = ref.fused("fuse1", shared)
    y2 = ref.aware("segmentation_aware.attention.1", s2, up(torch.cat((up(s4, s3), s3), 1), s2))
    y1 = ref.aware("segmentation_aware.attention.0", s1, up(y2, s1))
    c2 = ref.aware("answers.attention.0", s2, ref.strided("answers.pools.0", s1, 3))
    c3 = ref.aware("answers.attention.1", s3, ref.strided("answers.pools.1", c2, 3))

    with torch.no_grad():
        made = decoder(stages, supervised=True, attach=False)
        described = answers(made.levels)
    for ours, expected in zip((*made.levels, *made.stages), (*shared, fuse0, fuse1, y1), strict=True):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(described, torch.cat((c3.mean((2, 3, 4)), s4.mean((2, 3, 4))), 1))
    assert ref.read == {name for name in weights if not name.startswith("seg_layers.")}


@pytest.mark.parametrize(("part", "groups"), [("pyramid.pools.0", 16), ("reduce.0", 32), ("fuse0.blocks.2", 32)])
def test_groups_at_the_published_width(part: str, groups: int) -> None:
    with torch.device("meta"):
        decoder = PyramidDecoder(SHAPE._replace(width=64), CHANNELS, 2, PARTS, "product")
    assert decoder.get_submodule(f"{part}.1").num_groups == groups
