"""The bottleneck of a CTAN-style network: every task attends to the deepest features of the other tasks.

Let X_i be the deepest feature of the stream of task i, its voxels in a row, P the positions of the voxels, and e_k a
learned code of task k.

    Z_i = X_i + Attention_i(Q = LN(X_i + P), K = V = rows for all k != i of LN(X_k + P) + e_k)
    Y_i = Z_i + W2 GELU(W1 LN(Z_i)),      W1: C -> 2C,  W2: 2C -> C

A single task attends to itself. The number of attention heads is the largest divisor of C that is at most 8 and leaves
32 channels to a head. If there are more than 4096 voxels, X is averaged in windows first; Y_i - X_i is then computed
from the averages, interpolated and added to the voxels.

After Kim, Purdie, McIntosh, Cross-task attention network, 2023 (arXiv:2309.03837), of which we know the abstract alone;
every equation here is our choice. Multi-head attention and positions: Vaswani et al., Attention is all you need, 2017.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_mtl.networks.streams.task_streams import NoStreamBottleneck

_MOST_TOKENS = 4096
_MOST_HEADS, _LEAST_CHANNELS = 8, 32
_LONGEST_WAVE = 10_000.0  # voxels, of Vaswani et al.


class CrossTaskBottleneck(NoStreamBottleneck):
    """Attention of every task to the deepest features of the other tasks' streams.

    Args:
        channels: C, channels of the deepest stage.
        tasks: Number of tasks with a stream.
        most_tokens: Number of voxels above which the voxels are averaged in windows.
        **options: Not used.
    """

    exchanges: ClassVar[bool] = True

    def __init__(self, channels: int, tasks: int, *, most_tokens: int = _MOST_TOKENS, **options: Any) -> None:
        super().__init__(channels, tasks)
        self.most_tokens = most_tokens
        self.blocks = nn.ModuleList(CrossTaskBlock(channels) for _ in range(tasks))
        self.code = nn.Parameter(torch.randn(tasks, channels) * 0.02)

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """Return new deepest features of all streams, (B, C, *spatial), from the present ones of the same shape."""
        grid = token_grid(streams[0].shape[2:], self.most_tokens)
        tokens = [_pooled(x, grid).flatten(2).transpose(1, 2) for x in streams]
        positions = sine_positions(grid, tokens[0].shape[2], tokens[0].device)
        result = []
        for index, x in enumerate(streams):
            others = [other for other in range(len(streams)) if other != index] or [index]
            other_tokens, codes = [tokens[other] for other in others], [self.code[other] for other in others]
            added = self.blocks[index](tokens[index], other_tokens, codes, positions)
            result.append(x + _resized(added.transpose(1, 2).unflatten(2, grid).to(x.dtype), x.shape[2:]))
        return result


class CrossTaskBlock(nn.Module):
    """Computes what one task adds to its tokens.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.norm = nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, num_heads(channels), batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, tokens: Tensor, others: Sequence[Tensor], codes: Sequence[Tensor], positions: Tensor) -> Tensor:
        """Return what is added to the tokens, (B, T, C).

        Args:
            tokens: Tokens of the task, (B, T, C).
            others: Tokens of every other task, (B, T, C).
            codes: Learned code of every other task, (C,).
            positions: Positions of the tokens, (T, C).
        """
        query, keys = self.asked(tokens, others, codes, positions)
        answer: Tensor = self.attention(query, keys, keys, need_weights=False)[0]
        added: Tensor = self.perceptron(_in_single(self.norm, tokens + answer))
        return answer + added

    def asked(
        self, tokens: Tensor, others: Sequence[Tensor], codes: Sequence[Tensor], positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return queries (B, T, C), and keys (B, tasks x T, C), which are the values too; arguments as in `forward`."""
        keys = [_in_single(self.norm_key, other + positions) + code for other, code in zip(others, codes, strict=True)]
        return _in_single(self.norm_query, tokens + positions), torch.cat(keys, dim=1)


def num_heads(channels: int) -> int:
    """Return the largest divisor of `channels` that is at most 8 and leaves 32 channels to a head; else 1."""
    heads = range(1, min(_MOST_HEADS, channels // _LEAST_CHANNELS) + 1)
    return max((number for number in heads if channels % number == 0), default=1)


def token_grid(size: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the size of a grid of tokens: that of the voxels, its longest axis halved until there are few enough."""
    grid = [int(edge) for edge in size]
    while math.prod(grid) > max(most, 1):
        longest = grid.index(max(grid))
        grid[longest] = -(-grid[longest] // 2)
    return tuple(grid)


def sine_positions(grid: Sequence[int], channels: int, device: torch.device) -> Tensor:
    """Return the positions of a grid's voxels, (voxels, channels): a sine and a cosine of each axis in turn.

    Every axis has the same number of waves, with lengths in geometric progression; channels that are left are zero.
    """
    waves = channels // (2 * len(grid))
    exponents = torch.arange(waves, device=device) / max(waves, 1)
    lengths = _LONGEST_WAVE**exponents
    axes = torch.meshgrid(*(torch.arange(edge, device=device) for edge in grid), indexing="ij")
    angles = [axis.flatten()[:, None] / lengths for axis in axes]
    parts = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return functional.pad(torch.cat(parts, dim=1), (0, channels - 2 * waves * len(grid)))


def _pooled(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[2:]) == grid:
        return x
    pool: Any = functional.adaptive_avg_pool3d if len(grid) == 3 else functional.adaptive_avg_pool2d
    pooled: Tensor = pool(x, grid)
    return pooled


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return functional.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def _in_single(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise in at least float32, also under autocast."""
    result: Tensor = norm(x.to(torch.promote_types(x.dtype, torch.float32)))
    return result
