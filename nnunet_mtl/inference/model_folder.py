"""Reads a model folder without running code that is stored in its checkpoints.

A pickle can run any code when it is read, and nnU-Net's own loader reads checkpoints as pickles. Here only tensors,
plain values and NumPy numbers are read; nnU-Net writes nothing else into checkpoints.
"""

import json
import pickle
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed, shown
from nnunet_mtl.inference.plan_differences import Difference, described, label_differences, plan_differences

Fold = int | str
OUR_CONTENT = "nnunet_mtl"  # key of this package's content of a checkpoint


class ModelFolderError(UserError):
    """A model folder, a fold or a checkpoint does not exist or cannot be used."""


@dataclass(frozen=True)
class TrainedModel:
    """The content of a model folder.

    Attributes:
        folder: The folder, `TRAINER__PLANS__CONFIGURATION`.
        folds: The folds that were read: numbers or "all".
        plans: Content of `plans.json`.
        dataset_json: Content of `dataset.json`.
        trainer_name: Class name of the trainer.
        configuration: Name of the configuration.
        mirroring_axes: Spatial axes that prediction may mirror; None for no mirroring.
        weights: State dict of the network by fold, on the CPU.
        contents: This package's content of the checkpoint by fold; empty for a checkpoint without it.
    """

    folder: Path
    folds: tuple[Fold, ...]
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    trainer_name: str
    configuration: str
    mirroring_axes: tuple[int, ...] | None
    weights: list[dict[str, Tensor]]
    contents: list[dict[str, Any]]


def read_model(folder: Path, folds: Sequence[Fold] | None, checkpoint_name: str) -> TrainedModel:
    """Read the plans, `dataset.json` and checkpoints of a model folder; the first checkpoint gives the trainer's name.

    Args:
        folder: The model folder.
        folds: Numbers or "all"; None for every numbered fold that has the checkpoint.
        checkpoint_name: File name of the checkpoints, such as `checkpoint_final.pth`.

    Raises:
        ModelFolderError: If a file is missing, unreadable, or not as nnU-Net writes it, or a fold was trained with
            other plans or labels than the folder holds.
    """
    if not folder.is_dir():
        similar = did_you_mean(folder.name, [path.parent.name for path in folder.parent.glob("*/plans.json")])
        raise ModelFolderError(
            f"{folder}: no such model folder{similar}; check dataset, trainer, plans and configuration"
        )
    plans, dataset_json = (_read_json(folder / name) for name in ("plans.json", "dataset.json"))
    chosen = _available(folder, checkpoint_name) if folds is None else tuple(folds)
    if not chosen:
        raise ModelFolderError(f"{folder}: no fold to predict with; name at least one that has {checkpoint_name}")
    paths = [folder / f"fold_{fold}" / checkpoint_name for fold in chosen]
    for path in paths:
        if not path.is_file():
            available = listed(str(fold) for fold in _available(folder, checkpoint_name)) or "none"
            similar = did_you_mean(path.name, sorted(other.name for other in path.parent.glob("*.pth")))
            raise ModelFolderError(f"{path}: no such checkpoint{similar}; numbered folds that have one: {available}")
    checkpoints = [_without_training_state(read_checkpoint(path)) for path in paths]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        _refuse_other_training(path, checkpoint["init_args"], plans, dataset_json)
    first = checkpoints[0]
    axes = first.get("inference_allowed_mirroring_axes")
    return TrainedModel(
        folder,
        chosen,
        plans,
        dataset_json,
        first["trainer_name"],
        first["init_args"]["configuration"],
        None if axes is None else tuple(axes),
        [checkpoint["network_weights"] for checkpoint in checkpoints],
        [checkpoint.get(OUR_CONTENT, {}) for checkpoint in checkpoints],
    )


def _refuse_other_training(
    path: Path, trained_with: Mapping[str, Any], plans: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint whose plans or labels differ from the plans and labels of the folder."""
    configuration = trained_with["configuration"]
    by_file: dict[str, list[Difference]] = {}
    if isinstance(trained_with.get("plans"), dict) and configuration in plans.get("configurations", {}):
        by_file["plans.json"] = plan_differences(trained_with["plans"], plans, configuration, training=False)
    if isinstance(trained_with.get("dataset_json"), dict):
        by_file["dataset.json"] = label_differences(trained_with["dataset_json"], dataset_json)
    for name, differences in by_file.items():
        if differences:
            raise ModelFolderError(
                f"{path}: was not trained with the {name} of its folder: "
                f"{described(differences, 'in the checkpoint', f'in {name}')}. Choose folds that were (-f), or put "
                f"the {name} back that this fold was trained with"
            )


def _available(folder: Path, checkpoint_name: str) -> tuple[Fold, ...]:
    numbers = [re.fullmatch(r"fold_(\d+)", path.parent.name) for path in folder.glob(f"fold_*/{checkpoint_name}")]
    return tuple(sorted(int(match[1]) for match in numbers if match))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error.strerror}); is this a model folder?") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: not a JSON file ({_one_line(error)}); copy the model again") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path}: must hold a JSON object, holds {shown(content)}; copy the model again")
    return content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net or of this package, on the CPU, executing nothing.

    Raises:
        ModelFolderError: If the file cannot be read, holds anything but weights, numbers and names, or lacks the
            weights, the trainer's name or its arguments.
    """
    checkpoint = _read_harmless(path)
    _require(checkpoint, {"network_weights": dict, "trainer_name": str, "init_args": dict}, path)
    if not isinstance(checkpoint.get(OUR_CONTENT, {}), dict):
        raise ModelFolderError(f"{path}: damaged: its {OUR_CONTENT} is no dictionary; copy the model again")
    if not isinstance(checkpoint["init_args"].get("configuration"), str):
        raise ModelFolderError(f"{path}: not a checkpoint of nnU-Net: its init_args name no configuration")
    return cast(dict[str, Any], checkpoint)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read only the weights of a network from a checkpoint, on the CPU, executing nothing.

    Raises:
        ModelFolderError: If the file cannot be read, or holds no weights as nnU-Net writes them.
    """
    checkpoint = _read_harmless(path)
    _require(checkpoint, {"network_weights": dict}, path)
    weights = checkpoint["network_weights"]
    return {name: tensor for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def _read_harmless(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises the latter two for files of any other kind
    except (pickle.UnpicklingError, LookupError, struct.error) as error:
        unsupported = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", str(error))
        damage = "it is no checkpoint, or is damaged"
        content = f"it holds {unsupported[1]}, which is no weight" if unsupported else damage
        raise ModelFolderError(f"{path}: refused, {content}; use a checkpoint as nnU-Net wrote it") from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelFolderError(f"{path}: cannot be read ({_one_line(error)}); copy the model again") from None


def _require(checkpoint: Any, keys: dict[str, type], path: Path) -> None:
    for key, kind in keys.items():
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), kind):
            raise ModelFolderError(f"{path}: not a checkpoint of nnU-Net: it has no {key}; give another checkpoint")


def _without_training_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Drop the state of the optimiser, which is as large as the weights, and the log, before the next fold is read."""
    return {key: value for key, value in checkpoint.items() if key not in ("optimizer_state", "logging")}


def _harmless_globals() -> list[Any]:
    """Return what NumPy numbers, as in nnU-Net's log, are read with: their function under both its names, and types."""
    make_scalar = np.float64(0).__reduce__()[0]
    kinds: Iterable[Any] = (np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64)
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [*((make_scalar, name) for name in names), np.dtype, *(type(np.dtype(kind)) for kind in kinds)]


def build_network(model: TrainedModel) -> nn.Module:
    """Build the network of a model, without deep supervision and with the first fold's weights.

    Raises:
        ModelFolderError: If the trainer or the configuration does not exist, or a fold's weights do not fit.
    """
    try:
        trainer = recursive_find_trainer_class_by_name(model.trainer_name)
    except RuntimeError:
        raise ModelFolderError(
            f"{model.folder}: its trainer {model.trainer_name} is not found; install the package it comes from, "
            "or name its folder in nnUNet_extTrainer (for the trainers of nnunet_mtl: `nnunet_mtl enable`)"
        ) from None
    if "plans_manager" not in signature(trainer.build_network_architecture).parameters:
        raise ModelFolderError(
            f"{model.folder}: its trainer {model.trainer_name} builds networks as nnU-Net did before 2.8; "
            "update the trainer, or predict with nnUNetv2_predict"
        )
    if model.configuration not in model.plans.get("configurations", {}):
        raise ModelFolderError(f"{model.folder / 'plans.json'}: has no configuration {shown(model.configuration)}")
    plans = PlansManager(model.plans)
    configuration = plans.get_configuration(model.configuration)
    network: nn.Module = trainer.build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, model.dataset_json),
        plans.get_label_manager(model.dataset_json).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    for fold, weights in zip(reversed(model.folds), reversed(model.weights), strict=True):
        _load(network, weights, f"{model.folder}: fold {fold}")
    return network


def _load(network: nn.Module, weights: dict[str, Tensor], place: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = _one_line(error)
        raise ModelFolderError(f"{place}: the weights do not fit the network of plans.json ({problem})") from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."
