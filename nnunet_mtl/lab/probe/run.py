"""`nnunet_mtl probe`: does a linear layer on the frozen features of a trained network answer the questions?

Two rules keep the figures honest. Every scored prediction comes from a probe that was fitted on other folds of
`splits_final.json` and on other patients. If the model has the folds for it, the network that describes a case was not
trained on the image of the case; a case without such a network is counted and reported as seen in training.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.inference.model_folder import read_model
from nnunet_mtl.inference.model_location import results_folder
from nnunet_mtl.inference.predict_options import device_to_use
from nnunet_mtl.lab.probe.cross_validation import final_probes, labelled_cases, out_of_fold
from nnunet_mtl.lab.probe.export import export, export_folder
from nnunet_mtl.lab.probe.features import Source, describe_cases, open_source
from nnunet_mtl.lab.probe.folds import Fold, ProbeError
from nnunet_mtl.lab.probe.images import Images
from nnunet_mtl.lab.probe.report import Answers, describe, headline, write_report
from nnunet_mtl.planning.folders import preprocessed_folder
from nnunet_mtl.planning.splits import read_splits
from nnunet_mtl.tasks import ClassificationTask, TaskSet, read_dataset_json


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """The options of `nnunet_mtl probe`; its help describes them."""

    dataset: str
    configuration: str
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    folds: tuple[str | int, ...] = (0, 1, 2, 3, 4)
    checkpoint: str = "checkpoint_final.pth"
    questions: tuple[str, ...] = ()
    output: Path | None = None
    device: str | None = None
    export: str | None = None

    @classmethod
    def from_namespace(cls, options: argparse.Namespace) -> "ProbeOptions":
        """Take the parsed arguments of `nnunet_mtl probe`."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in vars(options).items()
            if name in cls.__dataclass_fields__
        }
        return cls(**values)

    @property
    def fold_names(self) -> tuple[Fold, ...]:
        """The folds without repetition, numbers as numbers.

        Raises:
            ProbeError: If a fold is neither a number nor "all".
        """
        wrong = [fold for fold in self.folds if fold != "all" and not str(fold).isdigit()]
        if wrong:
            raise ProbeError(f"-f {wrong[0]}: a fold is a number or 'all'")
        return tuple(dict.fromkeys(fold if fold == "all" else int(fold) for fold in self.folds))


def run_probe(options: ProbeOptions, progress: Callable[[str], None]) -> str:
    """Describe the labelled cases, fit and score the probes, write the report and, if asked, the exported model.

    Args:
        options: Options of the command.
        progress: Called with one line of text at a time.

    Returns:
        Text for the user; the last line has the figures.

    Raises:
        UserError: If the data set, the model or the options cannot be used; the message is one line.
    """
    preprocessed = preprocessed_folder(options.dataset)
    tasks = _task_set(preprocessed / "dataset.json")
    questions = _questions(tasks, options.questions)
    folder = results_folder(options.dataset, options.trainer, options.plans, options.configuration)
    model = read_model(folder, options.fold_names, options.checkpoint)
    labelled = labelled_cases(tasks, questions, read_splits(preprocessed / "splits_final.json"))
    source = open_source(model, tasks, questions)
    if options.export is not None:
        export_folder(source, options.export)
    images = Images(model, preprocessed, labelled.cases)
    described = {}
    with device_to_use(options.device) as device:
        for fold in model.folds:
            progress(f"fold {fold}: describing {len(labelled.cases)} cases")
            described[fold] = describe_cases(source, fold, images, device)
    answers = [out_of_fold(question, labelled, described) for question in questions]
    output = options.output or folder.parent / "probes" / folder.name
    _write(output, options, source, answers)
    lines = [line for answer in answers for line in describe(answer)]
    if options.export is not None:
        probes = {fold: final_probes(questions, labelled, features) for fold, features in described.items()}
        exported = export(source, options.export, probes)
        lines.append(
            f"exported {exported}: fitted on every labelled case, so its answers to these say nothing; predict with "
            f"-tr {exported.name.partition('__')[0]} -p {options.export} -c {options.configuration}"
        )
    return "\n".join([*lines, f"probe of {folder.name}: {headline(answers)}; {output}"])


def _task_set(path: Path) -> TaskSet:
    tasks = TaskSet.from_dataset_json(read_dataset_json(path), str(path))
    if not tasks.classification:
        raise ProbeError(
            f"{path}: nnunet_mtl.classification: asks no question; add one to the dataset.json in nnUNet_raw and run "
            "`nnunet_mtl sync`"
        )
    return tasks


def _questions(tasks: TaskSet, names: Sequence[str]) -> tuple[ClassificationTask, ...]:
    known = [question.name for question in tasks.classification]
    for name in names:
        if name not in known:
            raise ProbeError(
                f"--question {shown(name)}: unknown{did_you_mean(name, known)}; the data set asks {listed(known)}"
            )
    return tuple(question for question in tasks.classification if not names or question.name in names)


def _write(output: Path, options: ProbeOptions, source: Source, answers: Sequence[Answers]) -> None:
    about = {
        "model": str(source.model.folder),
        "folds": list(source.model.folds),
        "checkpoint": options.checkpoint,
    }
    try:
        write_report(output, about, answers)
    except OSError as error:
        raise ProbeError(f"{output}: cannot be written to ({error.strerror}); give another -o") from None
