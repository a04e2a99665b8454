"""`nnunet_mtl merge-predictions`: the predictions of one network per task as if one network had made them.

The union is painted as nnU-Net paints regions, so it loses what a later region covers; beside it stands each task's
own map, as `nnunet_mtl predict --save-per-task` writes it, in which nothing is lost.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.label_maps import LabelMap, LabelMapError, LabelMapReader, Table, combinations, painted, refuse
from nnunet_mtl.datasets.per_task.merged_answers import merge_answers
from nnunet_mtl.datasets.per_task.merged_values import find_values, merge_values
from nnunet_mtl.datasets.prediction_folders import PredictionFolder, open_folders
from nnunet_mtl.datasets.raw_dataset import RawDataset, written_whole
from nnunet_mtl.datasets.task_maps import task_maps
from nnunet_mtl.tasks import without_cases, write_dataset_json


def merge_predictions(source: Path, folders: Sequence[Path], output: Path) -> str:
    """Merge folders of predictions, each of which knows some regions of a data set.

    Args:
        source: Folder of the data set in `nnUNet_raw`.
        folders: What `nnUNetv2_predict` wrote with networks trained on extracts of it.
        output: Gets the maps of all tasks, a folder of maps for each task, `dataset.json`, and the answers to
            image-level questions, as `nnunet_mtl evaluate` reads them, and the values of regression tasks.

    Returns:
        Text for the user: the regions that nobody predicts, if any, and what was made.

    Raises:
        UserError: If anything is wrong, with every problem; nothing is written then.
    """
    raw = RawDataset.read(source)
    problems: list[str] = []
    opened = open_folders(folders, raw.taskset, raw.file_ending, problems)
    cases = _cases(opened, raw.file_ending, problems)
    regressions = [task.name for task in raw.taskset.regressions]
    values = find_values(folders, regressions, cases, raw.file_ending, problems)
    refuse(problems)
    merge = _Merge(raw, opened, LabelMapReader(raw.reader(), problems))
    with written_whole(output) as folder:
        merge.open(folder)
        for case in tqdm(cases, desc="merge", unit="case"):
            merge.write(case, folder)
        refuse(problems)
        questions = [question.name for question in raw.taskset.classification]
        answered, notes = merge_answers(folders, questions, cases, folder)
        merge_values(values, cases, raw.file_ending, folder)
    text = f"merged {len(cases)} cases of {len(opened)} folders{_with(answered, list(values))}: {output}; "
    text += f"next: nnunet_mtl evaluate -pred {output}"
    text += f" -ref FOLDER -d {source.name}"
    missing = [name for name, there in zip(raw.taskset.regions, merge.predicted, strict=True) if not there]
    if missing:
        text = f"no folder predicts {listed(missing)}: background in every map, so their scores say nothing\n{text}"
    return "\n".join([*notes, text])


def _with(answered: Sequence[str], values: Sequence[str]) -> str:
    parts = [f"the answers to {listed(answered)}"] if answered else []
    parts += [f"the values of {listed(values)}"] if values else []
    return f", with {' and '.join(parts)}" if parts else ""


class _Merge:
    """The folders, and the maps that are made of them."""

    def __init__(self, raw: RawDataset, folders: Sequence[PredictionFolder], reader: LabelMapReader) -> None:
        self.raw, self.folders, self.reader = raw, folders, reader
        regions = range(len(raw.taskset.regions))
        self.predicted = tuple(any(region in folder.channels for folder in folders) for region in regions)
        owners = {owner for owner, there in zip(raw.taskset.task_of_region, self.predicted, strict=True) if there}
        names = [raw.taskset.tasks[owner].name for owner in sorted(owners)]
        self.task_maps = task_maps(raw.taskset, names, without_cases(raw.dataset_json))

    def open(self, folder: Path) -> None:
        """Describe the maps."""
        write_dataset_json(folder / "dataset.json", without_cases(self.raw.dataset_json))
        for task in self.task_maps:
            (folder / task.name).mkdir()
            write_dataset_json(folder / task.name / "dataset.json", task.dataset_json)

    def write(self, case: str, folder: Path) -> None:
        """Write the maps of a case, unless something is wrong with one of those it is made of."""
        n_problems = len(self.reader.problems)
        name = f"{case}{self.raw.file_ending}"
        maps: list[LabelMap] = []
        for one in self.folders:
            found = self.reader.read(one.folder / name, one.n_values, maps[0] if maps else None)
            maps += [] if found is None else [found]
        if len(self.reader.problems) > n_problems:
            return
        together = combinations([one.labels for one in maps])
        there: Table = np.logical_or.reduce(
            [one.regions(together.values[:, i], len(self.predicted)) for i, one in enumerate(self.folders)]
        )
        union = painted(there, self.raw.taskset.regions_class_order)
        self.reader.write(folder / name, union[together.of_voxel], maps[0])
        for task in self.task_maps:
            own = painted(there[:, list(task.channels)], task.dataset_json["regions_class_order"])
            self.reader.write(folder / task.name / name, own[together.of_voxel], maps[0])


def _cases(folders: Sequence[PredictionFolder], ending: str, problems: list[str]) -> list[str]:
    """Return the cases that any folder has; one that another lacks is a problem."""
    of_folder = [
        {path.name.removesuffix(ending) for path in one.folder.glob(f"[!.]*{ending}") if path.is_file()}
        for one in folders
    ]
    cases = sorted(set().union(*of_folder))
    for one, there in zip(folders, of_folder, strict=True):
        missing = [case for case in cases if case not in there]
        if missing:
            problems.append(f"{one.folder}: {len(missing)} case(s) missing: {listed(missing)}; predict them")
    if not cases and not problems:
        raise LabelMapError(f"no prediction named *{ending} in {listed(str(one.folder) for one in folders)}; check -i")
    return cases
