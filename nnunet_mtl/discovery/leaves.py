"""Which trainers exist: the leaves of a package, and what the folders of `nnUNet_extTrainer` hold.

A leaf is a module whose name begins with `nnUNetTrainer` and that defines a class of the same name.
"""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_mtl.common.messages import one_line
from nnunet_mtl.discovery import VARIABLE, DiscoveryError, shim_folder

_PREFIX = "nnUNetTrainer"


def leaves(package: str) -> dict[str, type[Any]]:
    """Return the trainers of a package by name, each under the name of the module that defines it.

    A shim, which is the file that nnU-Net finds, re-exports them: `globals().update(leaves("my_methods"))`.

    Args:
        package: Dotted name of an importable package, such as `nnunet_mtl.trainers`.

    Raises:
        DiscoveryError: If a leaf defines no class of its name.
    """
    # The package is imported first: `pkgutil` then finds its folder in editable installations too.
    path = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.iter_modules(path) if module.name.startswith(_PREFIX)]
    trainers = {}
    for name in names:
        leaf = importlib.import_module(f"{package}.{name}")
        if not hasattr(leaf, name):
            raise DiscoveryError(f"{leaf.__file__}: defines no class {name}; give file and class the same name")
        trainers[name] = getattr(leaf, name)
    return trainers


def announced_trainers() -> dict[str, type[Any]]:
    """Return the trainers that nnU-Net finds in the other folders of `nnUNet_extTrainer`, by name.

    The first of two classes with one name counts, as it does for nnU-Net.

    Raises:
        DiscoveryError: If a file in one of the folders cannot be imported; nnU-Net then finds no trainer either.
    """
    trainers: dict[str, type[Any]] = {}
    for folder in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if Path(folder).is_dir() and Path(folder).resolve() != shim_folder():
            trainers = {trainer.__name__: trainer for trainer in _trainers_in(folder)} | trainers
    return trainers


def _trainers_in(folder: str) -> Iterator[type[Any]]:
    # Imported here: whoever announces the trainers must not wait seconds for torch.
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities import find_class_by_name as finder

    # as nnU-Net imports them: by names relative to the folder, which are forgotten afterwards
    with finder.temporarily_extend_syspath(folder), finder.temporarily_cleanup_imports_from_path(folder):
        for module in _modules_in(folder):
            for name, value in vars(module).items():
                is_trainer = name.startswith(_PREFIX) and inspect.isclass(value) and issubclass(value, nnUNetTrainer)
                # nnU-Net's own trainers, which a leaf may import as bases, are found before these folders are
                if is_trainer and not value.__module__.startswith("nnunetv2."):
                    yield value


def _modules_in(folder: str) -> Iterator[Any]:
    for module in pkgutil.walk_packages([folder]):
        try:
            yield importlib.import_module(module.name)
        except (Exception, SystemExit) as error:  # whatever a file of the user's raises when it is imported
            cause = f"{type(error).__name__}: {one_line(error)}"
            raise DiscoveryError(f"{Path(folder, module.name)}: cannot be imported ({cause}); mend the file") from error
