"""The loaders of a fold: which cases are drawn how often, what they hold, and what patches are centred on."""

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
    """Return what nnU-Net calls in place of its class of loaders.

    Args:
        course: The tasks with the case table, and what draws patches.
        regression: The values per voxel, whose targets the loader reads.
        settings: Settings of the run.
        is_trained_on: Whether one of nnU-Net's data sets is that of the training cases.
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
    """Say in lines what the data set or the fold cannot teach or cannot judge, and the remedy.

    Args:
        tasks: The task set with its case table.
        train: The training cases of the fold.
        validation: The validation cases of the fold.
        dataset_name: Name of the data set, for the remedy.
    """
    faults = (*dataset_faults(tasks, [*train, *validation]), *fold_faults(tasks, train, validation, dataset_name))
    for fault in faults:
        yield f"{fault.text}. Remedy: {fault.remedy}"
