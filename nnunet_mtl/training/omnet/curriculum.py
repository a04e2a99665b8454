"""The curriculum of nested tasks: outermost tasks are learnt from the start, inner tasks begin later.

The order from coarse to fine is OM-Net's (Zhou et al., IEEE TIP 2020); the epochs in which tasks begin are our choice.
"""

from collections.abc import Sequence


class Curriculum:
    """The weight of every task's loss in every epoch.

    Tasks one level inside begin at `start`, the innermost at `end`, and tasks between at equal distances. The weight of
    a task rises to 1 over `ramp` epochs from its beginning; a task that begins with the run weighs 1 at once.

    Args:
        levels: Number of tasks around every task; 0 for an outermost task.
        epochs: Number of epochs of the run.
        start: Share of the epochs, 0 to 1.
        end: Share of the epochs, `start` to 1.
        ramp: Number of epochs, 0 or more.
    """

    def __init__(self, levels: Sequence[int], epochs: int, *, start: float, end: float, ramp: int) -> None:
        deepest = max(levels)
        steps = max(1, deepest - 1)
        shares = [start + (level - 1) / steps * (end - start) if level else 0.0 for level in levels]
        # rounding must not delay a task until after the last epoch; only a share of 1 does
        self.begins = tuple(min(round(share * epochs), epochs - (share < 1)) for share in shares)
        # a shorter ramp near the end of the run, so that every task has full weight in the last epoch
        self._rises = tuple(max(1, min(ramp, epochs - begins)) if begins else 1 for begins in self.begins)

    def weights(self, epoch: int) -> tuple[float, ...]:
        """Return every task's weight in an epoch, counted from 0: 0 before it begins, at most 1."""
        past = [epoch + 1 - begins for begins in self.begins]
        return tuple(min(1.0, max(0, gone) / rises) for gone, rises in zip(past, self._rises, strict=True))


class AllAtOnce(Curriculum):
    """No curriculum: every task weighs 1 from the first epoch.

    Args:
        n_tasks: Number of tasks.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__([0] * n_tasks, 1, start=0.0, end=0.0, ramp=0)
