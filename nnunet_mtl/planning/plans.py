"""Writes new plans from existing plans: settings and network size change, the preprocessed data stay the same."""

import json
import re
from collections.abc import Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import did_you_mean
from nnunet_mtl.common.names import name_problem, same_on_disk
from nnunet_mtl.planning.folders import PlanningError, preprocessed_folder, read_plans
from nnunet_mtl.planning.network_size import NetworkSize
from nnunet_mtl.tasks.settings import Settings


def write_plans(
    dataset: str | int,
    *,
    name: str,
    source: str = "nnUNetPlans",
    assignments: Sequence[str] = (),
    network: NetworkSize | None = None,
    configurations: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write the plans `name` beside the plans `source`, from which they are made.

    Every configuration keeps its data identifier, so nothing is preprocessed again. Writing the same plans twice is
    allowed. Writing other plans under an existing name is refused, because models may have been trained with the old.

    Args:
        dataset: Id or name of the data set.
        name: Name of the new plans, as later given to `nnUNetv2_train -p`.
        source: Name of existing plans. Their settings are kept unless `assignments` change them.
        assignments: Settings as `NAME=VALUE`.
        network: Size of the network in `configurations`; None keeps the planned size.
        configurations: Names of the configurations that `network` is for.
        overwrite: Whether other plans of that name are replaced.

    Returns:
        Path of the new plans.

    Raises:
        PlanningError: If the data set, the plans or a configuration does not exist, or the name is taken or invalid.
        SettingsError: If a setting is unknown or its value is refused.
    """
    folder = preprocessed_folder(dataset)
    source_path, target = folder / f"{source}.json", folder / f"{name}.json"
    check_plans_name(name, f"--name {name!r}", [path.stem for path in folder.glob("*.json")])
    if name == source:
        raise PlanningError(f"--name {name}: the new plans need another name than those they are made from")
    plans = read_plans(source_path)
    block = plans.get("nnunet_mtl", {})
    base = Settings.from_mapping(block.get("settings", {}), f"{source_path}: nnunet_mtl.settings")
    settings = Settings.parse(list(assignments), base.to_mapping()).to_mapping()
    # Only settings that were given: trainers have different defaults, and write all settings beside the model.
    named = {*block.get("settings", {}), *(assignment.partition("=")[0] for assignment in assignments)}
    chosen = {setting: value for setting, value in settings.items() if setting in named}
    new = {**deepcopy(plans), "plans_name": name, "nnunet_mtl": {"settings": chosen}}
    _resize(new, network or NetworkSize(), configurations, source_path)
    if target.exists():
        # Key order counts: everything that reads plans keeps the order.
        if json.dumps(read_plans(target)) == json.dumps(new):
            return target
        if not overwrite:
            raise PlanningError(f"{target}: other plans of that name are there; give another --name or --overwrite")
    write_json(target, new)
    return target


def check_plans_name(name: str, option: str, others: Collection[str]) -> None:
    """Refuse a name of plans that cannot be part of the names of files and results folders.

    Args:
        name: Name of new plans.
        option: The option that gave the name, for the message.
        others: Names of the plans or files that will lie beside the new plans.

    Raises:
        PlanningError: If the name is invalid, or differs from another name only in case.
    """
    # nnU-Net joins trainer, plans and configuration by two underscores in the names of results folders.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or "__" in name or name.endswith((".json", "_")):
        raise PlanningError(
            f"{option}: a plans name has letters, digits, '.', '-' and single '_' inside it, and no '.json'"
        )
    if problem := name_problem(name):
        raise PlanningError(f"{option}: a plans name {problem}; give another")
    twin = next((other for other in others if other != name and same_on_disk(other) == same_on_disk(name)), None)
    if twin is not None:
        raise PlanningError(f"{option}: differs from {twin}, which is there, only in case; give another")


def _resize(plans: dict[str, Any], network: NetworkSize, configurations: Sequence[str], source: Path) -> None:
    known = plans["configurations"]
    for configuration in configurations:
        if configuration not in known:
            similar = did_you_mean(configuration, known)
            raise PlanningError(f"{source}: no configuration {configuration!r}{similar}; known are {', '.join(known)}")
    if network.is_empty:
        return
    if not configurations:
        raise PlanningError(
            f"{source}: name the configuration that the network size is for; known are {', '.join(known)}"
        )
    # Imported here, because the import takes seconds and settings alone do not need it.
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resolved = PlansManager(deepcopy(plans))
    for configuration in configurations:
        planned = resolved.get_configuration(configuration).configuration
        known[configuration].update(network.changes(planned, configuration))
