"""Every kind is found, its command line is its options, and what it writes nnU-Net can read."""

import dataclasses
import subprocess
import sys
import typing
from importlib import import_module

import pytest

from nnunet_mtl.cli import main
from nnunet_mtl.lab.phantoms.kinds import KINDS, PhantomKind, all_arguments, phantom_kind
from nnunet_mtl.lab.phantoms.options import PhantomError
from nnunet_mtl.tasks import TaskSet, read_dataset_json


def _located(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", KINDS)
def test_the_arguments_of_a_kind_are_the_fields_of_its_options(name):
    kind = KINDS[name]
    fields = {field.name for field in dataclasses.fields(_located(kind.options))}
    assert set(kind.arguments) == fields


@pytest.mark.parametrize("name", KINDS)
def test_an_argument_has_the_type_of_its_field(name):
    kind = KINDS[name]
    types = typing.get_type_hints(_located(kind.options))
    for option, argument in kind.arguments.items():
        several = "tuple" in str(types[option])
        assert several == (argument.number is not None), option
        assert (types[option] is bool) == (argument.type is bool), option


@pytest.mark.parametrize("name", KINDS)
def test_kinds_that_share_an_argument_read_it_alike(name):
    for option, argument in KINDS[name].arguments.items():
        first, kinds = all_arguments()[option]
        assert name in kinds
        assert (argument.type, argument.number) == (first.type, first.number)


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(PhantomError, match="phantom kind 'lungs': must be one of organs"):
        phantom_kind("lungs")


def test_an_option_of_another_kind_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    kind = PhantomKind("", "Other", "", "", {"seed": KINDS["organs"].arguments["seed"]})
    with pytest.raises(PhantomError, match="option mimics: Other phantoms have none of this name, but seed"):
        kind.write(tmp_path / "x", {"seed": 1, "mimics": 2.0}, print, overwrite=False)
    assert main(["phantom", "-d", "8", "--kind", "lungs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lungs" in line
    assert not list(tmp_path.iterdir())


def test_listing_the_kinds_loads_none_of_them():
    code = "import sys, nnunet_mtl.lab.phantoms.kinds; print([m for m in sys.modules if m == 'numpy'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


SMALL = {
    "organs": ["--cases_per_task", "1", "--test_cases", "1", "--image_size", "16", "24", "24"],
    "ultrasound": ["--cases", "3", "--test_cases", "2", "--image_size", "48", "48"],
    "gastric": ["--cases", "2", "--test_cases", "1", "--image_size", "16", "24", "24"],
    "nested": ["--cases", "2", "--test_cases", "1", "--image_size", "16", "20", "20"],
    "dose": ["--cases", "2", "--test_cases", "1", "--image_size", "16", "24", "24"],
}


def test_every_kind_is_written_below():
    assert set(SMALL) == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_written_from_the_command_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert main(["phantom", "-d", "7", "--kind", name, *SMALL[name]]) == 0
    folder = tmp_path / f"Dataset007_{KINDS[name].dataset}"
    tasks = TaskSet.from_dataset_json(read_dataset_json(folder / "dataset.json"))
    oracle = TaskSet.from_dataset_json(read_dataset_json(folder / "labelsTs.json"))
    names = {path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir()}
    assert set(tasks.cases) == names
    assert oracle.compact() == tasks.compact()
    assert all(all(oracle.annotated(case)) for case in oracle.cases)
    assert "nnUNetv2_plan_and_preprocess -d 7" in capsys.readouterr().out.splitlines()[-1]
