"""What of a data set no network can learn, or a fold of it cannot judge: what `nnunet_mtl doctor` says of that."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed

from nnunet_mtl.errors import UserError
from nnunet_mtl.findings import Finding, one_line
from nnunet_mtl.planning.fold_coverage import dataset_faults, fold_faults
from nnunet_mtl.probe.folds import read_splits
from nnunet_mtl.tasks import TaskSet


def check_folds(
    name: str, taskset: TaskSet, labels: Mapping[str, Path], leaves: Callable[[Path], list[int]]
) -> Iterator[Finding]:
    """Look at what the cases of a data set and each fold of its `splits_final.json` can teach and judge.

    Args:
        name: Of the data set.
        taskset: With its case table.
        labels: The label file of each training case.
        leaves: Reads the values of a label file; raises a UserError where it cannot be read.
    """
    cases = [case for case in labels if case in taskset.cases or not taskset.has_block]
    preprocessed = Path(nnUNet_preprocessed.get(), name) if nnUNet_preprocessed.is_set() else None
    yield from _foreground(name, labels, leaves, preprocessed)
    for fault in dataset_faults(taskset, cases) if cases else ():
        yield Finding("warning", fault.text, fault.remedy)
    if preprocessed is not None and (preprocessed / "splits_final.json").exists():
        yield from _folds(preprocessed / "splits_final.json", name, taskset, cases)


def _foreground(
    name: str, labels: Mapping[str, Path], leaves: Callable[[Path], list[int]], preprocessed: Path | None
) -> Iterator[Finding]:
    try:
        if not labels or any(leaf > 0 for path in labels.values() for leaf in leaves(path)):
            return
    except UserError:  # a file that cannot be read is a fault of its own
        return
    if preprocessed is None or not (preprocessed / "dataset_fingerprint.json").is_file():
        yield Finding(
            "problem",
            "no label file holds any foreground: nnU-Net cannot plan such a data set (`index -1 is out of bounds`)",
            "first copy dataset_fingerprint.json of a data set of such images with outlines into "
            f"nnUNet_preprocessed/{name}; `nnunet_mtl extract --with_block` does that (docs/stl.md)",
        )


def _folds(path: Path, name: str, taskset: TaskSet, cases: list[str]) -> Iterator[Finding]:
    try:
        splits = read_splits(path)
    except UserError as error:
        yield Finding("problem", one_line(error), f"nnunet_mtl make-splits -d {name} --overwrite")
        return
    known, faultless = set(cases), True
    for number, split in enumerate(splits):
        train, validation = ([case for case in split[part] if case in known] for part in ("train", "val"))
        for fault in fold_faults(taskset, train, validation, name):
            faultless = False
            yield Finding("warning", f"fold {number}: {fault.text}", fault.remedy)
    if faultless:
        yield Finding("ok", f"{len(splits)} folds: what the data set annotates and labels is in both parts of each")
