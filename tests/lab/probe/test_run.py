"""The command on real small models of the prepared data set."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_mtl.cli import main
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.lab.probe.run import ProbeOptions, run_probe

pytestmark = pytest.mark.slow

Trained = Callable[..., Path]
OURS = "nnUNetTrainerMTLAttention"


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], list[str]]:
    status = main(["probe", "-d", "900", "-c", "3d_fullres", "-p", "tiny", "-device", "cpu", *words])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def report(folder: Path) -> Any:
    with (folder / "probe.csv").open(newline="") as file:
        return json.loads((folder / "probe.json").read_text()), list(csv.DictReader(file))


def test_every_fold_of_a_model_is_reported_and_exported(
    trained: Trained, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = trained(folds=(0, 1))
    status, lines, _ = run("-tr", OURS, "-f", "0", "1", "--export", "probed", capsys=capsys)
    assert status == 0
    output = folder.parent / "probes" / folder.name
    content, rows = report(output)
    assert content["folds"] == [0, 1]
    assert content["questions"]["malignancy"]["cases"] == {"benign": 2, "malignant": 3}
    assert content["questions"]["severity"]["cases"] == {"mild": 4, "medium": 2, "severe": 2}
    assert {question["cases_seen_in_training"] for question in content["questions"].values()} == {0}
    assert len(rows) == 5 * 2 + 8 * 3
    assert {row["seen_in_training"] for row in rows} == {"false"}
    assert lines[-1].startswith(f"probe of {folder.name}: malignancy AUC ")
    assert lines[-1].endswith(str(output))
    assert "secretpatient" not in (output / "probe.json").read_text() + (output / "probe.csv").read_text()
    exported = folder.parent / f"{OURS}__probed__3d_fullres"
    assert {path.parent.name for path in exported.glob("fold_*/checkpoint_final.pth")} == {"fold_0", "fold_1"}
    again = tmp_path / "again"
    assert run("-tr", OURS, "-f", "0", "1", "-o", str(again), capsys=capsys)[0] == 0
    assert report(again) == (content, rows)  # the same every time


def test_a_single_fold_of_a_stock_model_names_what_it_has_seen(
    trained: Trained, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trained("nnUNetTrainer", labels="softmax")
    status, lines, _ = run("-f", "0", "--question", "severity", "-o", str(tmp_path / "out"), capsys=capsys)
    assert status == 0
    content, rows = report(tmp_path / "out")
    assert list(content["questions"]) == ["severity"]
    assert content["questions"]["severity"]["cases_seen_in_training"] == 4
    assert {row["case"] for row in rows if row["seen_in_training"] == "false"} == {
        *("liver_000", "liver_001", "kidney_002", "kidney_003")
    }
    assert any("4 of 8 cases" in line for line in lines)
    assert "seen in training" in lines[-1]


def without_questions(dataset_json: Any) -> None:
    del dataset_json["nnunet_mtl"]["classification"]
    for case in dataset_json["nnunet_mtl"]["cases"].values():
        case.pop("classes", None)


def one_benign(dataset_json: Any) -> None:
    del dataset_json["nnunet_mtl"]["cases"]["liver_000"]["classes"]["malignancy"]


def not_preprocessed(dataset_json: Any) -> None:
    cases = dataset_json["nnunet_mtl"]["cases"]
    cases["liver_900"] = cases["liver_000"]


@pytest.mark.parametrize(
    ("change", "words", "named"),
    [
        (without_questions, [], "asks no question"),
        (one_benign, [], "1 labelled case"),
        (not_preprocessed, [], "liver_900"),
        (None, ["--question", "colour"], "malignancy, severity"),
        (None, ["-tr", "nnUNetTrainer"], OURS),
        (None, ["-f", "1"], "no such checkpoint"),
        (None, ["-f", "one"], "-f one"),
        (None, [], "no such checkpoint"),
        (None, ["-chk", "checkpoint_best.pth", "-f", "0"], "checkpoint_best.pth"),
        (None, ["-f", "0", "--export", "tiny"], "there already"),
        (None, ["-f", "0", "-o", "/dev/null/out"], "-o"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    trained: Trained, data: Path, capsys: pytest.CaptureFixture[str], change: Any, words: list[str], named: str
) -> None:
    trained()
    if change is not None:
        dataset_json = json.loads((data / "dataset.json").read_text())
        change(dataset_json)
        (data / "dataset.json").write_text(json.dumps(dataset_json))
        words = ["-f", "0"]
    status, _, errors = run("-tr", OURS, *words, capsys=capsys)
    assert status == 2
    (line,) = [line for line in errors if line.startswith("nnunet_mtl: error: ")]
    assert named in line
    assert not any("Traceback" in line for line in errors)


def test_without_folds_nothing_is_said(trained: Trained, data: Path) -> None:
    trained()
    (data / "splits_final.json").unlink()
    with pytest.raises(UserError, match="make-splits"):
        run_probe(
            ProbeOptions(dataset="900", configuration="3d_fullres", trainer=OURS, plans="tiny", folds=(0,)),
            lambda text: None,
        )


def test_the_defaults_are_nnunets() -> None:
    options = ProbeOptions(dataset="900", configuration="2d")
    assert (options.trainer, options.plans, options.fold_names) == ("nnUNetTrainer", "nnUNetPlans", (0, 1, 2, 3, 4))
    assert options.checkpoint == "checkpoint_final.pth"
    assert ProbeOptions(dataset="900", configuration="2d", folds=("1", "all", "1")).fold_names == (1, "all")
