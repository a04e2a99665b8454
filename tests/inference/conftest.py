"""Small real models as nnU-Net keeps them: plans, `dataset.json` and a checkpoint for each fold, without training."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_mtl.discovery import shim_folder
from nnunet_mtl.losses.classification import n_outputs
from nnunet_mtl.networks.architecture import multitask_architecture
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings

LABELS = {"background": 0, "liver": [1, 2], "liver_tumour": [2], "kidney": [3, 3]}
BLOCK = {
    "version": 1,
    "tasks": {"liver": {"regions": ["liver", "liver_tumour"]}, "kidney": {"regions": ["kidney"]}},
    "classification": {
        "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"},
        "stage": {"kind": "ordinal", "classes": ["I", "II", "III"], "evidence": "kidney"},
        "signs": {"kind": "multilabel", "classes": ["fat", "blood", "pus"]},
    },
}


@dataclass(frozen=True)
class TinyModel:
    """A model that was never trained: patches of 8 voxels a side; `weights` are one state dict per fold."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    weights: list[dict[str, torch.Tensor]]
    trainer_name: str
    axes: tuple[int, ...] | None

    def network(self) -> nn.Module:
        """Build the network as nnU-Net does when it predicts."""
        manager = PlansManager(deepcopy(self.plans))
        network: nn.Module = nnUNetTrainer.build_network_architecture(
            manager, manager.get_configuration("tiny"), 1, 3, enable_deep_supervision=False
        )
        return network

    def checkpoint(self, fold: int) -> dict[str, Any]:
        """Return what nnU-Net's trainer writes."""
        optimizer = torch.optim.SGD([nn.Parameter(self.weights[fold]["decoder.seg_layers.0.bias"])], 0.1, momentum=0.9)
        return {
            "network_weights": self.weights[fold],
            "optimizer_state": optimizer.state_dict(),
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5)], "epochs": [np.int64(1), np.float32(2)], "lrs": [0.1]},
            "_best_ema": np.float64(0.5),
            "current_epoch": 2,
            "init_args": {
                "plans": self.plans,
                "configuration": "tiny",
                "fold": fold,
                "dataset_json": self.dataset_json,
                "device": torch.device("cpu"),
            },
            "trainer_name": self.trainer_name,
            "inference_allowed_mirroring_axes": self.axes,
        }

    def write(self, folder: Path) -> Path:
        """Write the model folder."""
        folder.mkdir()
        (folder / "plans.json").write_text(json.dumps(self.plans))
        (folder / "dataset.json").write_text(json.dumps(self.dataset_json))
        for fold in range(len(self.weights)):
            (folder / f"fold_{fold}").mkdir()
            torch.save(self.checkpoint(fold), folder / f"fold_{fold}" / "checkpoint_final.pth")
        return folder


def _stock_architecture(dimensions: int) -> dict[str, Any]:
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [4, 4, 6],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * 3,
            "strides": [[1] * dimensions] + [[2] * dimensions] * 2,
            "n_conv_per_stage": [1] * 3,
            "n_conv_per_stage_decoder": [1] * 2,
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _questions(tasks: TaskSet) -> list[dict[str, Any]]:
    described = []
    for question in tasks.classification:
        region = tasks.regions.index(question.evidence) if question.evidence else -1
        described.append(
            {
                "name": question.name,
                "outputs": n_outputs(question.kind, len(question.classes)),
                "evidence": region,
                "task": tasks.task_of_region[region] if region >= 0 else -1,
            }
        )
    return described


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TinyModel]:
    """Makes models; `head` None is one of ours without a classification head, `stock` one of nnU-Net's own."""
    monkeypatch.setenv("nnUNet_extTrainer", str(shim_folder()))

    def tiny_model(
        *,
        stock: bool = False,
        head: str | None = "EvidenceHead",
        dimensions: int = 3,
        folds: int = 2,
        axes: tuple[int, ...] | None = (0, 2),
        **settings: Any,
    ) -> TinyModel:
        dataset_json: dict[str, Any] = {
            "channel_names": {"0": "CT"},
            "labels": LABELS,
            "regions_class_order": [1, 2, 3],
            "file_ending": ".nii.gz",
            "nnunet_mtl": BLOCK,
        }
        architecture = _stock_architecture(dimensions)
        plans: dict[str, Any] = {"dataset_name": "Dataset900_Tiny", "plans_name": "tiny"}
        if not stock:
            tasks = TaskSet.from_dataset_json(dataset_json)
            architecture = multitask_architecture(
                architecture,
                layout=Layout.from_tasks(tasks),
                patch_size=[8] * dimensions,
                parts={"task_attention": "nnunet_mtl.networks.attention.TaskGuidedAttention"},
                questions=_questions(tasks) if head else [],
                classification=f"nnunet_mtl.networks.classification.{head or 'NoClassification'}",
            )
            plans["nnunet_mtl"] = {**tasks.compact(), "settings": Settings(**settings).to_mapping()}
        plans["configurations"] = {
            "tiny": {"patch_size": [8] * dimensions, "architecture": architecture, "data_identifier": "tiny"}
        }
        name = "nnUNetTrainer" if stock else "nnUNetTrainerMTLAttention"
        model = TinyModel(plans, dataset_json, [], name, axes)
        for fold in range(folds):
            model.weights.append(_random_weights(model.network(), fold))
        return model

    return tiny_model


def _random_weights(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return {name: value.clone() for name, value in network.state_dict().items()}
