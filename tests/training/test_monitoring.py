"""What is measured of the answers during and after training, on a real small data set."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.inference.calibration import FILE_NAME, Calibration, read_calibrations
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerSTLCls import nnUNetTrainerSTLCls
from nnunet_mtl.training.case_level import FinalValidation, answer_cases
from nnunet_mtl.training.progress import class_key

CASES = ["liver_000", "liver_001", "liver_002", "kidney_000", "kidney_001"]
CPU = torch.device("cpu")


def make(prepared: Any, cls: Any = nnUNetTrainerMTLAttention, **settings: Any) -> Any:
    plans = prepared.plans("tiny")
    plans["nnunet_mtl"]["settings"].update(settings)
    torch.manual_seed(0)
    return cls(plans, "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), CPU)


@pytest.fixture
def trainer(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    built = make(prepared, class_every=1)
    built.initialize()
    # every labelled case is validated, so that every class is there
    monkeypatch.setattr(built, "do_split", lambda: (["spleen_000"], CASES))
    return built


def answering(trainer: Any, bias: float = 0.0) -> None:
    """Give the untrained head an opinion that depends on the image."""
    head = trainer.network.classification.answers[0].perceptron.output
    with torch.no_grad():
        head.weight.normal_(std=0.05)
        head.bias.copy_(torch.tensor([0.0, bias]))


def test_cases_are_answered_as_by_the_predictor_and_training_goes_on(trainer: Any) -> None:
    answering(trainer)
    answers = answer_cases(trainer, CASES)
    assert sorted(answers) == sorted(CASES)
    for of_case in answers.values():
        assert {name: len(values) for name, values in of_case.items()} == {"malignancy": 2, "severity": 3}
        assert all(math.isclose(float(values.sum()), 1, rel_tol=1e-5) for values in of_case.values())
    assert len({round(float(of_case["malignancy"][1]), 6) for of_case in answers.values()}) == len(CASES)
    assert trainer.network.training
    assert trainer.network.decoder.deep_supervision


def test_answers_for_cases_cost_the_passes_of_their_evidence_and_are_the_same(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(trainer)
    decoded: list[int] = []
    trainer.network.decoder.transpconvs[0].register_forward_hook(lambda *_: decoded.append(1))
    few = answer_cases(trainer, CASES[:1])
    n_few = len(decoded)
    monkeypatch.setattr(type(trainer.network), "select_tasks", lambda *_: None)
    every = answer_cases(trainer, CASES[:1])
    assert len(trainer.tasks.tasks) == (len(decoded) - n_few) / n_few
    for name, values in few[CASES[0]].items():
        torch.testing.assert_close(values, every[CASES[0]][name])


def test_after_answers_for_cases_every_task_is_predicted_again(trainer: Any) -> None:
    answer_cases(trainer, CASES[:1])
    assert trainer.network.passes.selected == list(range(len(trainer.tasks.tasks)))


def test_every_metric_is_logged_once_per_epoch_and_cases_when_they_are_due(trainer: Any) -> None:
    trainer.settings.__dict__["class_every"] = 2
    trainer.num_epochs = 5
    batch = {"class/probabilities": np.full((1, 2, 2, 3), np.nan), "class/targets": np.full((1, 2, 2, 3), np.nan)}
    batch["class/probabilities"][0, :, 0, :2] = [[0.6, 0.4], [0.1, 0.9]]
    batch["class/targets"][0, :, 0, :2] = [[1, 0], [0, 1]]
    for trainer.current_epoch in range(5):
        trainer._log_answers(batch)
    log = trainer.logger.local_logger.my_fantastic_logging
    assert log[class_key("malignancy", "patch_auc")] == [1.0] * 5
    curve = np.array(log[class_key("malignancy", "auc")])
    assert np.isnan(curve).tolist() == [True, False, True, False, False]  # every second epoch, and the last
    gap = np.array(log[class_key("malignancy", "gap")])
    np.testing.assert_array_equal(gap, 1.0 - curve)
    assert all(math.isnan(value) for value in log[class_key("severity", "patch_auc")])


def test_a_collapse_is_reported(trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answering(trainer, bias=100.0)
    trainer._score_cases()
    text = capsys.readouterr().out
    assert "WARNING: the answer to malignancy has collapsed" in text
    assert "Answers to malignancy in 5 validation cases: auc" in text
    with torch.no_grad():
        trainer.network.classification.answers[0].perceptron.output.bias.zero_()
    answering(trainer)
    trainer.image_level.case_scores = lambda answers: {}
    trainer._score_cases()
    assert "WARNING" not in capsys.readouterr().out


def test_the_best_checkpoint_mixes_dice_and_answers(trainer: Any) -> None:
    def score(auc: list[float], severity: list[float]) -> float:
        log = trainer.logger.local_logger.my_fantastic_logging
        log["ema_fg_dice"] = [0.1, 0.8]
        log[class_key("malignancy", "auc")] = auc
        log[class_key("severity", "auc")] = severity
        return float(trainer.selection_score())

    nan = math.nan
    assert math.isclose(score([nan, nan], [nan, nan]), 0.7 * 0.8)
    assert math.isclose(score([0.9, nan], [nan, nan]), 0.7 * 0.8 + 0.3 * (0.8 + 0) / 2)
    assert math.isclose(score([0.9, 1.0], [0.2, 0.75]), 0.7 * 0.8 + 0.3 * (1 + 0.5) / 2)


def test_a_trainer_of_the_questions_alone_is_chosen_by_them(prepared: Any, trainer: Any) -> None:
    alone = make(prepared, nnUNetTrainerSTLCls)
    log = alone.logger.local_logger.my_fantastic_logging
    log["ema_fg_dice"] = [0.8]
    log[class_key("malignancy", "auc")], log[class_key("severity", "auc")] = [0.9], [0.6]
    assert math.isclose(alone.selection_score(), (0.8 + 0.2) / 2)
    assert [question["evidence"] for question in alone.image_level.questions] == [-1, -1]


def test_the_calibration_of_the_final_validation_is_stored_with_the_model(trainer: Any) -> None:
    heard = FinalValidation(trainer, CASES)
    logits = {"liver_000": -3.0, "liver_001": 2.0, "liver_002": 4.0, "kidney_000": 1.0, "kidney_001": 3.0}
    for case in sorted(logits):  # nnU-Net's order
        value = logits[case]
        pair = {"malignancy": torch.tensor([0.0, value], dtype=torch.float64), "severity": torch.zeros(2)}
        heard._heard.append((pair, pair))
    fold = Path(trainer.output_folder)
    fitted = heard.calibrate(trainer.image_level.labels, fold, "checkpoint_final.pth")
    assert fitted == {"malignancy": 5, "severity": 0}
    stored = read_calibrations(fold, trainer.tasks.classification, "checkpoint_final.pth")
    assert (fold / FILE_NAME).is_file()
    # benign at -3 and 1, malignant at 2, 3 and 4: the threshold lies between 1 and 2
    temperature = stored["malignancy"].temperature
    low, high = (1 / (1 + math.exp(-value / temperature)) for value in (1.0, 2.0))
    assert low < stored["malignancy"].thresholds[0] < high
    assert stored["severity"] == Calibration.default(trainer.tasks.classification[1], 5)
