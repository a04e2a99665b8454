import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention


class Scored(nnUNetTrainerMTLNoAttention):
    """The best checkpoint has the highest of the scores given."""

    scores: list[float]

    def selection_score(self) -> float:
        return self.scores[self.current_epoch]


@pytest.fixture
def trainer(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scored:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    built = Scored(prepared.plans("tiny"), "3d_fullres", 0, prepared.dataset_json, torch.device("cpu"))
    built.initialize()
    return built


def end_epoch(trainer: Any, dice: float) -> bool:
    """Finish an epoch with this pseudo Dice; whether it became the best checkpoint."""
    best = Path(trainer.output_folder, "checkpoint_best.pth")
    best.unlink(missing_ok=True)
    trainer.on_epoch_start()
    for key, value in (("train_losses", 0.0), ("val_losses", 0.0), ("mean_fg_dice", dice)):
        trainer.logger.log(key, value, trainer.current_epoch)
    trainer.logger.log("dice_per_class_or_region", [dice] * 5, trainer.current_epoch)
    trainer.on_epoch_end()
    return best.is_file()


def test_the_best_checkpoint_follows_the_score_and_not_the_dice(trainer: Scored) -> None:
    trainer.scores = [0.5, 0.4, 0.6, 0.6]
    assert [end_epoch(trainer, dice) for dice in (0.1, 0.9, 0.0, 1.0)] == [True, False, True, False]


def test_the_best_score_survives_a_restart(trainer: Scored, tmp_path: Path) -> None:
    trainer.scores = [0.5, 0.2, 0.4, 0.6]
    end_epoch(trainer, 0.1)
    end_epoch(trainer, 0.1)  # the score that is stored is the best one, and nothing that marks an epoch that was not
    path = str(tmp_path / "checkpoint.pth")
    trainer.save_checkpoint(path)
    trainer.checkpoints.best_score = None
    trainer.load_checkpoint(path)
    trainer.current_epoch = 2
    assert trainer._best_ema == 0.5
    assert [end_epoch(trainer, 0.1), end_epoch(trainer, 0.1)] == [False, True]


def test_the_log_is_finite_whatever_was_compared(trainer: Scored, tmp_path: Path) -> None:
    trainer.save_every = 1
    trainer.scores = [0.5, 0.2]
    end_epoch(trainer, 0.1)
    end_epoch(trainer, 0.1)
    latest = Path(trainer.output_folder, "checkpoint_latest.pth")
    assert math.isclose(torch.load(latest, weights_only=False)["_best_ema"], 0.5)


def test_the_file_of_the_weights_that_are_validated(trainer: Scored, tmp_path: Path) -> None:
    trainer.scores = [0.5]
    assert trainer.checkpoints.file is None
    assert not trainer.checkpoints.add({"answer": 42}, rank=0)
    final, best = (tmp_path / f"checkpoint_{name}.pth" for name in ("final", "best"))
    trainer.save_checkpoint(str(final))
    trainer.save_checkpoint(str(best))
    assert trainer.checkpoints.file == best
    trainer.load_checkpoint(str(final))
    assert trainer.checkpoints.file == final
    assert trainer.checkpoints.add({"answer": 42}, rank=0)
    taught = {"taught": ["malignancy", "severity"]}
    assert [torch.load(path, weights_only=False)["nnunet_mtl"] for path in (final, best)] == [
        {**taught, "answer": 42},
        taught,
    ]


def test_a_checkpoint_with_more_content_continues_the_training(trainer: Scored, tmp_path: Path) -> None:
    trainer.scores = [0.5, 0.2]
    end_epoch(trainer, 0.1)
    path = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(path))
    weights = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.checkpoints.add({"answer": 42}, rank=0)
    for parameter in trainer.network.parameters():
        parameter.data.zero_()
    trainer.current_epoch, trainer.checkpoints.best_score = 0, None
    trainer.load_checkpoint(str(path))
    assert (trainer.current_epoch, trainer.checkpoints.best_score) == (2, 0.5)
    assert all(torch.equal(value, weights[name]) for name, value in trainer.network.state_dict().items())


def test_torch_saves_as_before_once_a_checkpoint_is_written(trainer: Scored, tmp_path: Path) -> None:
    save = torch.save
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert torch.save is save
