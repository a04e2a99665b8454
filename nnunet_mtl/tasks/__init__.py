"""Which structures a data set holds, which were annotated in which case, and what is known of the image as a whole.

This room is the only code that reads or writes the `nnunet_mtl` block of `dataset.json` and the settings of plans.
"""

from nnunet_mtl.tasks.dataset_json import read_dataset_json, write_dataset_json
from nnunet_mtl.tasks.entries import Case, ClassificationTask, Task
from nnunet_mtl.tasks.json_nodes import TaskSetError
from nnunet_mtl.tasks.regression_entries import RegressionTask
from nnunet_mtl.tasks.task_set import TaskSet, without_cases

__all__ = [
    "Case",
    "ClassificationTask",
    "RegressionTask",
    "Task",
    "TaskSet",
    "TaskSetError",
    "read_dataset_json",
    "without_cases",
    "write_dataset_json",
]
