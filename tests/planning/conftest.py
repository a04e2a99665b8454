"""A data set as it stands after nnU-Net's planning, without images: its own planners on a written fingerprint."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NAME = "Dataset900_Toy"
ORGANS = ("liver", "kidney", "spleen")


@dataclass(frozen=True)
class DataSet:
    """The two folders of a data set, and their JSON files."""

    raw: Path
    preprocessed: Path

    def read(self, name: str) -> Any:
        return json.loads((self.preprocessed / name).read_text())

    def write_raw(self, dataset_json: dict[str, Any]) -> None:
        (self.raw / "dataset.json").write_text(json.dumps(dataset_json))


def make_dataset_json() -> dict[str, Any]:
    cases = {
        f"{organ}_{i:02}": {"annotated": [organ], "patient": f"{organ}{i // 2}"} for organ in ORGANS for i in range(10)
    }
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2], "kidney": [3], "spleen": [4]},
        "regions_class_order": [1, 2, 3, 4],
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "liver": {"regions": ["liver", "liver_tumour"]},
                "kidney": {"regions": ["kidney"]},
                "spleen": {"regions": ["spleen"]},
            },
            "cases": cases,
        },
    }


@pytest.fixture
def dataset_json() -> dict[str, Any]:
    return make_dataset_json()


def _lay_out(root: Path) -> DataSet:
    dataset = DataSet(root / "raw" / NAME, root / "preprocessed" / NAME)
    (dataset.raw / "imagesTr").mkdir(parents=True)
    dataset.preprocessed.mkdir(parents=True)
    dataset.write_raw(make_dataset_json())
    for case in make_dataset_json()["nnunet_mtl"]["cases"]:
        (dataset.raw / "imagesTr" / f"{case}_0000.nii.gz").touch()
    n_cases = make_dataset_json()["numTraining"]
    intensities = {"max": 300, "mean": 50, "median": 50, "min": -100, "percentile_00_5": -90, "percentile_99_5": 280}
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": {**intensities, "std": 30.0}},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[20, 64, 48]] * n_cases,
        "spacings": [[5.0, 1.0, 1.25]] * n_cases,
    }
    (dataset.preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    return dataset


def _set_environment(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("nnUNet_raw", str(root / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(root / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(root / "results"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")


@pytest.fixture
def unplanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """Raw data and a fingerprint."""
    _set_environment(monkeypatch, tmp_path)
    return _lay_out(tmp_path)


@pytest.fixture(scope="session")
def planned_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What nnU-Net's plain and residual planners write, by file name."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
        nnUNetPlannerResEncM,
    )

    root = tmp_path_factory.mktemp("planned")
    dataset = _lay_out(root)
    with pytest.MonkeyPatch.context() as monkeypatch:
        _set_environment(monkeypatch, root)
        for planner in (ExperimentPlanner, nnUNetPlannerResEncM):
            planner(900).plan_experiment()
    return {file.name: file.read_text() for file in dataset.preprocessed.iterdir()}


@pytest.fixture
def dataset(unplanned: DataSet, planned_files: dict[str, str]) -> DataSet:
    """Raw data, plans `nnUNetPlans` and `nnUNetResEncUNetMPlans`, and the copied dataset.json."""
    for name, text in planned_files.items():
        (unplanned.preprocessed / name).write_text(text)
    return unplanned


@pytest.fixture
def failing_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A call after which nothing reaches the disk any more."""

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        yield lambda: patch.setattr("os.fsync", fail)
