"""Refuses to train in a results folder of other tasks, settings or plans.

nnU-Net names the folder after trainer, plans and configuration, and overwrites the folder's `plans.json` whenever a
fold is trained. A run whose plans or block changed under the same names would continue or overwrite another experiment.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.inference.model_folder import read_checkpoint
from nnunet_mtl.inference.plan_differences import Difference, described, label_differences, plan_differences


class RunFolderError(UserError):
    """The run would write into the results folder of another experiment."""


def refuse_other_experiment(
    folder: Path, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> None:
    """Compare the run with the plans and labels that any fold has left in its results folder.

    Args:
        folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`; need not exist.
        plans: The plans of the run, with the block, settings and architecture of its trainer.
        configuration: Name of the configuration.
        dataset_json: The `dataset.json` that nnU-Net saves; labels and channels must be those of the folder.

    Raises:
        RunFolderError: If plans or labels differ, or a file of the folder cannot be read.
    """
    if (folder / "plans.json").is_file():
        saved = _read(folder / "plans.json")
        _refuse(folder / "plans.json", plan_differences(saved, plans, configuration, training=True))
    if (folder / "dataset.json").is_file():
        _refuse(folder / "dataset.json", label_differences(_read(folder / "dataset.json"), dataset_json))


def refuse_other_checkpoint(
    path: Path, plans: Mapping[str, Any], configuration: str, dataset_json: Mapping[str, Any]
) -> None:
    """Compare the run with a checkpoint to continue from; the other arguments are those of `refuse_other_experiment`.

    Raises:
        RunFolderError: If plans or labels differ.
        ModelFolderError: If the checkpoint cannot be read.
    """
    saved = read_checkpoint(path)["init_args"]
    _refuse(path, plan_differences(saved.get("plans", {}), plans, configuration, training=True))
    _refuse(path, label_differences(saved.get("dataset_json", {}), dataset_json))


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise RunFolderError(f"{path}: cannot be read ({problem}); move the folder {path.parent} away") from None
    return content


def _refuse(path: Path, differences: Sequence[Difference]) -> None:
    if differences:
        raise RunFolderError(
            f"{path}: this folder holds another experiment: {described(differences, 'there', 'here')}. Give the plans "
            "another name (nnunet_mtl plan --name), or move the folder away"
        )
