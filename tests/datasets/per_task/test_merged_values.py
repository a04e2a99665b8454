import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.cli import main
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.merge_predictions import merge_predictions
from nnunet_mtl.datasets.per_task.merged_values import FOLDER
from nnunet_mtl.inference import voxel_values

SHAPE = (2, 2, 4)
PAGE = (Path(__file__).parents[3] / "docs" / "stl.md").read_text(encoding="utf-8")


@pytest.fixture
def folders(union):
    """A network of the liver, and one of a dose beside it, of two cases."""
    union.description["channel_names"] = {"0": "CT", "1": "noNorm"}
    block = union.description["nnunet_mtl"]
    block["tasks"]["dose"] = {"type": "regression", "channel": 1, "inside": "liver"}
    union.write_description()
    nothing = np.zeros(SHAPE)
    liver = union.predictions("liver", {"liver": [1, 2], "liver_tumour": [2]}, [1, 2], a=nothing, b=nothing)
    dosed = union.predictions("dosed", {"nothing": [1, 1]}, [1], a=nothing, b=nothing)
    predict(dosed, "dose", "a", "b")
    return [liver, dosed]


def predict(folder, task, *cases):
    """Write what is no label: fractions, below 0 too."""
    (folder / "regression" / task).mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(cases):
        values = np.linspace(-1.5, 60.25 + number, 16, dtype=np.float32).reshape(SHAPE)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(folder / "regression" / task / f"{case}.nii.gz"))


def refusal(union, folders):
    with pytest.raises(UserError) as error:
        merge_predictions(union.folder, folders, union.root / "out")
    assert not (union.root / "out").exists()
    return str(error.value)


def test_the_values_come_along_bit_by_bit(union, folders):
    predict(folders[1], "heat", "a")  # not a task of the data set
    (folders[0] / "regression" / "dose").mkdir(parents=True)  # where another run had nothing to write
    text = merge_predictions(union.folder, folders, union.root / "out")
    assert "merged 2 cases of 2 folders, with the values of dose: " in text.splitlines()[-1]
    made = union.root / "out" / "regression"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*.*")) == ["dose/a.nii.gz", "dose/b.nii.gz"]
    for case in ("a", "b"):
        given = folders[1] / "regression" / "dose" / f"{case}.nii.gz"
        assert (made / "dose" / f"{case}.nii.gz").read_bytes() == given.read_bytes()


def test_no_values_no_folder(union, folders):
    text = merge_predictions(union.folder, folders[:1], union.root / "out")
    assert "the values of" not in text
    assert not (union.root / "out" / "regression").exists()


def test_the_message_names_answers_and_values(union, folders, capsys):
    union.description["nnunet_mtl"]["classification"] = {"age": {"kind": "ordinal", "classes": ["young", "old"]}}
    union.write_description()
    table = "case,task,class,probability,evidence_volume_mm3\na,age,young,0.5,\na,age,old,0.5,\n"
    (folders[0] / "classification.csv").write_text(table)
    words = ["-i", *map(str, folders), "-o", str(union.root / "out"), "-d", "900"]
    assert main(["merge-predictions", *words]) == 0
    assert ", with the answers to age and the values of dose: " in capsys.readouterr().out.splitlines()[-1]


def test_a_task_that_two_folders_have_is_refused_before_anything_is_written(union, folders):
    predict(folders[0], "dose", "a", "b")
    text = refusal(union, folders)
    assert text == f"task dose: predicted by {folders[0]} and {folders[1]}; give one; nothing was written"


def test_a_case_without_values_is_named(union, folders):
    (folders[1] / "regression" / "dose" / "b.nii.gz").unlink()
    assert refusal(union, folders) == (
        f"{folders[1] / 'regression' / 'dose'}: 1 case(s) missing: b; predict them; nothing was written"
    )


def test_the_gain_of_a_dose_as_the_page_computes_it(union, monkeypatch):
    """Errors of 1 and 4, so the dose gains 3/4; the regions gain 0.1 and -0.4."""
    monkeypatch.chdir(union.root)
    raw = union.root / "nnUNet_raw" / "Dataset900_Union"
    maps = {"test_hps/regression/dose": 2, "test_stl/regression/dose": 5, str(raw / "regressionTs/dose"): 1}
    for folder, value in {**maps, str(raw / "labelsTs"): 1}.items():
        Path(folder).mkdir(parents=True)
        image = SimpleITK.GetImageFromArray(np.full(SHAPE, value, np.float32))
        SimpleITK.WriteImage(image, str(Path(folder, "a.nii.gz")))
    (union.root / "gain").mkdir()
    of_regions = {"runs": {"test_hps": {"of_metric": {"liver": 0.1, "vessel": -0.4}}}}
    (union.root / "gain" / "comparison.json").write_text(json.dumps({"gain": of_regions}))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    found = {}
    exec(code, found)
    assert found["delta"] == pytest.approx((3 / 4 + 0.1 - 0.4) / 3)


def test_that_the_folder_is_the_one_that_predict_writes():
    assert FOLDER == voxel_values.FOLDER


def test_a_truncated_map_of_values_is_named(union, folders):
    path = folders[1] / "regression" / "dose" / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:-12])
    assert refusal(union, folders).startswith(f"{path}: the compressed file is damaged (")
