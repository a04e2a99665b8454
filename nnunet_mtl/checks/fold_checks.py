"""Checks of the folds: regions and questions that no network can learn, or that a fold cannot validate."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed

from nnunet_mtl.checks.findings import Finding
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import listed, one_line
from nnunet_mtl.planning.fold_coverage import dataset_faults, fold_faults
from nnunet_mtl.planning.splits import read_splits
from nnunet_mtl.tasks import TaskSet


def check_folds(name: str, taskset: TaskSet, cases: Sequence[str], *, foreground: bool) -> Iterator[Finding]:
    """Check what the cases of a data set, and every fold of its `splits_final.json`, can teach and validate.

    Args:
        name: Name of the data set.
        taskset: The task set with its case table.
        cases: Names of the training cases.
        foreground: Whether any label file may hold foreground.
    """
    known = [case for case in cases if case in taskset.cases or not taskset.has_block]
    preprocessed = Path(nnUNet_preprocessed.get(), name) if nnUNet_preprocessed.is_set() else None
    planned = preprocessed is not None and (preprocessed / "dataset_fingerprint.json").is_file()
    if cases and not foreground and not planned:
        yield Finding(
            "problem",
            "no label file holds any foreground: nnU-Net cannot plan such a data set (`index -1 is out of bounds`)",
            "first copy dataset_fingerprint.json of a data set of such images with outlines into "
            f"nnUNet_preprocessed/{name}; `nnunet_mtl extract --with_block` does that (docs/stl.md)",
        )
    for fault in dataset_faults(taskset, known) if known else ():
        yield Finding("warning", fault.text, fault.remedy)
    if preprocessed is not None and (preprocessed / "splits_final.json").exists():
        yield from _folds(preprocessed / "splits_final.json", name, taskset, cases, set(known))


def _folds(path: Path, name: str, taskset: TaskSet, cases: Sequence[str], known: set[str]) -> Iterator[Finding]:
    remedy = f"nnunet_mtl make-splits -d {name} --overwrite"
    try:
        splits = read_splits(path)
    except UserError as error:
        yield Finding("problem", one_line(error), remedy)
        return
    strange = sorted({case for split in splits for part in ("train", "val") for case in split[part]}.difference(cases))
    if strange:
        yield Finding("problem", f"{path}: names cases that are not in imagesTr: {listed(strange)}", remedy)
    faultless = not strange
    for number, split in enumerate(splits):
        train, validation = ([case for case in split[part] if case in known] for part in ("train", "val"))
        for fault in fold_faults(taskset, train, validation, name):
            faultless = False
            yield Finding("warning", f"fold {number}: {fault.text}", fault.remedy)
    if faultless:
        yield Finding("ok", f"{len(splits)} folds: what the data set annotates and labels is in both parts of each")
