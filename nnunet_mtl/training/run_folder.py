"""A results folder belongs to one task set and one set of settings.

nnU-Net names the folder after trainer, plans and configuration, so a changed block or setting under the same names
would silently continue, or overwrite, another experiment.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_mtl.errors import UserError


class RunFolderError(UserError):
    """The run would write into the results folder of another experiment."""


def refuse_other_experiment(folder: Path, plans: Mapping[str, Any], dataset_json: Mapping[str, Any]) -> None:
    """Compare the run with what is already in its results folder.

    Args:
        folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`; need not exist.
        plans: Of the run, with the compact block and settings.
        dataset_json: Of the run; its labels must be the folder's.

    Raises:
        RunFolderError: Naming every difference, if there is one.
    """
    there: dict[str, Any] = {}
    for name, keys, ours in (("plans.json", ("nnunet_mtl",), plans), ("dataset.json", LABEL_KEYS, dataset_json)):
        if (folder / name).is_file():
            there = json.loads((folder / name).read_text())
            differences = [
                difference for key in keys for difference in _differences(key, there.get(key), _jsonable(ours.get(key)))
            ]
            if differences:
                raise RunFolderError(
                    f"{folder / name}: this folder holds another experiment: {'; '.join(differences)}. Give the plans "
                    f"another name (nnunet_mtl plan --name), or move the folder away"
                )


LABEL_KEYS = ("labels", "regions_class_order", "channel_names")


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _differences(key: str, there: Any, here: Any) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        if there.keys() == here.keys() and list(there) != list(here):
            return [f"{key} is in the order {list(there)} there and {list(here)} here"]
        keys = [*there, *(name for name in here if name not in there)]
        return [line for name in keys for line in _differences(f"{key}.{name}", there.get(name), here.get(name))]
    return [] if there == here else [f"{key} is {there!r} there and {here!r} here"]
