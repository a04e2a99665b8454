"""The regions that a network predicts: the task that owns a region, the slot it reads, the label values it holds."""

from typing import NamedTuple

from nnunet_mtl.tasks import TaskSet


class Layout(NamedTuple):
    """The regions of a task set, in the order of nnU-Net's output channels.

    A leaf is a label value of the files. A region is a set of leaves. Regions may nest (a tumour inside its organ) or
    overlap (a vessel inside the liver). Background, 0, is in no region.

    Attributes:
        task_of_region: For every one of the R regions the index of its task; all indices from 0 on occur.
        slot_of_region: For every region the index of its slot, the output channel that the region reads if tasks share
            channels; all indices from 0 on occur.
        labels_of_region: For every region its label values, positive numbers.
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
        """Whether a region holds a leaf, R rows of L + 1 values; the first column, background, is in no region."""
        return tuple((False, *(leaf in labels for leaf in self.leaves)) for labels in self.labels_of_region)
