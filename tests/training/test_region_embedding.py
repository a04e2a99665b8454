import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.training.region_embedding import read_region_embedding

REGIONS = ["liver", "liver_tumour", "spleen"]


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(value) for name, value in content.items()})
    else:
        path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["names.npz", "names.json", "NAMES.JSON"])
def test_a_file_is_read_in_the_order_of_the_regions(tmp_path: Path, name: str) -> None:
    content = {"kidney": [0.0], "spleen": [1, 2], "liver_tumour": [3.5, 4], "liver": [-5, 0]}
    embedding = read_region_embedding(write(tmp_path / name, content), REGIONS)
    assert embedding.dtype == torch.float32
    assert embedding.tolist() == [[-5, 0], [3.5, 4], [1, 2]]


GOOD = {"liver": [1.0, 2.0], "liver_tumour": [3.0, 4.0], "spleen": [5.0, 6.0]}


@pytest.mark.parametrize("name", ["names.npz", "names.json"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"spleen": [1.0, 2.0, 3.0]}, "spleen has 3 numbers, that of liver 2"),
        ({"spleen": [1.0, float("nan")]}, "spleen is all zero or has numbers that are not finite"),
        ({"spleen": [1.0, 1e300]}, "spleen is all zero or has numbers that are not finite"),
        ({"liver": [0.0, 0.0]}, "liver is all zero or has numbers"),
        ({"liver": [[1.0, 2.0]]}, "liver must be a list of numbers"),
        ({"liver": []}, "liver must be a list of numbers"),
        ({"liver": 1.0}, "liver must be a list of numbers"),
        ({"liver": ["1", "2"]}, "liver must be a list of numbers"),
        ({"liver": [True, False]}, "liver must be a list of numbers"),
    ],
)
def test_what_is_no_embedding_is_refused_in_one_line(
    tmp_path: Path, name: str, change: dict[str, Any], problem: str
) -> None:
    path = write(tmp_path / name, GOOD | change)
    with pytest.raises(UserError, match=problem) as caught:
        read_region_embedding(path, REGIONS)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["names.npz", "names.json"])
def test_every_region_without_an_embedding_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, {"spleen": [1.0]})
    with pytest.raises(UserError, match="no embedding of liver, liver_tumour; add it"):
        read_region_embedding(path, REGIONS)


def object_array(path: Path) -> None:
    np.savez(path, liver=np.array([{}, {}], dtype=object))


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def damaged_archive(path: Path) -> None:
    np.savez(path, **{name: np.arange(500.0) for name in GOOD})
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "make", "problem"),
    [
        ("names.npy", lambda path: np.save(path, np.ones(3)), "must be a .npz or .json file"),
        ("missing.npz", lambda path: None, "cannot be read .*; check the path"),
        ("missing.json", lambda path: None, "cannot be read .*; check the path"),
        ("names.npz", lambda path: path.write_bytes(b""), "is no valid .npz file"),
        ("names.npz", lambda path: path.write_text("no archive"), "is no valid .npz file"),
        ("names.npz", object_array, "is no valid .npz file"),
        ("names.npz", one_array, "is no valid .npz file"),
        ("names.npz", damaged_archive, "is no valid .npz file"),
        ("names.json", lambda path: path.write_bytes(b"\xff{"), "is no valid .json file"),
        ("names.json", lambda path: path.write_text("{"), "is no valid .json file"),
        ("names.json", lambda path: path.write_text('{"liver":' + "[" * 100_000), "is no valid .json file"),
        ("names.json", lambda path: path.write_text("[1, 2]"), "must hold an object of lists by region, holds a list"),
        ("names.json", lambda path: path.write_text('{"liver": [[1], [1, 2]]}'), "liver must be a list of numbers"),
        ("names.json", lambda path: path.write_text('{"liver": [1, {}]}'), "liver must be a list of numbers"),
        ("names.json", lambda path: path.write_text('{"liver": [1, 1' + "0" * 400 + "]}"), "must be a list of numbers"),
    ],
)
def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path, name: str, make: Any, problem: str) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError, match=problem) as caught:
        read_region_embedding(path, ["liver"])
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
