"""The `nnunet_mtl` block of `dataset.json` (tasks, questions, annotated cases) and the settings of plans.

No other package reads or writes either of the two.
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
