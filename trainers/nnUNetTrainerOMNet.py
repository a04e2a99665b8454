"""OM-Net: nested tasks in one pass, each guided by what the one around it found.

After Zhou, Ding, Wang, Lu, Tao, One-pass multi-task networks with cross-task guided attention for brain tumor
segmentation, IEEE TIP 2020.
"""

from typing import Any, ClassVar

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.omnet.nested_course import NestedCourse, nested_head_options
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerOMNet(MultiTaskTrainer):
    """One pass serves all tasks; every task has a pool of patches, and a curriculum goes from coarse to fine."""

    defaults: ClassVar = {"head": "own"}
    heads: ClassVar = {"own": "nnunet_mtl.networks.omnet.nested_head.NestedHead"}
    task_losses: ClassVar = True
    course_class: ClassVar = NestedCourse

    @classmethod
    def head_options(cls, settings: Settings, tasks: TaskSet) -> dict[str, Any]:
        """Return the nested tasks, and the guidance of the heads of inner tasks."""
        return nested_head_options(tasks, settings)
