"""What is measured of the answers during and after training, on a real small data set."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.inference.calibration import Calibration, read_calibrations
from nnunet_mtl.inference.model_folder import read_checkpoint
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerSTLCls import nnUNetTrainerSTLCls
from nnunet_mtl.training.case_answers import answer_cases, score_labelled_cases
from nnunet_mtl.training.final_validation import FinalValidation
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
    batch = {"class/probabilities": np.full((1, 2, 2, 3), np.nan), "class/targets": np.full((1, 2, 2, 3), np.nan)}
    batch["class/probabilities"][0, :, 0, :2] = [[0.6, 0.4], [0.1, 0.9]]
    batch["class/targets"][0, :, 0, :2] = [[1, 0], [0, 1]]
    for epoch in range(5):
        trainer.monitor.answers.log(batch, epoch, 5, lambda: score_labelled_cases(trainer))
    log = trainer.logger.local_logger.my_fantastic_logging
    assert log[class_key("malignancy", "patch_auc")] == [1.0] * 5
    curve = np.array(log[class_key("malignancy", "auc")])
    assert np.isnan(curve).tolist() == [True, False, True, False, False]  # every second epoch, and the last
    gap = np.array(log[class_key("malignancy", "gap")])
    np.testing.assert_array_equal(gap, 1.0 - curve)
    assert all(math.isnan(value) for value in log[class_key("severity", "patch_auc")])


def test_a_collapse_is_reported(trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answering(trainer, bias=100.0)
    score_labelled_cases(trainer)
    text = capsys.readouterr().out
    assert "WARNING: the answer to malignancy has collapsed" in text
    assert "Answers to malignancy in 5 validation cases: auc" in text
    assert "class_sampling=balanced, evidence_crops, class_weight" in text
    trainer.settings.__dict__["class_sampling"] = "balanced"
    score_labelled_cases(trainer)
    assert "Settings that help: evidence_crops, class_weight" in capsys.readouterr().out
    with torch.no_grad():
        trainer.network.classification.answers[0].perceptron.output.bias.zero_()
    answering(trainer)
    trainer.image_level.case_scores = lambda answers: {}
    score_labelled_cases(trainer)
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


def heard_validation(trainer: Any) -> FinalValidation:
    heard = FinalValidation(trainer, ["spleen_000"], CASES)
    logits = {"liver_000": -3.0, "liver_001": 2.0, "liver_002": 4.0, "kidney_000": 1.0, "kidney_001": 3.0}
    for case in sorted(logits):  # nnU-Net's order
        value = logits[case]
        pair = {"malignancy": torch.tensor([0.0, value], dtype=torch.float64), "severity": torch.zeros(2)}
        heard._answers.append((pair, pair))
    return heard


def test_calibrations_are_fitted_on_the_answers_of_the_final_validation(trainer: Any) -> None:
    fitted = heard_validation(trainer).calibrations()
    # benign at -3 and 1, malignant at 2, 3 and 4: the threshold lies between 1 and 2
    temperature = fitted["malignancy"].temperature
    low, high = (1 / (1 + math.exp(-value / temperature)) for value in (1.0, 2.0))
    assert low < fitted["malignancy"].thresholds[0] < high
    assert fitted["severity"] == Calibration.default(trainer.tasks.classification[1], 5)


def test_a_calibration_goes_into_the_checkpoint_that_was_validated_and_into_no_other(trainer: Any) -> None:
    best, final = (Path(trainer.output_folder, f"checkpoint_{name}.pth") for name in ("best", "final"))
    for path in (best, final):
        trainer.save_checkpoint(str(path))
    before = best.read_bytes()
    heard_validation(trainer).store_calibrations()
    stored = read_checkpoint(final)["nnunet_mtl"]
    fitted = heard_validation(trainer).calibrations()
    assert read_calibrations(stored, trainer.tasks.classification, str(final)) == fitted
    assert best.read_bytes() == before
    before = final.read_bytes()
    trainer.load_checkpoint(str(best))  # as --val_best does
    heard_validation(trainer).store_calibrations()
    assert read_checkpoint(best)["nnunet_mtl"] == stored
    assert final.read_bytes() == before
    assert sorted(path.suffix for path in Path(trainer.output_folder).glob("*checkpoint*")) == [".pth", ".pth"]


def test_weights_that_were_trained_on_have_no_calibration_any_more(trainer: Any) -> None:
    final, latest = (Path(trainer.output_folder, f"checkpoint_{name}.pth") for name in ("final", "latest"))
    trainer.save_checkpoint(str(final))
    heard_validation(trainer).store_calibrations()
    trainer.load_checkpoint(str(final))  # as --c does
    trainer.save_checkpoint(str(latest))
    assert read_checkpoint(latest)["nnunet_mtl"] == {"taught": ["malignancy", "severity"]}
    trainer.save_checkpoint(str(final))
    assert "calibrations" not in read_checkpoint(final)["nnunet_mtl"]


def test_without_checkpoints_an_older_one_keeps_its_calibration(
    trainer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    final = Path(trainer.output_folder, "checkpoint_final.pth")
    trainer.save_checkpoint(str(final))
    before = final.read_bytes()
    trainer.disable_checkpointing = True
    trainer.save_checkpoint(str(final))
    heard_validation(trainer).store_calibrations()
    assert final.read_bytes() == before
    assert "calibrated on 5 cases, stored nowhere: there is no checkpoint" in capsys.readouterr().out


def relabelled(prepared: Any, monkeypatch: pytest.MonkeyPatch, train: list[str], cases: list[str]) -> Any:
    """A trainer of a fold with these cases in its training and its validation part."""
    built = make(prepared)
    built.initialize()
    monkeypatch.setattr(built, "do_split", lambda: (train, cases))
    return built


def test_a_fold_says_what_it_cannot_teach_or_judge(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    train = ["liver_001", "liver_002", "kidney_000", "kidney_001", "spleen_000", "spleen_001"]
    built = relabelled(prepared, monkeypatch, train, ["liver_000", "liver_003"])
    built.get_tr_and_val_datasets()
    lines = [line.partition("WARNING: ")[2] for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    remedy = "Remedy: nnunet_mtl make-splits -d Dataset900_Tiny --overwrite"
    assert [line.rpartition(" (")[0] for line in lines] == [
        "fold 0: annotated in no validation case: kidney, kidney_tumour, spleen",
        "fold 0: question malignancy: all 1 labels of validation cases are benign",
        "fold 0: question severity: all 2 labels of validation cases are mild",
    ]
    assert all(line.endswith(remedy) for line in lines)
    assert built.monitor.answers.taught == ("malignancy", "severity")


def test_an_answer_that_the_fold_never_taught_is_known_by_its_checkpoint_and_counts_nowhere(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    built = relabelled(prepared, monkeypatch, ["liver_001", "liver_002", "spleen_000"], CASES)
    built.get_tr_and_val_datasets()
    assert "malignancy: all 2 labels of training cases are malignant (it is not learnt" in capsys.readouterr().out
    path = Path(built.output_folder, "checkpoint_final.pth")
    built.save_checkpoint(str(path))
    assert read_checkpoint(path)["nnunet_mtl"] == {"taught": ["severity"]}
    heard_validation(built).store_calibrations()
    assert list(read_checkpoint(path)["nnunet_mtl"]["calibrations"]) == ["severity"]
    log = built.logger.local_logger.my_fantastic_logging
    log["ema_fg_dice"] = [0.8]
    log[class_key("malignancy", "auc")], log[class_key("severity", "auc")] = [0.9], [0.6]
    assert math.isclose(built.selection_score(), 0.7 * 0.8 + 0.3 * 0.2)
    answering(built, bias=100.0)
    score_labelled_cases(built)
    text = capsys.readouterr().out
    assert "Answers to severity" in text
    assert "malignancy" not in text


def test_a_region_without_a_score_is_named(trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"(1, 2)": 0.5, "(2,)": math.nan, "(3, 4)": 0.25, "(4,)": math.nan, "(5,)": 1.0}
    folder = Path(trainer.output_folder, "validation")
    folder.mkdir(parents=True)
    summary = {"mean": {key: {"Dice": value} for key, value in keys.items()}, "metric_per_case": []}
    (folder / "summary.json").write_text(json.dumps(summary))
    FinalValidation(trainer, [], []).explain_missing_scores()
    assert "not available because of liver_tumour, kidney_tumour: annotated in no" in capsys.readouterr().out
