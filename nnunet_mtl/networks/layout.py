"""Which regions a network predicts: the tasks they belong to, the slots they share, the label values they hold."""

from typing import NamedTuple

from nnunet_mtl.tasks import TaskSet


class Layout(NamedTuple):
    """The regions of a task set, in the order of nnU-Net's output channels.

    A leaf is a label value of the files. Regions are sets of leaves and may nest (a tumour inside its organ) or overlap
    (a vessel inside the liver); background, 0, is in no region.

    Attributes:
        task_of_region: Index of the task of each of the R regions, every task from 0 on.
        slot_of_region: Index of the output channel each region reads where tasks share channels, every slot from 0 on.
        labels_of_region: Label values of each region, positive.
    """

    task_of_region: tuple[int, ...]
    slot_of_region: tuple[int, ...]
    labels_of_region: tuple[tuple[int, ...], ...]

    @classmethod
    def from_tasks(cls, tasks: TaskSet) -> "Layout":
        """Return the regions of a task set."""
        return cls(tasks.task_of_region, tasks.slot_of_region, tasks.region_labels)

    @property
    def num_tasks(self) -> int:
        """Number of tasks, K."""
        return max(self.task_of_region) + 1

    @property
    def num_regions(self) -> int:
        """Number of regions, R."""
        return len(self.task_of_region)

    @property
    def num_slots(self) -> int:
        """Number of output channels that tasks can share, S."""
        return max(self.slot_of_region) + 1

    @property
    def leaves(self) -> tuple[int, ...]:
        """The distinct label values of all regions, ascending, (L,)."""
        return tuple(sorted({label for labels in self.labels_of_region for label in labels}))

    @property
    def membership(self) -> tuple[tuple[bool, ...], ...]:
        """Which regions hold which leaf, R rows of L + 1; the first column is background and in none."""
        return tuple((False, *(leaf in labels for leaf in self.leaves)) for labels in self.labels_of_region)
