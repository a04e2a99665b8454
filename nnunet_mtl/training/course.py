"""The course of a training: which patches teach which task in which epoch."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.evidence_crops import EvidenceCropLoader


class Course:
    """The default course: every patch teaches all its annotated regions, from the first epoch to the last.

    A method that teaches otherwise has a subclass; its trainer names that class as `course_class`.

    Args:
        cases: The task set with its case table, as `dataset.json` has it.
        settings: Settings of the run.

    Attributes:
        cases: The task set with its case table whose tasks are trained. A subclass may change the tasks.
    """

    def __init__(self, cases: TaskSet, settings: Settings) -> None:
        self.cases = cases

    def describe(self) -> Iterable[str]:
        """Return lines for the training log that say which task is taught when."""
        return ()

    # ---- data

    def patch_loader(self, *args: Any, training: bool, **kwargs: Any) -> Any:
        """Return the loader that draws patches.

        Args:
            *args: Arguments of `EvidenceCropLoader`.
            training: Whether the loader serves training or validation patches.
            **kwargs: Keyword arguments of `EvidenceCropLoader`.
        """
        return EvidenceCropLoader(*args, **kwargs)

    # ---- an epoch

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, counted from 0; also called before the loaders are built."""

    def end_epoch(self, epoch: int) -> tuple[dict[str, float], str]:
        """Return measurements of an epoch, counted from 0, over all ranks of a distributed training.

        Returns:
            Values for nnU-Net's log by `logged_keys`, and a line for the training log (empty for no line).
        """
        return {}, ""

    @property
    def logged_keys(self) -> list[str]:
        """Keys of the values that `end_epoch` returns."""
        return []

    def is_complete(self, epoch: int) -> bool:
        """Return whether every task has its full weight in this epoch; only such epochs give the best checkpoint."""
        return True

    # ---- a step

    def teaching(self, annotated: Tensor, target: Tensor, batch: Mapping[str, Any], epoch: int) -> Tensor:
        """Return which regions the loss may read of each sample, (B, R) bool on the CPU.

        Args:
            annotated: Regions that are annotated and, in a conditioned network, of the drawn task, (B, R) bool.
            target: Region targets at full resolution, (B, R or more, *spatial), on the CPU.
            batch: The loader's batch.
            epoch: Counted from 0.
        """
        return annotated

    def term_weights(self, epoch: int) -> Mapping[str, float]:
        """Return the factors of the terms of the loss in an epoch, by name; a term without a factor has 1."""
        return {}

    def resting_parameters(self, network: Any, epoch: int) -> Iterable[nn.Parameter]:
        """Return the parameters that no step of this epoch may change, not even by weight decay or momentum."""
        return ()
