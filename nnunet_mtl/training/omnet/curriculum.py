"""When each nested task begins to be learnt: from coarse to fine, the outermost from the start.

That OM-Net is trained so is its paper's (Zhou et al., IEEE TIP 2020); when a task begins is our choice.
"""

from collections.abc import Sequence


class Curriculum:
    """The weight of every task's loss in every epoch.

    Tasks one level inside begin at `start`, the innermost at `end`, those between at equal distances. A task that
    begins rises to its full weight over `ramp` epochs; one that begins with the run has it at once.

    Args:
        levels: How many tasks each task lies in; 0 for the outermost.
        epochs: Number of epochs of the run.
        start: Share of the epochs, 0 to 1.
        end: Share of the epochs, not before `start`.
        ramp: Epochs, 0 or more.
    """

    def __init__(self, levels: Sequence[int], epochs: int, *, start: float, end: float, ramp: int) -> None:
        deepest = max(levels)
        steps = max(1, deepest - 1)
        shares = [start + (level - 1) / steps * (end - start) if level else 0.0 for level in levels]
        # rounding puts nothing off until the run is over: only a share of 1 does
        self.begins = tuple(min(round(share * epochs), epochs - (share < 1)) for share in shares)
        # a short run is at full weight in its last epoch
        self._rises = tuple(max(1, min(ramp, epochs - begins)) if begins else 1 for begins in self.begins)

    def weights(self, epoch: int) -> tuple[float, ...]:
        """Return every task's weight in an epoch, counted from 0: 0 before it begins, at most 1."""
        past = [epoch + 1 - begins for begins in self.begins]
        return tuple(min(1.0, max(0, gone) / rises) for gone, rises in zip(past, self._rises, strict=True))


class AllAtOnce(Curriculum):
    """No curriculum: every task weighs 1 from the first epoch.

    Args:
        n_tasks: How many there are.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__([0] * n_tasks, 1, start=0.0, end=0.0, ramp=0)
