"""`nnunet_mtl find-best` on validation maps made by hand, in folders as nnU-Net's training leaves them."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import nnunetv2.evaluation.find_best_configuration as theirs
import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing_to_folder,
    remove_all_but_largest_component_from_segmentation,
)

from nnunet_mtl.checks.dataset_checks import check_dataset
from nnunet_mtl.cli import main
from nnunet_mtl.datasets.region_postprocessing import Judgement, region_rules
from nnunet_mtl.inference.find_best import _Replacements
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention

pytestmark = [
    pytest.mark.slow,
    # nnU-Net leaves this file to the garbage collector
    pytest.mark.filterwarnings("ignore:.*inference_instructions.txt.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*inference_instructions.txt.*:pytest.PytestUnraisableExceptionWarning"),
]

OURS, STOCK = "nnUNetTrainerMTLAttention", "nnUNetTrainer"
ORGAN = {"liver": 1, "kidney": 3, "spleen": 5}
WORDS = ["find-best", "900", "-p", "tiny", "-c", "3d_fullres", "-f", "0", "1", "-np", "1", "--disable_ensembling"]


def write(values: Any, path: Path, like: Path) -> None:
    image = SimpleITK.GetImageFromArray(values)
    image.CopyInformation(SimpleITK.ReadImage(str(like)))
    SimpleITK.WriteImage(image, str(path))


def add_model(prepared: Any, results: Path, trainer: str, *, whole: bool = False, without: str = "none") -> Path:
    """Write validation maps of two folds: the references, with a false piece of the organ that is annotated.

    Args:
        prepared: The data set.
        results: `nnUNet_results`.
        trainer: Its name.
        whole: Whether they hold what nobody annotated too, as a stock network's do.
        without: Task whose cases are left out.
    """
    model = results / prepared.raw.name / f"{trainer}__tiny__3d_fullres"
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    del dataset_json["nnunet_mtl"]["cases"]
    for number, label in enumerate(sorted((prepared.raw / "labelsTr").glob("*.nii.gz"))):
        folder = model / f"fold_{number % 2}" / "validation"
        folder.mkdir(parents=True, exist_ok=True)
        task = label.name.split("_")[0]
        values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(label)))
        values[:2, :2, :2] = ORGAN[task]
        if whole:
            values[16:19, 18:22, 18:22] = 5 if task != "spleen" else 1
        if task != without:
            write(values, folder / label.name, label)
    (model / "plans.json").write_text(json.dumps(prepared.plans("tiny")))
    (model / "dataset.json").write_text(json.dumps(dataset_json))
    return model / "crossval_results_folds_0_1"


@pytest.fixture
def results(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def union(prepared: Any, folder: Path) -> Path:
    """Write a map of all tasks, with a false piece of liver, and what nnU-Net puts beside it."""
    folder.mkdir()
    like = prepared.raw / "labelsTr" / "liver_000.nii.gz"
    values = np.zeros((20, 24, 24), np.uint8)
    values[2:12, 2:12, 2:12], values[4:6, 4:6, 4:6], values[:2, 22:, 22:] = 1, 2, 1
    values[14:18, 2:8, 2:8], values[14:18, 16:20, 16:20] = 3, 5
    write(values, folder / "case.nii.gz", like)
    (folder / "plans.json").write_text(json.dumps(prepared.plans("tiny")))
    (folder / "dataset.json").write_text(json.dumps(prepared.dataset_json))
    return folder


def processed(prepared: Any, postprocessing: Path, folder: Path) -> dict[int, int]:
    """Apply a postprocessing.pkl to that map as nnUNetv2_apply_postprocessing does; return voxels by label."""
    functions, words = pickle.loads(postprocessing.read_bytes())
    apply_postprocessing_to_folder(str(union(prepared, folder)), str(folder / "out"), functions, words, num_processes=1)
    values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "out" / "case.nii.gz")))
    return dict(zip(*(each.tolist() for each in np.unique(values, return_counts=True)), strict=True))


def test_what_is_fitted_on_partial_maps_is_right_for_maps_of_all_tasks(
    prepared: Any, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(prepared)
    merged = add_model(prepared, results, OURS)
    theirs.find_best_configuration(
        "900", [{"plans": "tiny", "configuration": "3d_fullres", "trainer": OURS}], False, 1, True, (0, 1)
    )
    pkl = merged / "postprocessing.pkl"
    assert processed(prepared, pkl, results / "stock") == {0: 10520, 1: 992, 2: 8}  # kidney and spleen are gone
    assert any(finding.level == "warning" and str(pkl) in finding.text for finding in check_dataset("900", print))
    with pytest.warns(UserWarning, match="was fitted on maps that hold only"):
        build(trainer)
    originals = {name: getattr(theirs, name) for name in ("determine_postprocessing", "load_summary_json")}
    capsys.readouterr()
    assert main([*WORDS, "-tr", OURS]) == 0
    assert {name: getattr(theirs, name) for name in originals} == originals
    text = capsys.readouterr().out
    assert "largest component of liver: Dice 0.9960 -> 1.0000 over 4 annotated cases: kept" in text
    assert processed(prepared, pkl, results / "ours") == {0: 10312, 1: 992, 2: 8, 3: 144, 5: 64}
    functions, _ = pickle.loads(pkl.read_bytes())
    assert set(functions) == {remove_all_but_largest_component_from_segmentation}
    assert b"nnunet_mtl" not in pkl.read_bytes()  # nnU-Net alone can apply it
    assert not any(str(pkl) in finding.text for finding in check_dataset("900", print))
    build(trainer)  # and nothing is warned of
    instructions = (results / prepared.raw.name / "inference_instructions.txt").read_text()
    assert instructions in text
    assert f"-tr {OURS} -c 3d_fullres -p tiny" in instructions
    assert f"-pp_pkl_file {pkl}" in instructions


def trainer_of(prepared: Any) -> Any:
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    return nnUNetTrainerMTLAttention(prepared.plans("tiny"), "3d_fullres", 0, dataset_json, torch.device("cpu"))


def build(trainer: Any) -> None:
    """Build the network as nnU-Net does to predict with it."""
    trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 5, False)


def test_stock_maps_are_scored_where_something_is_annotated(
    prepared: Any, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = add_model(prepared, results, STOCK, whole=True)
    assert main([*WORDS, "-tr", STOCK]) == 0
    assert f"{STOCK}__tiny__3d_fullres: 0.99760" in capsys.readouterr().out
    assert json.loads((merged / "summary.json").read_text())["foreground_mean"]["Dice"] < 0.9  # nnU-Net's own


def test_a_region_without_a_score_does_not_end_it(prepared: Any, results: Path) -> None:
    """nnU-Net's mean is NaN then, equal to nothing: its own choice ends in an IndexError."""
    add_model(prepared, results, OURS, without="spleen")
    assert main([*WORDS, "-tr", OURS]) == 0
    information = json.loads((results / prepared.raw.name / "inference_information.json").read_text())
    best = information["best_model_or_ensemble"]
    assert best["result_on_crossval_pre_pp"] == pytest.approx(0.998, abs=1e-3)
    assert best["result_on_crossval_post_pp"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-tr", "nnUNetTrainerHPS"], "nnUNetTrainerHPS"),
        (["-tr", OURS, "-f", "0", "7"], "fold 7"),
        (["-tr", OURS, "-c", "3d_lowres"], "3d_lowres"),
        (["-tr", OURS, "-p", "unplanned"], "unplanned"),
        (["-tr", OURS, "-np", "0"], "-np 0"),
        (["-tr", "nnUNetTrainerMTLAttenton"], f"(did you mean {OURS}__tiny__3d_fullres?)"),
        (["-tr", OURS, "-p", "tinny"], "(did you mean tiny?)"),
        (["-tr", OURS, "-c", "3d_fulres"], "(did you mean 3d_fullres?)"),
    ],
)
def test_what_is_missing_is_one_line(
    prepared: Any, results: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    add_model(prepared, results, OURS)
    assert main([*WORDS, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nnunet_mtl: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_cascade_is_predicted_stage_by_stage(prepared: Any, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = results / prepared.raw.name / f"{OURS}__tiny__3d_cascade_fullres"
    lowres = model.with_name(f"{OURS}__tiny__3d_lowres")
    plans = prepared.plans("tiny")
    plans["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    for folder in (model, lowres):
        folder.mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    tasks = TaskSet.from_dataset_json(prepared.dataset_json)
    ours = _Replacements(tasks, "", theirs.determine_postprocessing, theirs.generate_inference_command)
    first, second = ours.generate_inference_command("900", "3d_cascade_fullres", "tiny", OURS, (0,)).splitlines()
    assert "-o OUTPUT_FOLDER_PREVIOUS_STAGE" in first
    assert "-c 3d_lowres" in first
    assert second.endswith("-c 3d_cascade_fullres -p tiny -prev_stage_predictions OUTPUT_FOLDER_PREVIOUS_STAGE")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    lines = ours.generate_inference_command("900", "3d_cascade_fullres", "tiny", OURS, (0,)).splitlines()
    assert all(line.endswith(" -device cpu") for line in lines)


def test_a_region_that_is_annotated_in_no_case_is_not_judged(prepared: Any) -> None:
    tasks = TaskSet.from_dataset_json(prepared.dataset_json)
    ours = _Replacements(tasks, ".nii.gz", theirs.determine_postprocessing, theirs.generate_inference_command)
    rule = next(iter(region_rules(tasks)))
    text = ours._account([Judgement(rule, 0, math.nan, math.nan, kept=False)])
    name = tasks.regions[rule.region]
    assert text.startswith(f"largest component of {name}: not kept, as {name} is annotated in none of the cases\n")


def test_where_everything_is_annotated_nnunet_s_own_search_is_taken(
    prepared: Any, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    for case in dataset_json["nnunet_mtl"]["cases"].values():
        case["annotated"] = list(ORGAN)
    calls = []

    def determine(folder: str, *rest: Any) -> str:
        calls.append(folder)
        for name in ("postprocessing.json", "postprocessing.pkl"):
            Path(folder, name).write_text('{"theirs": 1}')
        return "found"

    tasks = TaskSet.from_dataset_json(dataset_json)
    ours = _Replacements(tasks, ".nii.gz", determine, theirs.generate_inference_command)
    assert ours.determine_postprocessing(str(results), "ref", "plans", "dataset", 1) == "found"
    content = json.loads((results / "postprocessing.json").read_text())
    assert (calls, content["theirs"], list(content)) == ([str(results)], 1, ["theirs", "nnunet_mtl"])
