"""`nnunet_mtl predict` in this process, on untrained networks: they paint every region everywhere, overlapping."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.cli import main
from nnunet_mtl.datasets.classification_table import read_answers
from nnunet_mtl.inference.calibration import Calibration, stored_calibrations
from nnunet_mtl.inference.checkpoint_content import add_to_checkpoint
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention

pytestmark = pytest.mark.slow

SPACING = (0.8, 1.1, 1.5)  # x, y, z
CASES = ("case_a", "case_b", "case_c")
REGIONS = ("liver", "liver_tumour", "kidney", "kidney_tumour", "spleen")
TASKS = {"liver": (0, 1), "kidney": (2, 3), "spleen": (4,)}
QUESTIONS = {
    "malignancy": {"kind": "nominal", "classes": ["benign", "malignant"], "evidence": "liver_tumour"},
    "severity": {"kind": "ordinal", "classes": ["mild", "medium", "severe"]},
}


@dataclass(frozen=True)
class Trained:
    """Model folders by what they can do, and images to predict."""

    results: Path
    asked: Path
    silent: Path
    images: Path


def train(prepared: Any, results: Path, questions: dict[str, Any], n_folds: int) -> Path:
    """Write the checkpoints of initialised networks, another one per fold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(results))
        for fold in range(n_folds):
            dataset_json = json.loads(json.dumps(prepared.dataset_json))
            dataset_json["nnunet_mtl"]["classification"] = questions
            for case in dataset_json["nnunet_mtl"]["cases"].values():
                case.pop("classes", None)
            torch.manual_seed(fold)
            trainer = nnUNetTrainerMTLAttention(
                prepared.plans("tiny"), "3d_fullres", fold, dataset_json, torch.device("cpu")
            )
            trainer.initialize()
            trainer.inference_allowed_mirroring_axes = (2,)
            for parameter in trainer.network.classification.parameters():  # untrained, it answers everything alike
                torch.nn.init.normal_(parameter, std=0.05)
            for name, content in (("dataset.json", trainer.dataset_json), ("plans.json", trainer.plans_manager.plans)):
                Path(trainer.output_folder_base, name).write_text(json.dumps(content))
            trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    return Path(trainer.output_folder_base)


def write_image(path: Path, seed: int) -> None:
    """An image with a margin of zeros, which is cropped away, and a geometry of its own."""
    values = np.random.default_rng(seed).normal(0, 1, (18, 21, 24)).astype(np.float32)
    values[:2] = values[:, :3] = values[:, :, -2:] = 0
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    image.SetOrigin((-30.5, 12.25, 7.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def trained(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    images = root / "images"
    images.mkdir()
    for seed, case in enumerate(CASES):
        write_image(images / f"{case}_0000.nii.gz", seed)
    asked = train(prepared, root / "asked", QUESTIONS, 2)
    return Trained(root / "asked", asked, train(prepared, root / "silent", {}, 1), images)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The command takes every core, as nnU-Net's does; the tests are to leave some to others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiprocessing.cpu_count", lambda: 1)
        yield


def run(*words: object) -> int:
    here = ("-npp", "0", "-nps", "0", "-device", "cpu", "--disable_progress_bar")
    return main(["predict", *map(str, words), *here])


def array(path: Path) -> Any:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "classification.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def everything(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of two folds and mirrored images, with all that can be written."""
    output = tmp_path_factory.mktemp("everything")
    words = ("--save-per-task", "--save_probabilities")
    assert run("-i", trained.images, "-o", output, "-m", trained.asked, "-f", 0, 1, *words) == 0
    return output


@pytest.fixture(scope="module")
def stock(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("stock")
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained.asked), (0, 1))
    predictor.predict_from_files_sequential(str(trained.images), str(output), save_probabilities=True)
    return output


def test_segmentations_are_those_of_stock_nnunet(everything: Path, stock: Path) -> None:
    for case in CASES:
        ours, theirs = (SimpleITK.ReadImage(str(folder / f"{case}.nii.gz")) for folder in (everything, stock))
        assert ours.GetPixelID() == theirs.GetPixelID()
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(ours), SimpleITK.GetArrayFromImage(theirs))
        assert (ours.GetSpacing(), ours.GetOrigin()) == (theirs.GetSpacing(), theirs.GetOrigin())
        assert ours.GetDirection() == theirs.GetDirection()
        probabilities = [np.load(folder / f"{case}.npz")["probabilities"] for folder in (everything, stock)]
        np.testing.assert_array_equal(*probabilities)
        assert len(np.unique(SimpleITK.GetArrayFromImage(ours))) > 2  # something was painted


def test_what_nnunet_writes_beside_them_is_there_too(everything: Path, stock: Path) -> None:
    theirs = {name for name in files(stock) if not name.endswith(".pkl")}
    assert theirs <= files(everything)
    for name in ("dataset.json", "plans.json"):
        assert (everything / name).read_bytes() == (stock / name).read_bytes()
    ours, stocks = (
        json.loads((folder / "predict_from_raw_data_args.json").read_text()) for folder in (everything, stock)
    )
    assert set(stocks) <= set(ours)
    assert ours["overwrite"] is stocks["overwrite"] is True


def test_every_task_is_decoded_from_its_own_probabilities(everything: Path) -> None:
    for case in CASES:
        probabilities = np.load(everything / f"{case}.npz")["probabilities"]
        union = array(everything / f"{case}.nii.gz")
        for task, channels in TASKS.items():
            expected = np.zeros(union.shape, int)
            for value, channel in enumerate(channels, start=1):
                expected[probabilities[channel] > 0.5] = value
            np.testing.assert_array_equal(array(everything / task / f"{case}.nii.gz"), expected)
        # the union alone would have holes where the spleen was painted over the liver
        assert ((array(everything / "liver" / f"{case}.nii.gz") > 0) & ~np.isin(union, (1, 2))).any()


def test_every_task_folder_says_what_its_values_mean(everything: Path) -> None:
    for task, labels in (
        ("liver", {"background": 0, "liver": [1, 2], "liver_tumour": [2, 2]}),
        ("kidney", {"background": 0, "kidney": [1, 2], "kidney_tumour": [2, 2]}),
        ("spleen", {"background": 0, "spleen": [1, 1]}),
    ):
        dataset_json = json.loads((everything / task / "dataset.json").read_text())
        assert list(dataset_json["labels"].items()) == list(labels.items())
        assert dataset_json["regions_class_order"] == list(range(1, len(labels)))
        assert dataset_json["file_ending"] == ".nii.gz"
        assert "nnunet_mtl" not in dataset_json


def test_answers_are_those_of_the_predictor(everything: Path, trained: Trained) -> None:
    predictor = MultiTaskPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained.asked), (0, 1))
    rows = table(everything)
    assert len(rows) == len(CASES) * 5
    details = json.loads((everything / "classification.json").read_text())
    assert details["folds"] == [0, 1]
    of_folds = {"temperatures": [1.0, 1.0], "calibrated": [False, False], "thresholds": []}
    assert details["tasks"]["severity"] == {**QUESTIONS["severity"], **of_folds}
    for case in CASES:
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        image = [str(trained.images / f"{case}_0000.nii.gz")]
        parts = (predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
        predictor.predict_logits_from_preprocessed_data(torch.from_numpy(preprocessor.run_case(image, None, *parts)[0]))
        for name, expected in predictor.probabilities().items():
            classes = QUESTIONS[name]["classes"]
            found = [row for row in rows if (row["case"], row["task"]) == (case, name)]
            assert [row["class"] for row in found] == classes
            values = [float(row["probability"]) for row in found]
            np.testing.assert_allclose(values, expected.numpy(), rtol=1e-6)
            assert len(set(values)) == len(classes)
            assert details["cases"][case][name]["answer"] == list(predictor.classes()[name])
            assert list(details["cases"][case][name]["probabilities"]) == classes


def test_the_evidence_volume_is_of_the_region_in_the_image_itself(everything: Path) -> None:
    for row in table(everything):
        if row["task"] == "severity":
            assert row["evidence_volume_mm3"] == ""
            continue
        tumour = np.load(everything / f"{row['case']}.npz")["probabilities"][REGIONS.index("liver_tumour")] > 0.5
        assert tumour.any()
        assert float(row["evidence_volume_mm3"]) == pytest.approx(tumour.sum() * np.prod(SPACING), rel=1e-6)


def test_chosen_tasks_are_as_in_the_whole_and_the_others_absent(
    trained: Trained, everything: Path, tmp_path: Path
) -> None:
    words = ("-m", trained.asked, "-f", 0, 1, "--tasks", "kidney", "--save_per_task")
    assert run("-i", trained.images, "-o", tmp_path, *words) == 0
    assert not (tmp_path / "liver").exists()
    for case in CASES:
        of_task = array(tmp_path / "kidney" / f"{case}.nii.gz")
        np.testing.assert_array_equal(of_task, array(everything / "kidney" / f"{case}.nii.gz"))
        np.testing.assert_array_equal(array(tmp_path / f"{case}.nii.gz"), np.where(of_task > 0, of_task + 2, 0))
    # the other question is about the liver
    assert {row["task"] for row in table(tmp_path)} == {"severity"}
    before = [row for row in table(everything) if row["task"] == "severity"]
    after = table(tmp_path)
    for old, new in zip(before, after, strict=True):
        assert float(new["probability"]) == pytest.approx(float(old["probability"]), rel=1e-5)


def test_a_model_is_found_by_the_names_of_its_parts(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(trained.results))
    names = ("-d", 900, "-tr", "nnUNetTrainerMTLAttention", "-p", "tiny", "-c", "3d_fullres", "-f", 0, "--disable_tta")
    assert run("-i", trained.images, "-o", tmp_path / "named", *names) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("predicted 3 of 3 cases in ")
    assert str(tmp_path / "named") in last
    assert "classification.csv" in last
    assert run("-i", trained.images, "-o", tmp_path / "folder", "-m", trained.asked, "-f", 0, "--disable_tta") == 0
    assert table(tmp_path / "named") == table(tmp_path / "folder")


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of an error that ends the command."""
    assert run(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_done_at_all_is_one_line(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(trained.results))
    output = tmp_path / "output"
    io, model = ("-i", trained.images, "-o", output), ("-m", trained.asked)
    assert "liver, kidney, spleen" in refused(capsys, *io, *model, "-f", 0, "--tasks", "lung")
    assert "0, 1" in refused(capsys, *io, *model)  # nnU-Net's five folds
    assert "checkpoint_best.pth" in refused(capsys, *io, *model, "-f", 0, "-chk", "checkpoint_best.pth")
    assert "a number or 'all'" in refused(capsys, *io, *model, "-f", "first")
    assert str(tmp_path / "model") in refused(capsys, *io, "-m", tmp_path / "model", "-f", 0)
    assert "leave -d out" in refused(capsys, *io, *model, "-d", 900)
    assert "-m FOLDER" in refused(capsys, *io, "-d", 900)
    assert "tiny" in refused(capsys, *io, "-d", 900, "-tr", "nnUNetTrainerMTLAttention", "-c", "3d_fullres")
    assert "Dataset900_Tiny" in refused(capsys, *io, "-d", 901, "-c", "3d_fullres")
    assert "-part_id 2" in refused(capsys, *io, *model, "-f", 0, "-num_parts", 2, "-part_id", 2)
    assert "-step_size" in refused(capsys, *io, *model, "-f", 0, "-step_size", 0)
    (tmp_path / "empty").mkdir()
    empty = refused(capsys, "-i", tmp_path / "empty", "-o", output, *model, "-f", 0)
    assert "CASE_0000.nii.gz" in empty
    assert "no such folder" in refused(capsys, "-i", tmp_path / "none", "-o", output, *model, "-f", 0)
    assert not output.exists()


def test_an_error_is_all_that_is_said(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-i", tmp_path / "none", "-o", tmp_path / "output", "-m", trained.silent, "-f", 0) == 2
    captured = capsys.readouterr()
    assert "no such folder" in captured.err
    assert "no image-level answer" not in captured.out
    assert run("-i", tmp_path / "none", "-o", tmp_path / "output", "-m", trained.asked, "-f", 0) == 2
    assert "has no calibration" not in capsys.readouterr().out


def test_the_nearest_name_is_suggested(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_results", str(trained.results))
    io, name = ("-i", trained.images, "-o", tmp_path / "output"), "nnUNetTrainerMTLAttention__tiny__3d_fullres"
    assert "(did you mean kidney?)" in refused(capsys, *io, "-m", trained.asked, "-f", 0, "--tasks", "kidny")
    for words in (("-tr", "nnUNetTrainerMTLAtention", "-p", "tiny"), ("-tr", "nnUNetTrainerMTLAttention", "-p", "tny")):
        line = refused(capsys, *io, "-d", 900, *words, "-c", "3d_fullres")
        assert f"no such model (did you mean {name}?); see -tr, -p and -c" in line
    line = refused(capsys, *io, "-d", "Dataset900_Tini", "-c", "3d_fullres")
    assert "no such folder (did you mean Dataset900_Tiny?)" in line
    wrong = trained.asked.with_name(trained.asked.name.replace("MTL", "MLT"))
    assert f"no such model folder (did you mean {name}?)" in refused(capsys, *io, "-m", wrong, "-f", 0)
    line = refused(capsys, *io, "-m", trained.asked, "-f", 0, "-chk", "checkpoint_fnal.pth")
    assert 'no such checkpoint (did you mean "checkpoint_final.pth"?)' in line


def test_without_the_variable_a_model_folder_is_asked_for(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_results", raising=False)
    assert "nnUNet_results is not set" in refused(
        capsys, "-i", trained.images, "-o", tmp_path, "-d", 900, "-c", "3d_fullres"
    )


def test_what_is_wrong_with_one_case_leaves_the_others(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    shutil.copytree(trained.images, images)
    for channel in range(2):
        shutil.copy(images / "case_a_0000.nii.gz", images / f"channel_000{channel}.nii.gz")
    (images / "text_0000.nii.gz").write_text("no image")
    whole = (images / "case_a_0000.nii.gz").read_bytes()
    (images / "half_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    words = ("-m", trained.asked, "-f", 0, "--disable_tta", "--save-per-task", "--save_probabilities")
    assert run("-i", images, "-o", output, *words) == 1
    captured = capsys.readouterr()
    lines = dict(
        line.removeprefix("nnunet_mtl: case ").split(": ", 1) for line in captured.err.splitlines() if "case " in line
    )
    assert '2 channel(s) in 2 file(s), the model reads 1; "channel_0001.nii.gz" is too much' in lines["channel"]
    assert "text_0000.nii.gz" in lines["text"]
    assert "half_0000.nii.gz" in lines["half"]
    assert captured.out.splitlines()[-1].startswith("predicted 3 of 6 cases")
    assert "3 failed (channel, half, text)" in captured.out.splitlines()[-1]
    assert {name.split(".")[0] for name in files(output) if name.endswith(".nii.gz")} == {
        *CASES,
        *(f"{task}/{case}" for task in TASKS for case in CASES),
    }
    assert {row["case"] for row in table(output)} == set(CASES)
    assert not [name for name in files(output) if "writing" in name]


def test_what_cannot_be_written_leaves_nothing_half_written(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "case_b.nii.gz" / "in the way").mkdir(parents=True)
    assert run("-i", trained.images, "-o", tmp_path, "-m", trained.asked, "-f", 0, "--disable_tta") == 1
    captured = capsys.readouterr()
    assert "case case_b: " in captured.err
    assert "2 of 3 cases" in captured.out.splitlines()[-1]
    assert not [path for path in tmp_path.iterdir() if "writing" in path.name]
    assert {row["case"] for row in table(tmp_path)} == {"case_a", "case_c"}


def test_a_model_without_questions_says_so_and_predicts(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-i", trained.images, "-o", tmp_path, "-m", trained.silent, "-f", 0, "--disable_tta") == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if line.startswith("no image-level answer")]
    assert "classification" not in out[-1]
    assert not [name for name in files(tmp_path) if "classification" in name]
    assert {f"{case}.nii.gz" for case in CASES} <= files(tmp_path)


def test_going_on_keeps_what_is_whole_and_does_the_rest(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-i", trained.images, "-o", tmp_path, "-m", trained.asked, "-f", 0, "--disable_tta", "--save-per-task")
    assert run(*words) == 0
    first = {name: (tmp_path / name).read_bytes() for name in files(tmp_path) if name.endswith((".nii.gz", ".csv"))}
    half = first["case_b.nii.gz"][: len(first["case_b.nii.gz"]) // 2]
    (tmp_path / "case_b.nii.gz").write_bytes(half)
    (tmp_path / "kidney" / "case_c.nii.gz").unlink()
    (tmp_path / "classification.csv").unlink()
    (tmp_path / ".case_b.writing").mkdir()
    (tmp_path / ".case_b.writing" / "case_b.nii.gz").write_bytes(half)
    kept = (tmp_path / "case_a.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert run(*words, "--continue_prediction") == 0
    out = capsys.readouterr().out
    assert "predicted 2 of 2 cases" in out
    assert "1 were there already" in out
    assert "case case_b: predicted again" in out
    assert (tmp_path / "case_a.nii.gz").stat().st_mtime_ns == kept
    assert {name: (tmp_path / name).read_bytes() for name in first} == first
    assert not [path for path in tmp_path.iterdir() if "writing" in path.name]


def test_a_map_without_its_answers_is_not_done(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-i", trained.images, "-o", tmp_path, "-m", trained.asked, "-f", 0, "--disable_tta")
    assert run(*words) == 0
    before = table(tmp_path)
    (tmp_path / ".classification" / "case_b.json").unlink()
    capsys.readouterr()
    assert run(*words, "--continue_prediction") == 0
    assert "predicted 1 of 1 cases" in capsys.readouterr().out
    assert table(tmp_path) == before


def test_going_on_in_another_way_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("-i", trained.images, "-o", tmp_path, "-m", trained.asked, "--disable_tta")
    assert run(*words, "-f", 0) == 0
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    capsys.readouterr()
    line = refused(capsys, *words, "-f", 0, 1, "--continue_prediction")
    assert "folds [0] against [0, 1]" in line
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_new_prediction_forgets_the_answers_of_the_old_one(trained: Trained, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(trained.images / "case_b_0000.nii.gz", images)
    words = ("-o", tmp_path / "output", "-m", trained.asked, "-f", 0, "--disable_tta")
    assert run("-i", trained.images, *words) == 0
    assert run("-i", images, *words) == 0
    assert {row["case"] for row in table(tmp_path / "output")} == {"case_b"}


def test_parts_share_a_folder(trained: Trained, tmp_path: Path) -> None:
    words = ("-i", trained.images, "-m", trained.asked, "-f", 0, "--disable_tta")
    assert run(*words, "-o", tmp_path / "whole") == 0
    for part in range(2):
        assert run(*words, "-o", tmp_path / "parts", "-num_parts", 2, "-part_id", part) == 0
    assert table(tmp_path / "parts") == table(tmp_path / "whole")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def copy_with(trained: Trained, folder: Path, *contents: dict[str, Any]) -> Path:
    """Copy the model and add content to the checkpoints of its folds."""
    shutil.copytree(trained.asked, folder)
    for fold, content in enumerate(contents):
        add_to_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth", content)
    return folder


def calibrated(threshold: float) -> dict[str, Any]:
    return stored_calibrations({"malignancy": Calibration(2.0, (threshold,), 9, fitted=True)})


def test_the_stored_threshold_decides_the_answer(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for threshold, answer in ((0.0, "malignant"), (1.0, "benign")):
        model, output = copy_with(trained, tmp_path / f"model_{answer}", calibrated(threshold)), tmp_path / answer
        assert run("-i", trained.images, "-o", output, "-m", model, "-f", 0, "--disable_tta") == 0
        details = json.loads((output / "classification.json").read_text())
        assert details["tasks"]["malignancy"]["temperatures"] == [2.0]
        assert details["tasks"]["malignancy"]["calibrated"] == [True]
        assert details["tasks"]["malignancy"]["thresholds"] == [threshold]
        assert all(case["malignancy"]["answer"] == [answer] for case in details["cases"].values())
    remarks = [line for line in capsys.readouterr().out.splitlines() if "has no calibration" in line]
    assert [line.split(":")[0] for line in remarks] == ["severity", "severity"]


def test_a_checkpoint_without_calibration_takes_none_from_another(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = copy_with(trained, tmp_path / "model")
    shutil.copy(model / "fold_0" / "checkpoint_final.pth", model / "fold_0" / "checkpoint_best.pth")
    add_to_checkpoint(model / "fold_0" / "checkpoint_final.pth", calibrated(0.0))
    words = ("-i", trained.images, "-m", model, "-f", 0, "--disable_tta", "-chk", "checkpoint_best.pth")
    assert run(*words, "-o", tmp_path / "best") == 0
    details = json.loads((tmp_path / "best" / "classification.json").read_text())["tasks"]["malignancy"]
    assert (details["temperatures"], details["calibrated"], details["thresholds"]) == ([1.0], [False], [0.5])
    assert "malignancy: checkpoint_best.pth of fold 0 has no calibration" in capsys.readouterr().out


def test_an_answer_that_was_never_taught_is_not_available(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = copy_with(trained, tmp_path / "model", *[{"taught": ["severity"]}] * 2)
    output, words = tmp_path / "output", ("-i", trained.images, "-m", model, "-f", 0, 1, "--disable_tta")
    assert run(*words, "-o", output) == 0
    assert "malignancy: the answer is not available: fold 0, fold 1 had no labels" in capsys.readouterr().out
    rows = table(output)
    assert {row["probability"] for row in rows if row["task"] == "malignancy"} == {"not available"}
    assert all(row["evidence_volume_mm3"] for row in rows if row["task"] == "malignancy")
    assert all(0 < float(row["probability"]) < 1 for row in rows if row["task"] == "severity")
    details = json.loads((output / "classification.json").read_text())
    assert details["tasks"]["malignancy"]["temperatures"] == [None, None]
    for case in details["cases"].values():
        assert case["malignancy"]["probabilities"] == {"benign": None, "malignant": None}
        assert case["malignancy"]["answer"] is None
    before = (output / "classification.csv").read_bytes()
    assert run(*words, "-o", output, "--continue_prediction") == 0
    assert "3 were there already" in capsys.readouterr().out
    assert (output / "classification.csv").read_bytes() == before
    assert set(read_answers(output / "classification.csv")) == {"severity"}


@pytest.mark.parametrize("part", ["decoder.seg_layers", "classification"])
def test_what_is_not_finite_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    model, output = tmp_path / "model", tmp_path / "output"
    shutil.copytree(trained.asked if part == "classification" else trained.silent, model)
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    name = [name for name in checkpoint["network_weights"] if name.startswith(part) and name.endswith("weight")][-1]
    checkpoint["network_weights"][name][:] = float("nan")
    torch.save(checkpoint, path)
    assert run("-i", trained.images, "-o", output, "-m", model, "-f", 0, "--disable_tta") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nnunet_mtl: case ")]
    assert len(lines) == len(CASES)
    assert all("not finite" in line for line in lines)
    assert not [name for name in files(output) if name.endswith(".nii.gz")]
    assert not (output / ".classification").exists()
