"""nnU-Net's final validation with partially labelled cases, in this process."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention

pytestmark = pytest.mark.slow

LEAVES = {"liver": {1, 2}, "kidney": {3, 4}, "spleen": {5}}


def cascade_plans(prepared: Any) -> dict[str, Any]:
    """The tiny plans with a low resolution (the same voxels) whose predictions a cascade reads."""
    plans: dict[str, Any] = prepared.plans("tiny")
    fullres = plans["configurations"]["3d_fullres"]
    plans["configurations"]["3d_lowres"] = {**fullres, "next_stage": "3d_cascade_fullres"}
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"]["3d_cascade_fullres"] = cascade
    return plans


@pytest.fixture(scope="module")
def validated(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        torch.manual_seed(0)
        dataset_json = json.loads(json.dumps(prepared.dataset_json))
        trainer = nnUNetTrainerMTLAttention(cascade_plans(prepared), "3d_lowres", 0, dataset_json, torch.device("cpu"))
        trainer.on_train_start()
        trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
        trainer.perform_actual_validation()
        yield trainer


def test_exported_maps_hold_what_is_annotated(validated: Any) -> None:
    maps = sorted(Path(validated.output_folder, "validation").glob("*.nii.gz"))
    assert [path.name.removesuffix(".nii.gz") for path in maps] == sorted(validated.do_split()[1])
    for path in maps:
        found = set(np.unique(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))).tolist())
        assert found - {0} <= LEAVES[path.name.split("_")[0]]
        assert found - {0}, "an untrained network paints something"


def test_nnunets_own_score_counts_annotated_regions_only(validated: Any) -> None:
    summary = json.loads(Path(validated.output_folder, "validation", "summary.json").read_text())
    for case in summary["metric_per_case"]:
        task = Path(case["prediction_file"]).name.split("_")[0]
        scored = {region for region, metrics in case["metrics"].items() if not np.isnan(metrics["Dice"])}
        assert scored
        assert {int(leaf) for region in scored for leaf in re.findall(r"\d+", region)} <= LEAVES[task]


def test_the_next_stage_reads_unions_as_predicted(validated: Any, prepared: Any, tmp_path: Path) -> None:
    folder = Path(validated.output_folder_base, "predicted_next_stage", "3d_cascade_fullres")
    cases = sorted(path.name.removesuffix(".b2nd") for path in folder.iterdir())
    assert cases == sorted(validated.do_split()[1])
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(validated.output_folder_base, (0,))
    inputs = [[str(prepared.raw / "imagesTr" / f"{case}_0000.nii.gz")] for case in cases]
    predictor.predict_from_files_sequential(inputs, [str(tmp_path / case) for case in cases])
    for case in cases:
        union = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"{case}.nii.gz")))
        stored = np.asarray(blosc2.open(str(folder / f"{case}.b2nd"), mode="r")[:])
        np.testing.assert_array_equal(stored.squeeze(), union)
    found = set(np.unique(union).tolist())
    assert any(found & leaves for task, leaves in LEAVES.items() if task != case.split("_")[0])


def test_a_region_that_cannot_be_judged_is_named_and_numpy_says_nothing(
    validated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(validated, "output_folder", str(tmp_path))  # nnU-Net scores every map that is there
    monkeypatch.setattr(validated, "do_split", lambda: (["liver_000", "kidney_000"], ["spleen_000"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        validated.perform_actual_validation()
    text = capsys.readouterr().out
    assert "not available because of liver, liver_tumour, kidney, kidney_tumour: annotated in no validation" in text
