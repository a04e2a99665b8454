"""`nnunet_mtl merge-predictions`: merges the predictions of one network per task into those of one network.

The merged map is painted as nnU-Net paints regions, so a later region covers an earlier one. The map of every task
beside it, as `nnunet_mtl predict --save-per-task` writes it, keeps covered voxels.
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
    """Merge folders of predictions, each for some regions of a data set.

    Args:
        source: Folder of the data set in `nnUNet_raw`.
        folders: Folders that `nnUNetv2_predict` wrote with networks trained on extracts of the data set.
        output: Gets the merged maps, a folder of maps for every task, `dataset.json`, the answers to image-level
            questions and the maps of regression tasks, all in the form that `nnunet_mtl evaluate` reads.

    Returns:
        Text for the user: regions without a prediction, if any, and the folder written.

    Raises:
        UserError: If an argument or a file is invalid, with every problem; nothing is written then.
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
    missing = [name for name, predicted in zip(raw.taskset.regions, merge.predicted, strict=True) if not predicted]
    if missing:
        text = f"no folder predicts {listed(missing)}: background in every map, so their scores say nothing\n{text}"
    return "\n".join([*notes, text])


def _with(answered: Sequence[str], values: Sequence[str]) -> str:
    parts = [f"the answers to {listed(answered)}"] if answered else []
    parts += [f"the values of {listed(values)}"] if values else []
    return f", with {' and '.join(parts)}" if parts else ""


class _Merge:
    """Merges the label maps of several folders of predictions."""

    def __init__(self, raw: RawDataset, folders: Sequence[PredictionFolder], reader: LabelMapReader) -> None:
        self.raw, self.folders, self.reader = raw, folders, reader
        regions = range(len(raw.taskset.regions))
        self.predicted = tuple(any(region in folder.channels for folder in folders) for region in regions)
        pairs = zip(raw.taskset.task_of_region, self.predicted, strict=True)
        owners = {owner for owner, is_predicted in pairs if is_predicted}
        names = [raw.taskset.tasks[owner].name for owner in sorted(owners)]
        self.task_maps = task_maps(raw.taskset, names, without_cases(raw.dataset_json))

    def open(self, folder: Path) -> None:
        """Write the `dataset.json` of the merged maps and of the maps of every task."""
        write_dataset_json(folder / "dataset.json", without_cases(self.raw.dataset_json))
        for task in self.task_maps:
            (folder / task.name).mkdir()
            write_dataset_json(folder / task.name / "dataset.json", task.dataset_json)

    def write(self, case: str, folder: Path) -> None:
        """Write the merged map of a case and the maps of its tasks, unless a map of a folder has a problem."""
        n_problems = len(self.reader.problems)
        name = f"{case}{self.raw.file_ending}"
        maps: list[LabelMap] = []
        for prediction in self.folders:
            label_map = self.reader.read(prediction.folder / name, prediction.n_values, maps[0] if maps else None)
            maps += [] if label_map is None else [label_map]
        if len(self.reader.problems) > n_problems:
            return
        together = combinations([label_map.labels for label_map in maps])
        regions: Table = np.logical_or.reduce(
            [
                prediction.regions(together.values[:, column], len(self.predicted))
                for column, prediction in enumerate(self.folders)
            ]
        )
        union = painted(regions, self.raw.taskset.regions_class_order)
        self.reader.write(folder / name, union[together.of_voxel], maps[0])
        for task in self.task_maps:
            values = painted(regions[:, list(task.channels)], task.dataset_json["regions_class_order"])
            self.reader.write(folder / task.name / name, values[together.of_voxel], maps[0])


def _cases(folders: Sequence[PredictionFolder], ending: str, problems: list[str]) -> list[str]:
    """Return the cases of all folders, sorted; a folder that lacks a case is a problem."""
    predicted = [
        {path.name.removesuffix(ending) for path in prediction.folder.glob(f"[!.]*{ending}") if path.is_file()}
        for prediction in folders
    ]
    cases = sorted(set().union(*predicted))
    for prediction, names in zip(folders, predicted, strict=True):
        missing = [case for case in cases if case not in names]
        if missing:
            problems.append(f"{prediction.folder}: {len(missing)} case(s) missing: {listed(missing)}; predict them")
    if not cases and not problems:
        places = listed(str(prediction.folder) for prediction in folders)
        raise LabelMapError(f"no prediction named *{ending} in {places}; check -i")
    return cases
