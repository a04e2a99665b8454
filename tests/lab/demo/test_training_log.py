import math
from pathlib import Path

from nnunet_mtl.lab.demo.training_log import EpochReporter, read_curves

LOG = """
2026-11-22 04:26:21.826239: Epoch 0
2026-11-22 04:26:22.088485: Pseudo dice per task: liver 0.1422, spleen nan (nan: in no validation patch of the epoch)
2026-11-22 04:26:22.088681: train_loss 1.4792
2026-11-22 04:26:22.088746: val_loss 1.4882
2026-11-22 04:26:22.088893: Epoch time: 0.26 s
2026-11-22 04:26:23.978308: Epoch 1
2026-11-22 04:26:24.265492: Pseudo dice per task: liver 0.5, spleen 0.25
2026-11-22 04:26:24.268388: train_loss 0.5
2026-11-22 04:26:24.268538: val_loss -0.5
2026-11-22 04:26:24.268716: Epoch time: 0.29 s
"""


def test_curves_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "training_log_2026.txt").write_text(LOG)
    curves = read_curves(tmp_path)
    assert curves.losses == {"training": [1.4792, 0.5], "validation": [1.4882, -0.5]}
    assert curves.task_dice["liver"] == [0.1422, 0.5]
    assert math.isnan(curves.task_dice["spleen"][0])
    assert curves.task_dice["spleen"][1] == 0.25


def test_one_line_per_epoch_says_what_is_missing_and_how_long_the_rest_takes() -> None:
    report = EpochReporter(2)
    shown = [text for line in LOG.splitlines() if (text := report(line))]
    missing = "no Dice of spleen (in no validation patch of the epoch)"
    assert shown == [
        f"epoch 1/2 (0.26 s, about 1 s of training left): Dice liver 0.1422; {missing}",
        "epoch 2/2 (0.29 s): Dice liver 0.5000, spleen 0.2500",
    ]
    assert report("Predicting case_007:") == "Predicting case_007:"


def test_the_time_left_is_that_of_the_last_epochs_without_the_first() -> None:
    report = EpochReporter(100)
    lines = [
        text for epoch in range(20) for line in epoch_log(epoch, 600 - 10 * epoch) if (text := report(line)) is not None
    ]
    assert "(600.0 s, about 990 min of training left)" in lines[0]
    assert "(590.0 s, about 964 min of training left)" in lines[1]
    mean = 600 - 10 * 14.5  # of epochs 10 to 19
    assert f"(410.0 s, about {80 * mean / 60:.0f} min of training left)" in lines[-1]


def epoch_log(epoch: int, seconds: float) -> list[str]:
    return [f"Epoch {epoch}", "Pseudo dice per task: organ 0.5", f"Epoch time: {seconds:.1f} s"]


def test_an_epoch_that_measured_nothing_says_so() -> None:
    report = EpochReporter(1)
    lines = ["Epoch 0", "Pseudo dice per task: liver nan (nan: in no validation patch)", "Epoch time: 1.0 s"]
    assert [text for line in lines if (text := report(line))] == [
        "epoch 1/1 (1.0 s): no Dice of liver (in no validation patch of the epoch)"
    ]
