"""The loaders of a fold, which combine sampling of cases, merged labels and centring of patches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nnunet_mtl.planning.fold_coverage import dataset_faults, fold_faults
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.annotated_foreground import AnnotatedForeground
from nnunet_mtl.training.course import Course
from nnunet_mtl.training.evidence_crops import evidence_labels
from nnunet_mtl.training.merged_labels import MergedLabelsDataset
from nnunet_mtl.training.regression import RegressionTraining
from nnunet_mtl.training.sampling import sampling_probabilities


def patch_loader(
    course: Course, regression: RegressionTraining, settings: Settings, is_trained_on: Callable[[Any], bool]
) -> Callable[..., Any]:
    """Return a function that replaces nnU-Net's class of loaders.

    Args:
        course: The course, which has the case table and builds the loader.
        regression: Adds the targets of the regression tasks to the data set.
        settings: Settings of the run.
        is_trained_on: Returns whether a data set of nnU-Net holds the training cases.
    """
    tasks = course.cases

    def loader(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["sampling_probabilities"] = sampling_probabilities(
            tasks, list(dataset.identifiers), settings.sampling, settings.class_sampling
        )
        known = AnnotatedForeground(regression.with_targets(dataset, kwargs), tasks)
        return course.patch_loader(
            MergedLabelsDataset(known, tasks),
            *args,
            training=is_trained_on(dataset),
            evidence=evidence_labels(tasks),
            share=settings.evidence_crops,
            **kwargs,
        )

    return loader


def fold_warnings(tasks: TaskSet, train: Sequence[str], validation: Sequence[str], dataset_name: str) -> Iterator[str]:
    """Yield a line for everything that the data set or the fold cannot teach or validate, with the remedy.

    Args:
        tasks: The task set with its case table.
        train: The training cases of the fold.
        validation: The validation cases of the fold.
        dataset_name: Name of the data set, for the remedy.
    """
    faults = (*dataset_faults(tasks, [*train, *validation]), *fold_faults(tasks, train, validation, dataset_name))
    for fault in faults:
        yield f"{fault.text}. Remedy: {fault.remedy}"
