"""`nnunet_mtl evaluate` as a user types it, on maps of a few voxels."""

import csv
import json

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
    assert last.endswith("AUC of malignancy 1.000; everything is in out")
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
    assert [line.split(" | ")[0] for line in table[2:]] == ["| bad", "| good"]
    # results of an earlier evaluation are taken as they are
    assert run("--runs", "out/bad", "good", "--single_task", "out/good", *words[:-1], "again") == 0
    printed = capsys.readouterr().out
    assert "out/bad: evaluated before, taken as it is" in printed
    assert "gain out_bad" not in printed
    assert "; gain bad -" in printed
    assert not (data.parent / "again" / "bad").exists()
    assert run("--runs", "out/bad", "good", "--hd95", "pooled", *words[:-1], "third") == 2
    assert "bad: was evaluated by other rules" in capsys.readouterr().err
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


def test_a_missing_image_costs_a_picture_and_nothing_else(data, capsys):
    (data / "imagesTr" / "case_0_0000.nii.gz").unlink()
    for number in range(1, 7):
        (data / "imagesTr" / f"case_{number}_0000.nii.gz").unlink()
    assert run("-pred", "good", "-ref", data / "labelsTr") == 0
    assert capsys.readouterr().out.count("no picture of the ") == 3
    assert not (data.parent / "good" / "evaluation" / "figures" / "worst.png").exists()
