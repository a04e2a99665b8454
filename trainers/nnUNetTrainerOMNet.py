"""OM-Net: nested tasks in one pass, each guided by what the one around it found.

After Zhou, Ding, Wang, Lu, Tao, One-pass multi-task networks with cross-task guided attention for brain tumor
segmentation, IEEE TIP 2020.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.omnet.nested_course import NestedCourse, nested_head_options
from nnunet_mtl.training.trainer import MultiTaskTrainer


class nnUNetTrainerOMNet(MultiTaskTrainer):
    """One pass for all tasks; a pool of patches for each, and a curriculum from coarse to fine."""

    heads: ClassVar = {"regions": "nnunet_mtl.networks.omnet.nested_head.NestedHead"}
    task_losses: ClassVar = True
    course_class: ClassVar = NestedCourse

    @classmethod
    def architecture(
        cls, stock: dict[str, Any], patch_size: Sequence[int], tasks: TaskSet, settings: Settings
    ) -> dict[str, Any]:
        """Return the architecture block, whose head knows the nested tasks."""
        block = super().architecture(stock, patch_size, tasks, settings)
        block["arch_kwargs"]["head_options"] = nested_head_options(tasks, settings)
        return block
