"""A union of partially labelled cases in nnU-Net's folders, every image and label map a NIfTI file of a few voxels."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

# A tumour nests in the liver, a vessel of another task lies in it too: leaf 2 is in regions of two tasks.
DESCRIPTION: dict[str, Any] = {
    "name": "Union",
    "licence": "whose",
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": [1, 2, 3], "vessel": [2], "liver_tumour": [3], "kidney": [4], "ignore": 5},
    "regions_class_order": [1, 2, 3, 4],
    "numTraining": 0,
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver", "liver_tumour"]},
            "vessel": {"regions": ["vessel"]},
            "kidney": {"regions": ["kidney"]},
        },
        "cases": {},
    },
}
SHAPE = (2, 2, 4)
ORACLE = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 5


def write_map(path: Path, values: Any, spacing_mm: tuple[float, ...] = (1.0, 1.0, 3.0), kind: Any = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.asarray(values, kind).reshape(SHAPE))
    image.SetSpacing(spacing_mm)
    image.SetOrigin((-7.0, 3.0, 11.0))
    SimpleITK.WriteImage(image, str(path))


def read_map(path: Path) -> Any:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


@dataclass
class Union:
    """Data set 900 and what is made of it, in nnU-Net's three folders below `root`."""

    root: Path
    description: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(DESCRIPTION))

    @property
    def folder(self) -> Path:
        return self.root / "raw" / "Dataset900_Union"

    def made(self, number: int) -> Path:
        (folder,) = (self.root / "raw").glob(f"Dataset{number}_*")
        return folder

    def raw_names(self) -> list[str]:
        """Every entry of nnUNet_raw, hidden ones too."""
        return sorted(path.name for path in (self.root / "raw").iterdir())

    def write_description(self) -> None:
        self.description["numTraining"] = len(self.description["nnunet_mtl"]["cases"])
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "dataset.json").write_text(json.dumps(self.description))

    def add(self, case: str, annotated: list[str], values: Any) -> None:
        """Add a training case."""
        self.description["nnunet_mtl"]["cases"][case] = {"annotated": annotated}
        for channel in range(2):
            write_map(self.folder / "imagesTr" / f"{case}_000{channel}.nii.gz", np.zeros(SHAPE), kind=np.int16)
        write_map(self.folder / "labelsTr" / f"{case}.nii.gz", values)
        self.write_description()

    def label(self, number: int, case: str, folder: str = "labelsTr") -> Any:
        return read_map(self.made(number) / folder / f"{case}.nii.gz")

    def predictions(self, name: str, labels: dict[str, Any], order: list[int] | None, **maps: Any) -> Path:
        """Write a folder as nnUNetv2_predict leaves it."""
        folder = self.root / "predictions" / name
        folder.mkdir(parents=True, exist_ok=True)
        rest = {} if order is None else {"regions_class_order": order}
        described = {"channel_names": {"0": "CT"}, "labels": {"background": 0} | labels, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(described | rest))
        for case, values in maps.items():
            write_map(folder / f"{case}.nii.gz", values)
        return folder

    def fail_on(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Let os have no room left when it is to link."""
        monkeypatch.setattr(name, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device", "there")))


@pytest.fixture
def union(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Union:
    """Six cases: two for the liver, one in part, a vessel's, a kidney's, and one with everything."""
    for variable, folder in (("raw", "raw"), ("preprocessed", "pre"), ("results", "results")):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / folder))
        (tmp_path / folder).mkdir()
    found = Union(tmp_path)
    found.add("liver_0", ["liver"], np.where(ORACLE == 4, 0, ORACLE))
    found.add("liver_1", ["liver"], np.where(ORACLE == 3, 1, 0))
    found.add("organ_0", ["liver/liver"], np.where(ORACLE == 4, 0, ORACLE))
    found.add("vessel_0", ["vessel"], np.where(ORACLE == 2, 2, 0))
    found.add("kidney_0", ["kidney"], np.where(ORACLE == 4, 4, np.where(ORACLE == 0, 5, 0)))
    found.add("whole_0", ["liver", "vessel", "kidney"], ORACLE)
    return found


def cut(path: Path) -> None:
    """Leave out the end of a file, as a copy that was broken off does; ITK reads zeros there and says nothing."""
    path.write_bytes(path.read_bytes()[:-12])


def add_time(path: Path) -> None:
    """Give a map a fourth axis of two points in time."""
    values = read_map(path)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.stack([values, values]), isVector=False), str(path))


@pytest.fixture(params=[cut, add_time])
def spoil(request: pytest.FixtureRequest) -> Any:
    """What makes a file no label map, and what is said of it."""
    said = {cut: "cannot be read (the compressed file is damaged", add_time: "holds 2 channels or time points"}
    return request.param, said[request.param]
