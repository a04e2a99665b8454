"""Which patches teach which task, and when."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.evidence_crops import EvidenceCropLoader


class Course:
    """Every patch teaches all that is annotated in it, from the first epoch to the last.

    A method that teaches otherwise has a subclass; its trainer names that class as `course`.

    Args:
        cases: The task set with its case table, as `dataset.json` has it.
        settings: Settings of the run.

    Attributes:
        cases: The task set with its case table whose tasks are trained: the loss has a term for each of them, where
            tasks have terms.
    """

    def __init__(self, cases: TaskSet, settings: Settings) -> None:
        self.cases = cases

    def describe(self) -> Iterable[str]:
        """Return lines for the training log about what is taught when."""
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
        """Prepare for an epoch, counted from 0; called before data are loaded too."""

    def end_epoch(self, epoch: int) -> tuple[dict[str, float], str]:
        """Return what an epoch, counted from 0, has taught on all ranks of a distributed training.

        Returns:
            Values for nnU-Net's log by `logged_keys`, and a line for the training log, empty where there is none.
        """
        return {}, ""

    @property
    def logged_keys(self) -> list[str]:
        """Keys of the values that `end_epoch` returns."""
        return []

    def is_complete(self, epoch: int) -> bool:
        """Return whether every task has its full weight in this epoch: a best checkpoint is not chosen before."""
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
        """Return by what factor terms of the loss are multiplied in an epoch, by name; 1 for terms not named."""
        return {}

    def resting_parameters(self, network: Any, epoch: int) -> Iterable[nn.Parameter]:
        """Return the parameters that no step of this epoch may change, not by weight decay or momentum either."""
        return ()
