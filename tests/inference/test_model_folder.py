import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_mtl.inference.model_folder import ModelFolderError, build_network, read_checkpoint, read_model

MakeModel = Callable[..., Any]
FINAL = "checkpoint_final.pth"


def refused(folder: Path, folds: Any = None) -> str:
    """The message, on one line, with which reading or building a model is refused."""
    with pytest.raises(ModelFolderError) as error:
        build_network(read_model(folder, folds, FINAL))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(folder))
    return message.removeprefix(str(folder))


@pytest.fixture
def model_folder(tiny_model: MakeModel, tmp_path: Path) -> Path:
    folder: Path = tiny_model(axes=None).write(tmp_path / "model")
    return folder


def rewrite(path: Path, **changes: Any) -> None:
    checkpoint = torch.load(path, weights_only=False)
    torch.save({key: value for key, value in (checkpoint | changes).items() if value is not ...}, path)


# ---- nothing is executed


class Trap:
    """Makes a folder when it is read as a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("key", ["network_weights", "logging", "init_args", "anything"])
def test_code_in_a_checkpoint_is_refused_and_not_executed(model_folder: Path, tmp_path: Path, key: str) -> None:
    trace = tmp_path / "executed"
    path = model_folder / "fold_0" / FINAL
    rewrite(path, **{key: {"x": Trap(trace)}})
    assert "fold_0/checkpoint_final.pth: refused, it holds posix.mkdir, which is no weight" in refused(model_folder)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the trap would have worked


class Foreign:
    """A harmless class that no network needs."""


def test_objects_of_other_classes_are_refused_by_name(model_folder: Path) -> None:
    rewrite(model_folder / "fold_0" / FINAL, logging=Foreign())
    name = f"{Foreign.__module__}.Foreign"
    assert refused(model_folder).startswith(f"/fold_0/{FINAL}: refused, it holds {name}, which is no weight")


def test_the_allow_list_is_not_left_behind(model_folder: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(model_folder / "fold_0" / FINAL)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("kind", [np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64])
def test_numbers_of_numpy_are_read(model_folder: Path, kind: Any) -> None:
    path = model_folder / "fold_0" / FINAL
    rewrite(path, _best_ema=kind(1))
    found = read_checkpoint(path)["_best_ema"]
    assert type(found) is kind
    assert found == 1


def test_numbers_of_numpy_1_are_read(model_folder: Path, tmp_path: Path) -> None:
    new = b"numpy._core.multiarray"
    with (
        zipfile.ZipFile(model_folder / "fold_0" / FINAL) as source,
        zipfile.ZipFile(tmp_path / "numpy_1.pth", "w") as target,
    ):
        assert any(new in source.read(name) for name in source.namelist())
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(new, b"numpy.core.multiarray"))
    assert read_checkpoint(tmp_path / "numpy_1.pth")["_best_ema"] == 0.5


# ---- what nnU-Net's own trainers write


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerMTLAttention"])
def test_checkpoints_of_real_trainers_are_read(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: str
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    written = get_trainer_from_args("900", "3d_fullres", 0, trainer, "tiny", device=torch.device("cpu"))
    written.initialize()
    for epoch in range(2):
        for key, value in (("mean_fg_dice", np.float64(0.5)), ("dice_per_class_or_region", [np.float32(0.5)])):
            written.logger.log(key, value, epoch)
    folder = Path(written.output_folder_base)
    for name, content in (("plans.json", written.plans_manager.plans), ("dataset.json", written.dataset_json)):
        (folder / name).write_text(json.dumps(content))
    written.save_checkpoint(str(folder / "fold_0" / FINAL))
    model = read_model(folder, None, FINAL)
    assert (model.trainer_name, model.configuration, model.folds) == (trainer, "3d_fullres", (0,))
    expected = torch.load(folder / "fold_0" / FINAL, weights_only=False)
    assert model.mirroring_axes == expected["inference_allowed_mirroring_axes"]
    found = build_network(model).state_dict()
    assert list(found) == list(expected["network_weights"])
    assert all(torch.equal(found[name], expected["network_weights"][name]) for name in found)


# ---- what is missing or damaged


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == ": no such model folder; check dataset, trainer, plans and configuration"


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); is this a model folder?"),
        ("{", "not a JSON file (Expecting property name"),
        ("[]", "must hold a JSON object, holds an empty list"),
        (b"\xff\xfe\x00", "not a JSON file ("),
    ],
)
def test_json_files_that_are_missing_or_damaged(
    model_folder: Path, name: str, content: str | bytes | None, message: str
) -> None:
    path = model_folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(model_folder).startswith(f"/{name}: {message}")


def test_folds_that_are_not_there(model_folder: Path) -> None:
    no_checkpoint = "/fold_3/checkpoint_final.pth: no such checkpoint; numbered folds that have one: 0, 1"
    assert refused(model_folder, [0, 3]) == no_checkpoint
    assert refused(model_folder, []).startswith(": no fold to predict with")
    (model_folder / "fold_0" / FINAL).unlink()
    assert refused(model_folder, [0]).endswith("have one: 1")
    (model_folder / "fold_1").rename(model_folder / "fold_all")
    assert refused(model_folder, [0]).endswith("have one: none")
    assert refused(model_folder) == ": no fold to predict with; name at least one that has checkpoint_final.pth"


def test_folders_that_are_no_folds_are_not_looked_at(model_folder: Path) -> None:
    (model_folder / "fold_0").rename(model_folder / "fold_0_old")
    (model_folder / "fold_1").rename(model_folder / "fold_10")
    assert read_model(model_folder, None, FINAL).folds == (10,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": cannot be read ("),
        (b"no checkpoint at all", ": refused, it is no checkpoint, or is damaged"),
        (b"hi\n", ": refused, it is no checkpoint, or is damaged"),
        (b".", ": refused, it is no checkpoint, or is damaged"),
        (b"J\x01", ": refused, it is no checkpoint, or is damaged"),
        (b"PK\x03\x04 half an archive", ": cannot be read ("),
    ],
)
def test_files_that_are_no_checkpoints(model_folder: Path, content: bytes, message: str) -> None:
    (model_folder / "fold_1" / FINAL).write_bytes(content)
    assert refused(model_folder).startswith(f"/fold_1/checkpoint_final.pth{message}")


def test_half_a_checkpoint(model_folder: Path) -> None:
    path = model_folder / "fold_0" / FINAL
    path.write_bytes(path.read_bytes()[:3000])
    assert refused(model_folder).startswith("/fold_0/checkpoint_final.pth: cannot be read (")


@pytest.mark.parametrize("key", ["network_weights", "trainer_name", "init_args"])
@pytest.mark.parametrize("value", [..., 3])
def test_checkpoints_of_something_else(model_folder: Path, key: str, value: Any) -> None:
    rewrite(model_folder / "fold_0" / FINAL, **{key: value})
    message = f"/fold_0/checkpoint_final.pth: not a checkpoint of nnU-Net: it has no {key}; give another checkpoint"
    assert refused(model_folder) == message


def test_a_checkpoint_without_a_configuration(model_folder: Path) -> None:
    rewrite(model_folder / "fold_0" / FINAL, init_args={})
    assert refused(model_folder).endswith("its init_args name no configuration")
    rewrite(model_folder / "fold_0" / FINAL, init_args={"configuration": "other"})
    assert refused(model_folder) == "/plans.json: has no configuration 'other'"


def test_a_trainer_that_is_not_found(model_folder: Path) -> None:
    rewrite(model_folder / "fold_0" / FINAL, trainer_name="nnUNetTrainerOfSomebody")
    message = refused(model_folder)
    assert message.startswith(": its trainer nnUNetTrainerOfSomebody is not found; install")
    assert "nnunet_mtl enable" in message


OLD_TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerOld(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(name, kwargs, imported, inputs, outputs, enable_deep_supervision=True):
        raise NotImplementedError
"""


def test_a_trainer_that_builds_networks_as_nnunet_once_did(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "old_trainer.py").write_text(OLD_TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    rewrite(model_folder / "fold_0" / FINAL, trainer_name="nnUNetTrainerOld")
    assert refused(model_folder).startswith(": its trainer nnUNetTrainerOld builds networks as nnU-Net did before 2.8;")


# ---- a fold that was trained with something else


def edit(path: Path, *keys: str, value: Any) -> None:
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_a_fold_of_other_plans_is_refused_with_the_difference(model_folder: Path) -> None:
    features = ("configurations", "tiny", "architecture", "arch_kwargs", "features_per_stage")
    edit(model_folder / "plans.json", *features, value=[4, 4, 8])
    message = refused(model_folder)
    assert message.startswith("/fold_0/checkpoint_final.pth: was not trained with the plans.json of its folder: ")
    assert "features_per_stage is [4, 4, 6] in the checkpoint and [4, 4, 8] in plans.json. " in message
    edit(model_folder / "plans.json", *features, value=[4, 4, 6])
    edit(model_folder / "plans.json", "configurations", "tiny", "spacing", value=[1.0, 1.0, 2.0])  # the weights fit
    assert "tiny.spacing is missing in the checkpoint and [1.0, 1.0, 2.0] in plans.json" in refused(model_folder)


def test_the_fold_is_named_and_the_others_can_be_chosen(model_folder: Path) -> None:
    path = model_folder / "fold_1" / FINAL
    arguments = torch.load(path, weights_only=False)["init_args"]
    plans = json.loads(json.dumps(arguments["plans"]))
    plans["configurations"]["tiny"]["patch_size"] = [4, 4, 4]
    rewrite(path, init_args=arguments | {"plans": plans})
    assert refused(model_folder).startswith("/fold_1/checkpoint_final.pth: was not trained with the plans.json")
    assert read_model(model_folder, [0], FINAL).folds == (0,)


def test_a_fold_of_other_labels_is_refused_with_the_difference(model_folder: Path) -> None:
    edit(model_folder / "dataset.json", "labels", "kidney", value=[4, 4])
    assert "dataset.json of its folder: labels.kidney is [3, 3] in the checkpoint and [4, 4] in" in refused(
        model_folder
    )


def test_what_training_alone_reads_may_differ_and_a_checkpoint_without_plans_is_read(model_folder: Path) -> None:
    edit(model_folder / "plans.json", "configurations", "tiny", "batch_size", value=7)
    edit(model_folder / "plans.json", "nnunet_mtl", "settings", "epochs", value=7)
    build_network(read_model(model_folder, None, FINAL))
    rewrite(model_folder / "fold_0" / FINAL, init_args={"configuration": "tiny"})
    build_network(read_model(model_folder, None, FINAL))


def test_weights_of_another_network(model_folder: Path) -> None:
    rewrite(model_folder / "fold_1" / FINAL, network_weights=OrderedDict(x=torch.zeros(1)))
    message = refused(model_folder)
    assert message.startswith(": fold 1: the weights do not fit the network of plans.json (")
    assert len(message) < 300
