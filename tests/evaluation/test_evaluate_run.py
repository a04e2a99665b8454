"""`nnunet_mtl evaluate` as a user types it, on maps of a few voxels."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.cli import main

CASES = [f"case_{number}" for number in range(7)]
DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2], "spleen": [3]},
    "regions_class_order": [1, 2, 3],
    "numTraining": 7,
    "file_ending": ".nii.gz",
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            "liver": {"regions": ["liver", "liver_tumour"], "slots": ["organ", "tumour"]},
            "spleen": {"regions": ["spleen"], "slots": ["organ"]},
        },
        "classification": {"malignancy": {"kind": "nominal", "classes": ["benign", "malignant"]}},
        "cases": {
            case: {
                "annotated": ["spleen"] if case == "case_6" else ["liver", "spleen"],
                "classes": {"malignancy": ["benign", "malignant"][number % 2]},
            }
            for number, case in enumerate(CASES)
        },
    },
}


def write(path, values):
    path.parent.mkdir(exist_ok=True, parents=True)
    image = SimpleITK.GetImageFromArray(np.asarray(values))
    image.SetSpacing((1.0, 1.0, 2.0))
    SimpleITK.WriteImage(image, str(path))


def labels(shift=0):
    volume = np.zeros((6, 10, 10), np.uint8)
    volume[1:5, 1 + shift : 6 + shift, 1:6] = 1
    volume[2:4, 2 + shift : 4 + shift, 2:4] = 2
    volume[1:4, 7:9, 6:9] = 3
    return volume


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set with references and images, and two runs: `good`, which also answers, and `bad`."""
    raw = tmp_path / "Dataset900_Tiny"
    for number, case in enumerate(CASES):
        write(raw / "labelsTr" / f"{case}.nii.gz", labels())
        write(raw / "imagesTr" / f"{case}_0000.nii.gz", labels().astype(np.float32) * 100)
        write(tmp_path / "good" / f"{case}.nii.gz", labels(number % 2))
        bad = labels(1 + number % 3)
        bad[0, 9, :7] = 1  # few enough to be beyond the percentile of both directions together
        write(tmp_path / "bad" / f"{case}.nii.gz", bad)
    (raw / "dataset.json").write_text(json.dumps(DESCRIPTION))
    with (tmp_path / "good" / "classification.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("case", "task", "class", "probability", "evidence_volume_mm3"))
        for number, case in enumerate(CASES):
            chance = 0.1 + 0.8 * (number % 2)
            writer.writerow((case, "malignancy", "benign", 1 - chance, ""))
            writer.writerow((case, "malignancy", "malignant", chance, ""))
    monkeypatch.setattr("nnunet_mtl.planning.folders.raw_folder", lambda dataset: raw)
    monkeypatch.chdir(tmp_path)
    return raw


def run(*words):
    return main(["evaluate", "-d", "900", "-np", "1", *map(str, words)])


def test_a_run_is_written_as_tables_and_figures(data, capsys):
    assert run("-pred", "good", "-ref", data / "labelsTr", "-o", "out") == 0
    printed = capsys.readouterr().out
    assert "empty masks: both empty, not available; one empty, overlaps 0 and distances the image diagonal" in printed
    assert "HD95: maximum of the two directed 95th percentiles" in printed
    last = printed.splitlines()[-1]
    assert last.startswith("7 cases, mean Dice of organ ")
    assert last.endswith("AUC of malignancy 1.000 (7 of 7 cases); everything is in out")
    lines = (data.parent / "out" / "cases.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * 3 + 1  # of the last case the spleen alone was annotated
    summary = json.loads((data.parent / "out" / "summary.json").read_text())
    assert summary["regions"]["spleen"]["metrics"]["dice"]["mean"] == 1
    assert summary["regions"]["liver_tumour"]["lesions"]["reference"] == 6
    assert summary["classification"]["malignancy"]["metrics"]["auc"] == 1
    assert summary["classification"]["malignancy"]["decided_by"] == "threshold 0.5"
    assert {path.name for path in (data.parent / "out" / "figures").iterdir()} == {
        *("dice.png", "volumes.png", "roc_malignancy.png", "reliability_malignancy.png"),
        *("worst.png", "median.png", "best.png"),
    }
    assert (data.parent / "out" / "table.md").read_text().startswith("| run | liver organ Dice |")
    assert "tabular" in (data.parent / "out" / "table.tex").read_text()


def test_pictures_are_measured_in_pixels_and_say_so(data, capsys):
    for folder, column in ((data / "labelsTr", 4), (data.parent / "pictures", 7)):
        folder.mkdir(exist_ok=True)
        square = np.zeros((10, 12), np.uint8)
        square[2:6, column : column + 2] = 3
        for case in CASES:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(square), str(folder / f"{case}.png"))
    (data / "dataset.json").write_text(json.dumps({**DESCRIPTION, "file_ending": ".png"}))
    words = ("-ref", data / "labelsTr", "--fully_labelled", "-o")
    assert run("-pred", "pictures", *words, "out") == 0
    printed = capsys.readouterr().out
    assert "units: these images have no spacing, so lengths and areas are in pixels" in printed
    assert "between the centres of surface voxels, in pixels" in printed
    assert "within 2 pixels" in printed
    assert " mm" not in printed
    with (data.parent / "out" / "cases.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["region"] == "spleen"]
    assert not [name for name in rows[0] if name.endswith(("_mm", "_ml"))]
    assert [float(rows[0][name]) for name in ("hd95_px", "area_px", "reference_area_px")] == [3, 8, 8]
    metrics = json.loads((data.parent / "out" / "summary.json").read_text())["regions"]["spleen"]["metrics"]
    assert metrics["hd95_px"]["mean"] == 3
    assert "hd95_mm" not in metrics
    assert "HD95 (pixels)" in (data.parent / "out" / "table.md").read_text()
    (data.parent / "again").mkdir()
    assert run("--runs", "out", data / "labelsTr", *words, "both", "--no_figures") == 0
    compared = (data.parent / "both" / "comparison.json").read_text()
    assert "hd95_px" in compared
    assert "hd95_mm" not in compared
    assert "HD95 (pixels)" in (data.parent / "both" / "table.tex").read_text()


def test_a_data_set_without_a_file_ending_is_one_line(data, capsys):
    (data / "dataset.json").write_text(json.dumps({k: v for k, v in DESCRIPTION.items() if k != "file_ending"}))
    assert run("-pred", "good", "-ref", data / "labelsTr") == 2
    assert "dataset.json: file_ending: must be given" in capsys.readouterr().err


def test_options_change_what_they_name(data):
    references = data / "labelsTr"
    figures = ("-ref", references, "--no_figures", "-o")
    assert run("-pred", "bad", *figures, "one") == 0
    more = ("--tolerance", "0.1", "liver=9", "--hd95", "pooled", "--both_empty", "perfect", "--one_empty", "constant")
    assert run("-pred", "bad", *figures, "two", *more, "--lesions", "spleen", "--lesion_share", "0.5") == 0
    one, two = (json.loads((data.parent / name / "summary.json").read_text()) for name in ("one", "two"))
    nsd = [
        [each["regions"][name]["metrics"]["nsd"]["mean"] for name in ("liver", "liver_tumour")] for each in (one, two)
    ]
    assert nsd[1][0] > nsd[0][0]
    assert nsd[1][1] < nsd[0][1]
    distances = [each["regions"]["liver"]["metrics"]["hd95_mm"]["mean"] for each in (one, two)]
    assert distances[1] < distances[0]
    assert "lesions" in two["regions"]["spleen"]
    assert "lesions" not in two["regions"]["liver_tumour"]
    assert any("373.13" in rule and "both empty, perfect" in rule for rule in two["rules"])
    assert not (data.parent / "two" / "figures").exists()


def test_runs_are_compared_and_ranked(data, capsys):
    words = ("-ref", data / "labelsTr", "--no_figures", "-o", "out")
    assert run("--runs", "bad", "good", *words) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "ranks good 1, bad 2; everything is in out"
    compared = json.loads((data.parent / "out" / "comparison.json").read_text())
    assert {one["region"] for one in compared["tests"]["comparisons"]} == {"liver", "liver_tumour", "spleen"}
    assert compared["answers"] == []  # only one of them answers
    table = (data.parent / "out" / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| bad", "| good", "| of"]
    # results of an earlier evaluation are taken as they are
    assert run("--runs", "out/bad", "good", "--single_task", "out/good", *words[:-1], "again") == 0
    printed = capsys.readouterr().out
    assert "out/bad: evaluated before, read and not evaluated again" in printed
    assert "gain out_bad" not in printed
    assert "; gain bad -" in printed
    assert not (data.parent / "again" / "bad").exists()
    assert run("--runs", "out/bad", "good", "--hd95", "pooled", *words[:-1], "third") == 2
    assert "bad: was evaluated with other options" in capsys.readouterr().err
    assert (data.parent / "again" / "good" / "cases.csv").is_file()


def test_nothing_is_written_where_anything_is_wrong(data, capsys):
    (data.parent / "good" / "case_1.nii.gz").unlink()
    write(data.parent / "good" / "case_2.nii.gz", labels() * 30)
    write(data.parent / "good" / "case_3.nii.gz", labels()[:4])
    write(data.parent / "good" / "case_4.nii.gz", labels().astype(np.float32) / 2)
    assert run("-pred", "good", "-ref", data / "labelsTr", "-o", "out") == 2
    printed = capsys.readouterr()
    assert all(f"case_{number}: " in printed.err for number in (1, 2, 3, 4))
    assert "case_5" not in printed.err
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-pred", "nowhere"), "nowhere: is no folder"),
        (("-pred", "good", "--tolerance", "wide"), "must be a number of mm, or REGION=MM"),
        (("-pred", "good", "--tolerance", "heart=2"), "--tolerance: heart is no region; there are liver"),
        (("-pred", "good", "--lesions", "liver_tumor"), "liver_tumor is no region (did you mean liver_tumour?); there"),
        (("-pred", "good", "--tolerance", "-1"), "use a finite number"),
        (("-pred", "good", "--lesions", "heart"), "--lesions: heart is no region"),
        (("-pred", "good", "--lesion_share", "2"), "use a number from 0 to 1"),
        (("-pred", "good", "--single_task", "bad"), "--single_task: is for comparing"),
        (("--runs", "good"), "one run cannot be compared"),
        (("--runs", "good", "good"), "name a folder twice"),
        (("-pred", "good", "-np", "0"), "-np 0: use 1 or more"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(data, capsys, words, message):
    assert run(*words, "-ref", data / "labelsTr") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_runs_whose_folders_differ_only_in_case_get_folders_that_differ_in_more(data):
    for name in ("one/Good", "two/good"):
        shutil.copytree("good", name)
    assert run("--runs", "one/Good", "two/good", "-ref", data / "labelsTr", "-o", "out", "--no_figures") == 0
    assert sorted(path.name for path in Path("out").iterdir() if path.is_dir()) == ["one_Good", "two_good"]


def test_the_name_of_a_run_is_that_of_a_folder(data, capsys):
    shutil.copytree("good", "x" * 121)
    assert run("--runs", "good", "x" * 121, "-ref", data / "labelsTr", "-o", "out") == 2
    error = capsys.readouterr().err
    assert "must not be longer than 120 characters, and has 121; rename the folder" in error
    assert error.count("\n") == 1


def test_a_missing_image_costs_a_picture_and_nothing_else(data, capsys):
    (data / "imagesTr" / "case_0_0000.nii.gz").unlink()
    for number in range(1, 7):
        (data / "imagesTr" / f"case_{number}_0000.nii.gz").unlink()
    assert run("-pred", "good", "-ref", data / "labelsTr") == 0
    printed = capsys.readouterr().out
    assert "imagesTr: 7 of 7 cases have no image CASE_0000.nii.gz, so no picture: case_0, " in printed
    assert printed.index("7 of 7 cases have no image") < printed.index("HD95: ")  # before anything is scored
    assert printed.count("no picture good/evaluation/figures/") == 3
    assert not (data.parent / "good" / "evaluation" / "figures" / "worst.png").exists()


# ---- files as people have them


def one_problem(capsys, *words):
    assert run(*words, "--no_figures") == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("  ")]
    assert "Traceback" not in error
    return lines[0] if lines else error.strip().splitlines()[-1]


@pytest.mark.parametrize("place", ["good", "labelsTr"])
def test_a_truncated_map_is_named_before_anything_is_scored(data, capsys, place):
    folder = data / place if place == "labelsTr" else data.parent / place
    path = folder / "case_3.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    message = one_problem(capsys, "-pred", "good", "-ref", data / "labelsTr")
    assert message.startswith("  case_3: ")
    assert f"{place}/case_3.nii.gz: cannot be read (the compressed file is damaged" in message
    # of several runs nothing is scored either
    one_problem(capsys, "--runs", "bad", "good", "-ref", data / "labelsTr", "-o", "out")
    assert not (data.parent / "out").exists()


def test_a_map_with_a_fourth_axis_is_named(data, capsys):
    image = SimpleITK.GetImageFromArray(np.stack([labels(), labels()]), isVector=False)
    SimpleITK.WriteImage(image, str(data.parent / "good" / "case_2.nii.gz"))
    message = one_problem(capsys, "-pred", "good", "-ref", data / "labelsTr")
    assert "good/case_2.nii.gz: holds 2 channels or time points, a label map has one" in message


def stock(folder, described, values, ending=".nii.gz"):
    """Write what another network would have: its own description, and its own values."""
    for number, case in enumerate(CASES):
        write(folder / f"{case}.nii.gz", values[labels(number % 2)])
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ending, **described}))


def dices(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return {name: region["metrics"]["dice"]["mean"] for name, region in summary["regions"].items()}


def test_another_networks_values_are_matched_by_name(data, capsys):
    words = ("-ref", data / "labelsTr", "-o")
    assert run("-pred", "good", *words, "expected") == 0
    described = {
        "labels": {"background": 0, "spleen": [1, 1], "liver": [2, 3], "liver_tumour": [3]},
        "regions_class_order": [1, 2, 3],
    }
    stock(data.parent / "turned", described, np.array([0, 2, 3, 1], np.uint8))
    assert run("-pred", "turned", *words, "found") == 0
    assert dices(data.parent / "found") == dices(data.parent / "expected")
    for name in ("worst", "median", "best"):  # the same colours too
        pictures = [data.parent / folder / "figures" / f"{name}.png" for folder in ("found", "expected")]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()
    stock(data.parent / "stock", {"labels": {"background": 0, "spleen": 1}}, np.array([0, 0, 0, 1], np.uint8))
    capsys.readouterr()
    assert run("-pred", "stock", *words, "alone") == 0
    printed = capsys.readouterr().out
    assert "stock/dataset.json: does not predict liver, liver_tumour: not scored" in printed
    assert dices(data.parent / "alone") == {"spleen": 1}
    # its cases are compared by what both predict
    assert run("--runs", "stock", "good", "--no_figures", *words, "both") == 0
    assert run("--runs", "good", "--single_task", "stock", "--no_figures", *words, "gain") == 2
    assert "liver is not available in the single-task run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"labels": {"background": 0, "liver": 1, "liver_tumour": 2}}, "liver_tumour is not part of liver there"),
        ({"labels": {"background": 0, "kidney": 1}}, "predicts kidney, none of the data set's regions liver"),
        ({"labels": {"background": 0, "spleen": 1}, "file_ending": ".nrrd"}, "file_ending .nrrd, the data set's is"),
        ({"labels": {}}, "dataset.json: labels"),
    ],
)
def test_values_that_cannot_be_matched_are_refused(data, capsys, described, message):
    (data.parent / "good" / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz", **described}))
    assert message in one_problem(capsys, "-pred", "good", "-ref", data / "labelsTr")
    assert not (data.parent / "good" / "evaluation").exists()


def test_references_of_another_data_set_are_refused(data, capsys):
    other = {**DESCRIPTION, "labels": {**DESCRIPTION["labels"], "liver": [1, 2, 3], "spleen": [1]}}
    other |= {"regions_class_order": [3, 2, 1]}
    (data / "labelsTr.json").write_text(json.dumps(other))
    message = one_problem(capsys, "-pred", "good", "-ref", data / "labelsTr")
    assert "labelsTr.json: liver has the values [1, 2, 3], in the data set [1, 2]; give the data set" in message


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(data, capsys):
    images = data / "imagesTr"
    for case in CASES:
        write(images / f"{case}_0000.nii.gz", labels().astype(np.float32)[:, :, :4])
    assert run("--runs", "good", "bad", "-ref", data / "labelsTr", "-o", "out") == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("case_4: no picture can be made, "))
    assert line.endswith(
        "case_4_0000.nii.gz has (4, 10, 6) voxels (x first), its label map (10, 10, 6); check --images"
    )
    assert printed.index(line) < printed.index("HD95: ")
    assert "no picture out/good/figures/worst.png: " in printed
    assert "the image has (6, 10, 4) voxels, the reference has (6, 10, 10) voxels" in printed
    assert (data.parent / "out" / "comparison.json").is_file()
    assert (data.parent / "out" / "good" / "figures" / "dice.png").is_file()


def test_answers_that_a_spreadsheet_saved(data, capsys):
    """A byte-order mark; a case whose zeros are gone, one without an answer, one that nobody knows."""
    raw, folder = data, data.parent / "excel"
    renamed = dict(zip(CASES, ("007", "1a", "2a", "3a", "4a", "5a", "6a"), strict=True))
    for new in renamed.values():
        write(raw / "labelsTs" / f"{new}.nii.gz", labels())
        write(folder / f"{new}.nii.gz", labels())
    block = DESCRIPTION["nnunet_mtl"]
    cases = {renamed[case]: known for case, known in block["cases"].items()}
    (raw / "dataset.json").write_text(json.dumps({**DESCRIPTION, "nnunet_mtl": {**block, "cases": cases}}))
    rows = ["case;task;class;probability;evidence_volume_mm3"]
    for number, case in enumerate(["7", "1a", "2a", "3a", "4a", "5a", "stranger"]):
        chance = ("0,125", "0,875")[number % 2]
        rows += [f"{case};malignancy;malignant;{chance};", f"{case};malignancy;benign;{1 - float(chance[2:]) / 1000};"]
    text = "\r\n".join(rows).replace("0.", "0,")
    (folder / "classification.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run("-pred", "excel", "-ref", raw / "labelsTs", "-o", "out") == 0
    printed = capsys.readouterr().out
    start = "excel/classification.csv: question malignancy: "
    assert f"{start}2 of 7 cases have no answer: 007, 6a; predict them" in printed
    assert f"{start}2 answered case(s) are no case here and do not count: 7, stranger" in printed
    assert f"{start}7 for 007: a spreadsheet drops leading zeros" in printed
    assert "AUC of malignancy 1.000 (5 of 7 cases)" in printed.splitlines()[-1]
    question = json.loads((data.parent / "out" / "summary.json").read_text())["classification"]["malignancy"]
    assert (question["n_cases"], question["n_labelled"]) == (5, 7)
    assert (question["unanswered"], question["unknown"]) == (["007", "6a"], ["7", "stranger"])
    # figures of different cases are never held against each other, whether scored now or before
    whole = data.parent / "whole"
    for new in renamed.values():
        write(whole / f"{new}.nii.gz", labels())
    (whole / "classification.csv").write_text(text.replace("7;", "007;").replace("stranger", "6a").replace(",", "."))
    assert run("--runs", "out", "whole", "-ref", raw / "labelsTs", "-o", "both", "--no_figures") == 2
    message = "malignancy: out answers 5 cases without 007, 6a, whole 7 cases; predict the same cases with both"
    assert message in capsys.readouterr().err
    assert not (data.parent / "both").exists()


def test_a_table_of_answers_nobody_asked_for_is_told(data, capsys):
    block = {key: value for key, value in DESCRIPTION["nnunet_mtl"].items() if key != "classification"}
    cases = {case: {"annotated": known["annotated"]} for case, known in block["cases"].items()}
    (data / "dataset.json").write_text(json.dumps({**DESCRIPTION, "nnunet_mtl": {**block, "cases": cases}}))
    assert run("-pred", "good", "-ref", data / "labelsTr", "--no_figures") == 0
    assert "good/classification.csv: is not read: " in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", '{"rules": [], "classification": []}'])
def test_a_broken_summary_of_an_earlier_evaluation_is_named(data, capsys, content):
    assert run("-pred", "good", "-ref", data / "labelsTr", "--no_figures", "-o", "before") == 0
    (data.parent / "before" / "summary.json").write_text(content)
    message = one_problem(capsys, "--runs", "before", "bad", "-ref", data / "labelsTr", "-o", "out")
    assert "before/summary.json: is " in message
    assert message.endswith("give the folder of predictions, which is then evaluated again")
