"""New plans from existing ones: settings and network size change, the preprocessed data stay the same."""

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
    """Write the plans `name` beside the plans `source` they are made from.

    Every configuration keeps its data identifier, so nothing is preprocessed again. Writing the same plans twice is
    allowed; writing others under the same name is not, because runs may already stand for that name.

    Args:
        dataset: Id or name of the data set.
        name: Name of the new plans, as later given to `nnUNetv2_train -p`.
        source: Name of plans that exist. Settings they hold are kept where `assignments` do not change them.
        assignments: Settings as `NAME=VALUE`.
        network: Another size of the network, for the named `configurations` only.
        configurations: Names of configurations in the plans.
        overwrite: Whether other plans of that name are replaced.

    Returns:
        The file that was written.

    Raises:
        PlanningError: If the data set, the plans or a configuration is not there, or the name is taken or unusable.
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
    # Only what was set: trainers differ in what they do by default, and write all of it beside the model.
    named = {*block.get("settings", {}), *(assignment.partition("=")[0] for assignment in assignments)}
    chosen = {setting: value for setting, value in settings.items() if setting in named}
    new = {**deepcopy(plans), "plans_name": name, "nnunet_mtl": {"settings": chosen}}
    _resize(new, network or NetworkSize(), configurations, source_path)
    if target.exists():
        # Key order counts: it is kept by everything that reads plans.
        if json.dumps(read_plans(target)) == json.dumps(new):
            return target
        if not overwrite:
            raise PlanningError(f"{target}: other plans of that name are there; give another --name or --overwrite")
    write_json(target, new)
    return target


def check_plans_name(name: str, option: str, others: Collection[str]) -> None:
    """Refuse a name that plans, and so files and results folders, cannot have.

    Args:
        name: Of new plans.
        option: Where it was given, for the message.
        others: Names of other plans, or files, beside which the new ones will lie.

    Raises:
        PlanningError: If the name will not do.
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
    # Here, because it takes seconds and the settings alone do not need it.
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    resolved = PlansManager(deepcopy(plans))
    for configuration in configurations:
        planned = resolved.get_configuration(configuration).configuration
        known[configuration].update(network.changes(planned, configuration))
