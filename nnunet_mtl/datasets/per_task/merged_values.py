"""Merges the regression maps of several networks into the folders that one network would have written."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.file_integrity import file_problem

FOLDER = "regression"  # folder of regression maps in a folder of predictions of `nnunet_mtl predict`


def find_values(
    folders: Sequence[Path], tasks: Sequence[str], cases: Collection[str], file_ending: str, problems: list[str]
) -> dict[str, Path]:
    """Return by regression task the folder that holds its maps.

    Args:
        folders: Folders of predictions; some hold maps in `regression/<task>`, as `nnunet_mtl predict` writes them.
        tasks: Names of the data set's regression tasks; maps of other tasks are left out.
        cases: Names of the cases; a task with any map must have a map of every case.
        file_ending: Ending of the maps' file names.
        problems: Gets a line for a task in two folders, for cases without a map, and for a damaged map.

    Returns:
        Folders of maps by task, for the tasks that have maps.
    """
    places: dict[str, Path] = {}
    for task in tasks:
        having = [folder for folder in folders if any((folder / FOLDER / task).glob(f"[!.]*{file_ending}"))]
        if len(having) > 1:
            problems.append(f"task {task}: predicted by {' and '.join(str(folder) for folder in having)}; give one")
        for folder in having[:1]:
            places[task] = folder / FOLDER / task
            missing = [case for case in cases if not (places[task] / f"{case}{file_ending}").is_file()]
            if missing:
                problems.append(f"{places[task]}: {len(missing)} case(s) missing: {listed(missing)}; predict them")
            maps = (places[task] / f"{case}{file_ending}" for case in cases if case not in missing)
            problems += [f"{path}: {problem}; predict it again" for path in maps if (problem := file_problem(path))]
    return places


def merge_values(found: Mapping[str, Path], cases: Collection[str], file_ending: str, output: Path) -> None:
    """Copy the maps of the tasks to `regression/<task>` in `output`, byte by byte.

    Args:
        found: Folders of maps by task, see `find_values`.
        cases: Names of the cases to copy.
        file_ending: Ending of the maps' file names.
        output: Folder of the merged predictions.

    Raises:
        OSError: If a map cannot be read or written.
    """
    for task, folder in found.items():
        (output / FOLDER / task).mkdir(parents=True)
        for case in cases:
            shutil.copyfile(folder / f"{case}{file_ending}", output / FOLDER / task / f"{case}{file_ending}")
