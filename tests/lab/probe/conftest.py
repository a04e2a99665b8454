"""Small real models of the prepared data set, as nnU-Net's trainers leave them, without their training."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.trainers.nnUNetTrainerACSNet import nnUNetTrainerACSNet
from nnunet_mtl.trainers.nnUNetTrainerHPS import nnUNetTrainerHPS
from nnunet_mtl.trainers.nnUNetTrainerMTAN import nnUNetTrainerMTAN
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerSTLCls import nnUNetTrainerSTLCls

JOINT = (nnUNetTrainerACSNet, nnUNetTrainerHPS, nnUNetTrainerMTAN)
TRAINERS: dict[str, Any] = {
    cls.__name__: cls for cls in (nnUNetTrainer, nnUNetTrainerMTLAttention, nnUNetTrainerSTLCls, *JOINT)
}
SOFTMAX = {"background": 0, "liver": 1, "liver_tumour": 2, "kidney": 3, "kidney_tumour": 4, "spleen": 5}
VALIDATED = (
    ["liver_000", "liver_001", "kidney_002", "kidney_003", "spleen_000", "spleen_001"],
    ["liver_002", "liver_003", "kidney_000", "kidney_001", "spleen_002", "spleen_003"],
)


@pytest.fixture
def data(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The preprocessed folder of a copy of the data set with two folds; results are empty."""
    folder: Path = tmp_path / "preprocessed" / prepared.preprocessed.name
    folder.mkdir(parents=True)
    for path in prepared.preprocessed.iterdir():
        if path.name not in ("dataset.json", "splits_final.json"):
            (folder / path.name).symlink_to(path)
    (folder / "dataset.json").write_text(json.dumps(prepared.dataset_json))
    splits = [{"train": list(VALIDATED[1 - fold]), "val": list(VALIDATED[fold])} for fold in range(2)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)  # threads cost more than they bring
    return folder


@pytest.fixture(scope="session")
def models(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model folder with random weights, once; see `trained`."""
    root = tmp_path_factory.mktemp("models")

    @cache
    def made(trainer: str, plans: str, configuration: str, folds: tuple[int, ...], labels: str) -> Path:
        dataset_json = json.loads(json.dumps(prepared.dataset_json))
        if labels == "softmax":
            dataset_json["labels"] = SOFTMAX
            del dataset_json["regions_class_order"]
        if labels != "block":
            del dataset_json["nnunet_mtl"]
        for fold in folds:
            torch.manual_seed(fold)
            run = TRAINERS[trainer](prepared.plans(plans), configuration, fold, dataset_json, torch.device("cpu"))
            run.initialize()
            with torch.no_grad():
                for parameter in run.network.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            folder = Path(run.output_folder_base)
            (folder / "plans.json").write_text(json.dumps(run.plans_manager.plans))
            (folder / "dataset.json").write_text(json.dumps(run.dataset_json))
            run.save_checkpoint(str(Path(run.output_folder) / "checkpoint_final.pth"))
        kept = root / f"{labels}_{len(folds)}" / folder.name
        return Path(shutil.copytree(folder, kept))

    return made


@pytest.fixture
def trained(models: Callable[..., Path], data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Puts a model folder with random weights into the results.

    Its `dataset.json` has regions and the task block ("block"), regions only, or labels without the block ("softmax").
    """

    def trained(
        trainer: str = "nnUNetTrainerMTLAttention",
        plans: str = "tiny",
        configuration: str = "3d_fullres",
        folds: tuple[int, ...] = (0,),
        labels: str = "block",
    ) -> Path:
        kept = models(trainer, plans, configuration, folds, labels)
        folder = tmp_path / "results" / data.name / kept.name
        return Path(shutil.copytree(kept, folder, dirs_exist_ok=True))

    return trained
