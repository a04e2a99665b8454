import csv
import json

import numpy as np
import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.merge_predictions import merge_predictions
from nnunet_mtl.evaluation.answers.labelled_answers import read_labelled_answers
from nnunet_mtl.tasks import TaskSet

ORACLE = np.arange(16).reshape(2, 2, 4) % 5
HEAD = "case,task,class,probability,evidence_volume_mm3\n"


@pytest.fixture
def folders(union):
    """A network of the liver, and one of a question alone, whose map means nothing: it paints everything."""
    block = union.description["nnunet_mtl"]
    block["classification"] = {
        "malignancy": {"kind": "nominal", "classes": ["no", "yes"]},
        "age": {"kind": "ordinal", "classes": ["young", "old"]},
    }
    block["cases"]["liver_0"]["classes"] = {"malignancy": "yes", "age": "old"}
    union.write_description()
    liver = union.predictions("liver", {"liver": [1, 2], "liver_tumour": [2]}, [1, 2], liver_0=ORACLE.clip(0, 2))
    asked = union.predictions("asked", {"nothing": [1, 1]}, [1], liver_0=np.ones_like(ORACLE))
    answer(liver, "age", 0.3, 12.5)
    answer(asked, "malignancy", 0.9, None)
    return [liver, asked]


def answer(folder, question, probability, volume):
    classes = {"malignancy": ("no", "yes"), "age": ("young", "old")}[question]
    values = dict(zip(classes, (1 - probability, probability), strict=True))
    text = (folder / "classification.csv").read_text() if (folder / "classification.csv").is_file() else HEAD
    text += "".join(f"liver_0,{question},{name},{value},{volume or ''}\n" for name, value in values.items())
    (folder / "classification.csv").write_text(text)
    stored = {"probabilities": values, "answer": [classes[int(probability > 0.2)]], "evidence_volume_mm3": volume}
    content = {"tasks": {question: {"thresholds": [0.2]}}, "cases": {"liver_0": {question: stored}}}
    (folder / "classification.json").write_text(json.dumps(content))


def test_the_answers_of_all_networks_are_one_table(union, folders):
    with (folders[0] / "classification.csv").open("a") as file:
        file.write("liver_0,other,a,1,\n")  # not a question of the data set
    text = merge_predictions(union.folder, folders, union.root / "out")
    assert "2 folders, with the answers to age, malignancy:" in text
    with (union.root / "out" / "classification.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("liver_0", "age", "young", "0.7", "12.5"),
        ("liver_0", "age", "old", "0.3", "12.5"),
        ("liver_0", "malignancy", "no", str(1 - 0.9), ""),
        ("liver_0", "malignancy", "yes", "0.9", ""),
    ]
    answers = read_labelled_answers(
        union.root / "out" / "classification.csv", TaskSet.from_dataset_json(union.description), ["liver_0"]
    )
    assert answers["age"].thresholds == (0.2,)
    assert answers["age"].stored
    assert answers["malignancy"].stored


def test_the_map_of_a_question_alone_paints_nothing(union, folders):
    text = merge_predictions(union.folder, folders, union.root / "out")
    assert text.startswith("no folder predicts vessel, kidney")
    from SimpleITK import GetArrayFromImage, ReadImage

    merged = GetArrayFromImage(ReadImage(str(union.root / "out" / "liver_0.nii.gz")))
    np.testing.assert_array_equal(merged, np.array([0, 1, 3, 3, 3])[ORACLE])


def test_thresholds_are_stored_where_all_of_them_are(union, folders):
    (folders[0] / "classification.json").unlink()
    merge_predictions(union.folder, folders, union.root / "out")
    assert not (union.root / "out" / "classification.json").exists()


def test_no_answers_no_tables(union, folders):
    for folder in folders:
        (folder / "classification.csv").unlink()
    text = merge_predictions(union.folder, folders, union.root / "out")
    assert "with the answers" not in text
    assert not list((union.root / "out").glob("classification*"))


def test_two_answers_to_one_question_are_refused(union, folders):
    answer(folders[1], "age", 0.5, None)
    with pytest.raises(UserError, match=r"question age: answered by .*liver and .*asked; give one"):
        merge_predictions(union.folder, folders, union.root / "out")
    assert not (union.root / "out").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": {}, "cases": {}}'])
def test_stored_answers_that_are_none_are_refused(union, folders, content):
    (folders[1] / "classification.json").write_text(content)
    with pytest.raises(UserError, match=r"asked.classification\.json: is not what nnunet_mtl predict writes"):
        merge_predictions(union.folder, folders, union.root / "out")


def test_a_table_that_a_spreadsheet_saved_is_merged_as_it_was(union, folders):
    path = folders[0] / "classification.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace(",", ";").replace(".", ",").encode())
    merge_predictions(union.folder, folders, union.root / "out")
    with (union.root / "out" / "classification.csv").open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows[:2] == [("liver_0", "age", "young", "0.7", "12.5"), ("liver_0", "age", "old", "0.3", "12.5")]


def test_answers_of_other_cases_are_told(union, folders):
    path = folders[1] / "classification.csv"
    path.write_text(path.read_text().replace("liver_0", "stranger"))
    (folders[1] / "classification.json").unlink()
    text = merge_predictions(union.folder, folders, union.root / "out")
    assert f"{path}: question malignancy: 1 of 1 cases have no answer: liver_0; predict them\n" in text
    assert "question malignancy: 1 answered case(s) are no case here and do not count: stranger\n" in text
    assert "question age: " not in text


def test_a_network_that_was_never_taught_a_question_leaves_it_to_another(union, folders):
    text = (folders[0] / "classification.csv").read_text()
    (folders[0] / "classification.csv").write_text(
        text + "".join(f"liver_0,malignancy,{name},not available,\n" for name in ("no", "yes"))
    )
    merge_predictions(union.folder, folders, union.root / "out")
    assert "not available" not in (union.root / "out" / "classification.csv").read_text()
