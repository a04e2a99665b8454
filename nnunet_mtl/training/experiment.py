"""The experiment of a run: settings and task set, resolved once before nnU-Net's constructor sees the plans."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.tasks import RegressionTask, TaskSet, TaskSetError, without_cases
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.regression import with_scales, without_regressions, without_targets


@dataclass(frozen=True, repr=False)
class Experiment:
    """The task set and the settings of a run.

    The repr names no case, because nnU-Net writes the repr of every attribute of a trainer into `debug.json`.

    Attributes:
        settings: Settings of the run, with the defaults of its trainer.
        cases: The task set with its case table, without questions and regression tasks that this run does not learn.
        stored: Every regression task of the data set; the preprocessed files hold the targets of all of them.
        dataset_json: The `dataset.json` that nnU-Net may save: without the case table and without target channels.
    """

    settings: Settings
    cases: TaskSet
    stored: tuple[RegressionTask, ...]
    dataset_json: dict[str, Any]

    @classmethod
    def resolve(
        cls, plans: Mapping[str, Any], dataset_json: Mapping[str, Any], settings: Settings, trainer: Any
    ) -> "Experiment":
        """Read the block of `dataset.json` and leave out what the run does not learn.

        Args:
            plans: The plans; their intensity properties hold the scale of regression targets.
            dataset_json: The data set's whole `dataset.json`.
            settings: Settings of the run.
            trainer: A subclass of `MultiTaskTrainer`; its `segments` and `family` say what it learns.

        Raises:
            TaskSetError: If the block is invalid, a regression target has no spread, or a trainer that learns the
                questions alone is left without a question.
        """
        source = f"{plans.get('dataset_name', '')}/dataset.json"
        cases = TaskSet.from_dataset_json(dataset_json, source)
        stored = cases.regressions
        cases = with_scales(cases, plans) if trainer.family.regresses else without_regressions(cases)
        if settings.class_weight == 0:  # with weight 0 the run does not learn the questions
            cases = replace(cases, classification=())
        if not trainer.segments and not cases.classification:
            raise TaskSetError(f"{source}: nnunet_mtl.classification: {trainer.__name__} needs at least one question")
        return cls(settings, cases, stored, without_cases(without_targets(dataset_json, stored)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.cases.cases)} cases)"

    @property
    def tasks(self) -> TaskSet:
        """The task set without its case table."""
        return without_case_table(self.cases)

    def write_into(
        self,
        plans: dict[str, Any],
        configuration: str,
        architecture: Callable[[dict[str, Any], list[int], TaskSet, Settings], dict[str, Any]],
    ) -> None:
        """Write the compact block, the settings and our network into the plans, which nnU-Net saves with the model.

        Args:
            plans: The plans; changed in place.
            configuration: Name of the configuration that is trained.
            architecture: Returns the architecture block of the trained network; takes the stock block, the patch size
                in voxels, the tasks and the settings.
        """
        plans["nnunet_mtl"] = {**self.tasks.compact(), "settings": self.settings.to_mapping()}
        inherited = PlansManager(plans).get_configuration(configuration).configuration
        plans["configurations"][configuration]["architecture"] = architecture(
            inherited["architecture"], inherited["patch_size"], self.tasks, self.settings
        )


def without_case_table(tasks: TaskSet) -> TaskSet:
    """Return the task set without its cases, equal to that of the `dataset.json` saved with a trained model."""
    return replace(tasks, cases={}, has_cases=False)
