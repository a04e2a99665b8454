import math
from pathlib import Path

from nnunet_mtl.demo.training_log import EpochReporter, read_curves

LOG = """
2026-11-22 04:26:21.826239: Epoch 0
2026-11-22 04:26:22.088485: Pseudo dice per task: liver 0.1422, spleen nan
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


def test_one_line_per_epoch() -> None:
    report = EpochReporter(2)
    shown = [text for line in LOG.splitlines() if (text := report(line))]
    assert shown == ["epoch 1/2 (0.26 s) liver 0.1422, spleen nan", "epoch 2/2 (0.29 s) liver 0.5, spleen 0.25"]
    assert report("Predicting case_007:") == "Predicting case_007:"
