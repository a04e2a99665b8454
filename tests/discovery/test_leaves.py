"""Trainers of a package and of the user's folders; files of theirs are written into a temporary folder."""

import importlib
import os
import pickle
import sys
from pathlib import Path

import pytest

from nnunet_mtl.discovery import DiscoveryError, look_up, shim_folder
from nnunet_mtl.discovery.leaves import announced_trainers, leaves
from nnunet_mtl.lab.methods.catalogue import methods, package_methods
from nnunet_mtl.training.trainer import MultiTaskTrainer

ROOT = Path(__file__).parents[2]
VARIABLE = "nnUNet_extTrainer"
LEAF = '''"""{title}

After Hu, Shen, Sun, Squeeze-and-excitation networks, CVPR 2018.
"""

from {base.__module__} import {base.__name__}


class {name}({base.__name__}):
    """A trainer of the test."""
'''
SHIM = 'from nnunet_mtl.discovery.leaves import leaves\n\nglobals().update(leaves("leaves_of_mine"))\n'


def write_leaf(folder: Path, name: str, title: str = "Mine.", base: type = MultiTaskTrainer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(LEAF.format(title=title, name=name, base=base))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a leaf and another module, and a folder with its shim that is announced."""
    folder = tmp_path / "leaves_of_mine"
    write_leaf(folder, "nnUNetTrainerMine")
    (folder / "mechanism.py").write_text("raise AssertionError('a module that is no leaf is not imported')")
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "shim_of_mine.py").write_text(SHIM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path / "shim"), str(shim_folder())]))
    for name in [name for name in sys.modules if name.startswith("leaves_of_mine")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return folder


def test_leaves_are_the_files_of_the_folder() -> None:
    files = {path.stem for path in (ROOT / "trainers").glob("*.py")} - {"__init__"}
    found = leaves("nnunet_mtl.trainers")
    assert files
    assert set(found) == files
    assert all(trainer.__module__ == f"nnunet_mtl.trainers.{name}" for name, trainer in found.items())


def test_a_leaf_without_its_class_is_refused(package: Path) -> None:
    (package / "nnUNetTrainerEmpty.py").write_text("")
    with pytest.raises(DiscoveryError, match=r"nnUNetTrainerEmpty\.py: defines no class nnUNetTrainerEmpty"):
        leaves("leaves_of_mine")


def test_a_shim_lets_nnunet_find_the_same_class_again(package: Path) -> None:
    trainer = look_up("nnUNetTrainerMine")
    assert look_up("nnUNetTrainerMine") is trainer
    assert trainer.__module__ == "leaves_of_mine.nnUNetTrainerMine"
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    assert announced_trainers() == {"nnUNetTrainerMine": trainer}


def test_methods_are_those_of_the_package_and_the_announced_ones(package: Path) -> None:
    write_leaf(package, "nnUNetTrainerTwo", title="Two.")
    *known, first, second = methods()
    assert tuple(known) == package_methods()
    assert [(method.name, method.title, method.paper) for method in (first, second)] == [
        ("nnUNetTrainerMine", "Mine.", "Hu et al., CVPR 2018"),
        ("nnUNetTrainerTwo", "Two.", "Hu et al., CVPR 2018"),
    ]


def test_a_leaf_in_the_announced_folder_itself_and_below_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nnU-Net finds it too, though not as the same class again."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_leaf(first, "nnUNetTrainerDirect")
    # a base that is imported by its name is no trainer of the folder
    (first / "other.py").write_text("from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n")
    write_leaf(first / "below", "nnUNetTrainerBelow")
    (first / "below" / "__init__.py").write_text("")
    write_leaf(second, "nnUNetTrainerDirect", title="Hidden by the first folder.")
    monkeypatch.setenv(VARIABLE, os.pathsep.join(["", str(first), str(second), str(tmp_path / "missing")]))
    found = announced_trainers()
    assert sorted(found) == ["nnUNetTrainerBelow", "nnUNetTrainerDirect"]
    assert found["nnUNetTrainerBelow"].__module__ == "below.nnUNetTrainerBelow"
    assert not [name for name in sys.modules if name.endswith(("nnUNetTrainerDirect", "nnUNetTrainerBelow"))]
    assert str(first) not in sys.path


def test_nothing_is_announced_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert announced_trainers() == {}


@pytest.mark.parametrize("content", ["import a_module_that_is_missing", "raise SystemExit('no commands supplied')"])
def test_a_file_that_cannot_be_imported_is_named(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_file.py").write_text(content)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(DiscoveryError, match=r"broken_file: cannot be imported \((Module|System)\w+: .*\); mend"):
        announced_trainers()
