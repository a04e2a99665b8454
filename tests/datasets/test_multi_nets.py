"""The three commands as somebody types them, one after the other, and the page that describes them."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from nnunet_mtl.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "multi_nets.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
REGIONS = ("liver", "liver_tumour", "vessel", "kidney")
OURS = [shlex.split(line)[1:] for line in LINES if line.startswith("nnunet_mtl ")]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_the_commands_of_the_page_are_understood(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--no_such_option"])
    assert capsys.readouterr().err.splitlines()[-1].endswith("unrecognized arguments: --no_such_option")


def predicted(union, number, name, part):
    """Predict what is in the label maps of an extract; without a network, rightly."""
    described = json.loads((union.made(number) / "dataset.json").read_text())
    labels = {key: value for key, value in described["labels"].items() if key not in ("background", "ignore")}
    return union.predictions(name, labels, described.get("regions_class_order"), **part)


def test_from_the_union_to_the_evaluation_and_to_the_student(union, capsys, monkeypatch):
    monkeypatch.chdir(union.root)
    oracle = union.label(900, "whole_0")
    tests = union.folder / "labelsTs"
    tests.mkdir()
    (union.folder / "labelsTr" / "whole_0.nii.gz").rename(tests / "whole_0.nii.gz")
    for path in (union.folder / "imagesTr").glob("whole_0*"):
        path.unlink()
    block = union.description["nnunet_mtl"]
    table = block | {"cases": {"whole_0": block["cases"].pop("whole_0")}}
    (union.folder / "labelsTs.json").write_text(json.dumps(union.description | {"nnunet_mtl": table}))
    union.write_description()

    folders = []
    for number, task in enumerate(("liver", "vessel", "kidney"), start=901):
        assert main(["extract", "-d", "900", "-t", task, "-o", str(number)]) == 0
        assert f"nnUNetv2_plan_and_preprocess -d {number}" in capsys.readouterr().out.splitlines()[-1]
        seen = union.label(number, "whole_0", "labelsTs")
        cases = dict.fromkeys(union.description["nnunet_mtl"]["cases"], seen)
        folders.append(str(predicted(union, number, f"train_{task}", cases)))
        predicted(union, number, f"test_{task}", {"whole_0": seen})

    tested = [folder.replace("train_", "test_") for folder in folders]
    assert main(["merge-predictions", "-i", *tested, "-o", "merged", "-d", "900"]) == 0
    assert "next: nnunet_mtl evaluate -pred merged" in capsys.readouterr().out.splitlines()[-1]
    words = ["-ref", str(tests), "-d", "900", "--no_figures", "-np", "1"]
    assert main(["evaluate", "-pred", "merged", *words]) == 0
    summary = json.loads((union.root / "merged" / "evaluation" / "summary.json").read_text())
    with (union.root / "merged" / "evaluation" / "cases.csv").open(newline="") as file:
        assert {line["region"]: float(line["dice"]) for line in csv.DictReader(file)} == dict.fromkeys(REGIONS, 1.0)
    assert "tasks kidney, liver, vessel are scored by maps of their own" in summary["overlaps"]

    assert main(["complete-labels", "-d", "900", "-i", *folders, "-o", "910", "--name", "Student"]) == 0
    assert "nnUNetv2_plan_and_preprocess -d 910" in capsys.readouterr().out.splitlines()[-1]
    np.testing.assert_array_equal(union.label(910, "liver_0"), oracle)

    capsys.readouterr()
    for words, complaint in (
        (["extract", "-d", "900", "-t", "lung", "-o", "904"], "-t 'lung': no such task"),
        (["merge-predictions", "-i", *tested, "-o", "merged", "-d", "900"], "merged: is there already"),
        (["complete-labels", "-d", "900", "-i", *folders, "-o", "910"], "-o 910: the id is taken"),
        (["complete-labels", "-d", "900", "-i", *folders, "-o", "911", "--least_confidence", "2"], "is a probability"),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("nnunet_mtl: error: ")
        assert complaint in line
