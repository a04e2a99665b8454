"""Exports a fitted probe as the classification head of a model folder that predicts like any other model folder."""

import copy
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.common.files import write_json
from nnunet_mtl.common.messages import listed, shown
from nnunet_mtl.inference.calibration import TAUGHT
from nnunet_mtl.inference.model_folder import OUR_CONTENT, TrainedModel, build_network
from nnunet_mtl.lab.probe.features import Source, quiet
from nnunet_mtl.lab.probe.fit import LinearProbe
from nnunet_mtl.lab.probe.folds import Fold, ProbeError
from nnunet_mtl.networks.architecture import family_of, multitask_architecture
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.planning.plans import check_plans_name
from nnunet_mtl.tasks import TaskSet, without_cases
from nnunet_mtl.training.image_level import questions_of
from nnunet_mtl.training.scheduled_trainer import settings_in

PROBE_HEAD = "nnunet_mtl.networks.probe_head.ProbeHead"
# Arguments, besides the parts, that an exported network of this package keeps: argument and key in the plans.
KEPT = {"head": "segmentation_head"} | {
    name: name for name in ("head_options", "gates", "method_options", "regressions")
}
_STOCK_BECOMES = "nnUNetTrainerMTLNoAttention"
_CHECKPOINT = "checkpoint_final.pth"


def export_folder(source: Source, name: str) -> Path:
    """Return the folder that an export of this name writes.

    Args:
        source: The probed model.
        name: Name of the new plans.

    Raises:
        ProbeError: If the model cannot be exported, or the folder exists.
        PlanningError: If the name is not allowed.
    """
    model = source.model
    if not source.outputs.has_regions:
        raise ProbeError(
            f"--export: {model.folder.name} segments labels (softmax), and our networks regions; the report does "
            "without --export, an export needs a model that was trained on regions"
        )
    with quiet():
        built_by = recursive_find_trainer_class_by_name(model.trainer_name).build_network_architecture
    if not source.ours and built_by is not nnUNetTrainer.build_network_architecture:
        raise ProbeError(
            f"--export: {model.trainer_name} builds its network in a way of its own, which the plans do not tell; the "
            "report does without --export"
        )
    others = [path.name.split("__")[1] for path in model.folder.parent.glob("*__*__*")]
    check_plans_name(name, f"--export {shown(name)}", others)
    trainer = model.trainer_name if source.ours else _STOCK_BECOMES
    folder = model.folder.parent / f"{trainer}__{name}__{model.configuration}"
    if folder.exists():
        raise ProbeError(f"{folder}: is there already; give another name to --export")
    return folder


def export(source: Source, name: str, probes: Mapping[Fold, Mapping[str, LinearProbe]]) -> Path:
    """Write the model folder completely or not at all; the segmentations of the model do not change.

    Args:
        source: The probed model.
        name: Name of the new plans.
        probes: Probes by fold and by question; a probe was fitted on the features of the fold's network.

    Returns:
        The written folder.

    Raises:
        ProbeError: As `export_folder`, or if the folder cannot be written.
    """
    folder = export_folder(source, name)
    dataset_json = _dataset_json(source)
    exported = dataclasses.replace(
        source.model,
        folder=folder,
        folds=(),
        plans=_plans(source, name, dataset_json),
        dataset_json=dataset_json,
        trainer_name=folder.name.partition("__")[0],
        weights=[],
        contents=[],
    )
    aside = folder.with_name(f".{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        write_json(aside / "plans.json", exported.plans)
        write_json(aside / "dataset.json", dataset_json)
        for fold, fold_probes in probes.items():
            checkpoint = {
                "network_weights": _weights(source, exported, fold, fold_probes),
                "trainer_name": exported.trainer_name,
                "init_args": {
                    "plans": exported.plans,
                    "configuration": exported.configuration,
                    "fold": fold,
                    "dataset_json": dataset_json,
                },
                "inference_allowed_mirroring_axes": exported.mirroring_axes,
                OUR_CONTENT: {TAUGHT: list(fold_probes)},
            }
            (aside / f"fold_{fold}").mkdir()
            torch.save(checkpoint, aside / f"fold_{fold}" / _CHECKPOINT)
        aside.rename(folder)
    except OSError as error:
        raise ProbeError(f"{folder}: cannot be written ({error.strerror}); the report is there all the same") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _dataset_json(source: Source) -> dict[str, Any]:
    """Return the model's `dataset.json` with the probed questions; evidence has the name of the model's label."""
    questions = {}
    for question in source.questions:
        channels = source.channels.get(question.name)
        evidence = None if channels is None else source.outputs.regions[channels[0]]
        questions[question.name] = dataclasses.replace(question, evidence=evidence).to_json()
    block = {**source.outputs.compact(), "classification": questions}
    return without_cases(source.model.dataset_json) | {"nnunet_mtl": block}


def _plans(source: Source, name: str, dataset_json: dict[str, Any]) -> dict[str, Any]:
    model = source.model
    plans = copy.deepcopy(model.plans)
    tasks = TaskSet.from_dataset_json(dataset_json, f"{model.folder / 'dataset.json'} with the questions")
    # probes are fitted on the mean over patches, weighted by their evidence
    settings = dataclasses.replace(settings_in(plans), class_combination="mean")
    resolved = PlansManager(plans).get_configuration(model.configuration).configuration
    kept = resolved["architecture"]["arch_kwargs"] if source.ours else {}
    family = family_of(resolved["architecture"]["network_class_name"])
    plans["configurations"][model.configuration]["architecture"] = multitask_architecture(
        resolved["architecture"],
        layout=Layout.from_tasks(tasks),
        patch_size=resolved["patch_size"],
        family=family,
        parts={point: kept[point] for point in family.points if point in kept},
        **{argument: kept[key] for argument, key in KEPT.items() if key in kept},
        questions=questions_of(tasks),
        classification=PROBE_HEAD,
    )
    plans["plans_name"] = name
    plans["nnunet_mtl"] = {**tasks.compact(), "settings": settings.to_mapping()}
    return plans


def _weights(
    source: Source, exported: TrainedModel, fold: Fold, probes: Mapping[str, LinearProbe]
) -> dict[str, torch.Tensor]:
    model = source.model
    with quiet():
        network: Any = build_network(exported)
    old = model.weights[model.folds.index(fold)]
    body = {key: value for key, value in old.items() if not key.startswith("classification.")}
    missing, unexpected = network.load_state_dict(body, strict=False)
    strange = [*unexpected, *(key for key in missing if not key.startswith("classification."))]
    if strange:
        raise ProbeError(f"{model.folder}: fold {fold}: weights without a place in our network: {listed(strange)}")
    for question, answer in zip(network.classification.questions, network.classification.answers, strict=True):
        probe = probes[question["name"]]
        answer.load(*(torch.from_numpy(part) for part in (probe.mean, probe.var, probe.weight, probe.bias)))
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights
