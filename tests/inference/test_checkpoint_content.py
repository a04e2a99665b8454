"""Content of this package inside checkpoint files, which stay what nnU-Net writes and reads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.inference.checkpoint_content import add_to_checkpoint
from nnunet_mtl.inference.model_folder import ModelFolderError, read_checkpoint, read_model

MakeModel = Callable[..., Any]
FINAL = "checkpoint_final.pth"


@pytest.fixture
def path(tiny_model: MakeModel, tmp_path: Path) -> Path:
    return Path(tiny_model(folds=1).write(tmp_path / "model") / "fold_0" / FINAL)


def test_content_is_added_and_everything_else_stays(path: Path) -> None:
    before = torch.load(path, weights_only=False)
    add_to_checkpoint(path, {"taught": ["stage"], "numbers": {"a": [0.5, 1], "b": torch.ones(2)}})
    add_to_checkpoint(path, {"taught": ["signs"]})
    after = read_checkpoint(path)
    added = after.pop("nnunet_mtl")
    assert added["taught"] == ["signs"]
    assert added["numbers"]["a"] == [0.5, 1]
    assert torch.equal(added["numbers"]["b"], torch.ones(2))
    assert list(after) == list(before)
    for name, weight in before.pop("network_weights").items():
        assert torch.equal(after["network_weights"][name], weight)
    assert {name: after[name] for name in before} == before
    (content,) = read_model(path.parents[1], None, FINAL).contents
    assert list(content) == ["taught", "numbers"]
    assert os.listdir(path.parent) == [FINAL]


def test_nnunet_predicts_with_the_checkpoint_as_before(path: Path) -> None:
    def logits() -> torch.Tensor:
        stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(path.parents[1]), (0,))
        image = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        found: torch.Tensor = stock.predict_logits_from_preprocessed_data(image)
        return found

    before = logits()
    add_to_checkpoint(path, {"taught": ["stage"]})
    assert torch.equal(logits(), before)


def test_a_checkpoint_that_cannot_be_written_stays_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(checkpoint: Any, file: Any) -> None:
        file.write(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed\nwriting file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ModelFolderError, match="cannot be written anew") as error:
        add_to_checkpoint(path, {"taught": []})
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [FINAL]


def test_a_link_keeps_its_place(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.pth"
    link.symlink_to(path)
    add_to_checkpoint(link, {"taught": ["stage"]})
    assert link.is_symlink()
    assert read_checkpoint(path)["nnunet_mtl"] == {"taught": ["stage"]}


def test_what_is_no_checkpoint_is_refused(path: Path) -> None:
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelFolderError):
        add_to_checkpoint(path, {"taught": []})
    assert path.read_bytes() == b"no checkpoint"


def test_content_that_is_no_dictionary_is_refused(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, "nnunet_mtl": [1]}, path)
    with pytest.raises(ModelFolderError, match="nnunet_mtl is no dictionary"):
        read_checkpoint(path)
