"""The values per voxel that several networks predict, gathered in the folders that one network would have written."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nnunet_mtl.common.messages import listed
from nnunet_mtl.datasets.file_integrity import file_problem

FOLDER = "regression"  # of predictions, as `nnunet_mtl predict` names it


def find_values(
    folders: Sequence[Path], tasks: Sequence[str], cases: Collection[str], file_ending: str, problems: list[str]
) -> dict[str, Path]:
    """Find out which folder of predictions has the maps of which regression task.

    Args:
        folders: Some of them hold maps in `regression/<task>`, as `nnunet_mtl predict` writes them.
        tasks: Of the data set; maps of others are left out.
        cases: Names of the cases, each of which must have a map of a task that any has.
        file_ending: Of the maps.
        problems: Gets a line for a task that two folders have, for cases without a map and for maps that are not whole.

    Returns:
        The folder of the maps of each task that any folder has.
    """
    found: dict[str, Path] = {}
    for task in tasks:
        having = [folder for folder in folders if any((folder / FOLDER / task).glob(f"[!.]*{file_ending}"))]
        if len(having) > 1:
            problems.append(f"task {task}: predicted by {' and '.join(str(folder) for folder in having)}; give one")
        for folder in having[:1]:
            found[task] = folder / FOLDER / task
            missing = [case for case in cases if not (found[task] / f"{case}{file_ending}").is_file()]
            if missing:
                problems.append(f"{found[task]}: {len(missing)} case(s) missing: {listed(missing)}; predict them")
            there = (found[task] / f"{case}{file_ending}" for case in cases if case not in missing)
            problems += [f"{path}: {problem}; predict it again" for path in there if (problem := file_problem(path))]
    return found


def merge_values(found: Mapping[str, Path], cases: Collection[str], file_ending: str, output: Path) -> None:
    """Copy the maps of the tasks to `regression/<task>` in `output`, byte by byte.

    Args:
        found: The folder of the maps of each task.
        cases: Names of the cases to copy.
        file_ending: Of the maps.
        output: Folder of the merged predictions.

    Raises:
        OSError: If a map cannot be read or written.
    """
    for task, folder in found.items():
        (output / FOLDER / task).mkdir(parents=True)
        for case in cases:
            shutil.copyfile(folder / f"{case}{file_ending}", output / FOLDER / task / f"{case}{file_ending}")
