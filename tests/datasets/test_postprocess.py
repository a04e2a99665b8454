import json
import shutil

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.cli import main
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.postprocess import postprocess

LABELS = {"liver": [1, 2, 3], "vessel": [2, 2], "liver_tumour": [3, 3], "kidney": [4, 4]}
ORDER = [1, 2, 3, 4]
# Two pieces of liver, each with a tumour; a vessel in the larger; two kidneys.
MAP = np.array([[[1, 1, 0, 4], [3, 2, 0, 4]], [[1, 0, 0, 0], [0, 0, 0, 3]]])


@pytest.fixture
def folder(union):
    return union.predictions("pred", LABELS, ORDER, a=MAP, b=np.zeros(MAP.shape))


def read(union, *parts):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(union.root.joinpath("out", *parts))))


def run(union, folder, rules=None):
    path = union.root / "rules.json"
    path.write_text(json.dumps(rules))
    return postprocess(union.folder, folder, union.root / "out", "published" if rules is None else str(path))


def test_the_published_rules_are_the_default(union, folder):
    text = run(union, folder)
    # The lone tumour is no liver any more; of two tumours of one voxel neither has more than 50, but one is alone now.
    expected = MAP.copy()
    expected[1, 1, 3] = 0
    assert np.array_equal(read(union, "a.nii.gz"), expected)
    assert not read(union, "b.nii.gz").any()
    assert text.startswith("no rule for vessel: left as predicted\nprocessed 2 cases by 3 rules")
    dataset_json = json.loads((union.root / "out" / "dataset.json").read_text())
    assert dataset_json == json.loads((folder / "dataset.json").read_text())


def test_maps_keep_their_grid(union, folder):
    run(union, folder)
    image = SimpleITK.ReadImage(str(union.root / "out" / "a.nii.gz"))
    assert image.GetSpacing() == (1.0, 1.0, 3.0)
    assert image.GetOrigin() == (-7.0, 3.0, 11.0)


def test_where_a_tumour_is_dropped_its_organ_shows(union, folder):
    run(union, folder, {"liver_tumour": {"drop_voxels": 1}})
    assert np.array_equal(read(union, "a.nii.gz"), np.where(MAP == 3, 1, MAP))


def test_a_rule_that_says_nothing_changes_nothing(union, folder):
    text = run(union, folder, {"liver": {}, "kidney": {}, "vessel": {}, "liver_tumour": {}})
    assert text == f"processed 2 cases by 4 rules: {union.root / 'out'}"
    assert np.array_equal(read(union, "a.nii.gz"), MAP)


def test_small_components_are_dropped_in_every_region(union, capsys):
    """Liver: eight voxels, and one apart that is a tumour; a vessel inside."""
    labels = np.array([[[3, 3, 0, 0], [1, 1, 0, 0]], [[1, 2, 0, 0], [1, 1, 0, 3]]])
    folder = union.predictions("pred", LABELS, ORDER, a=labels)
    words = ["postprocess", "-d", "900", "-i", str(folder), "--rules", "components"]
    expected = labels.copy()
    expected[1, 1, 3] = 0  # with the liver around it: of the two tumours it is no small one
    assert main([*words, "-o", str(union.root / "out"), "--smallest", "0.2"]) == 0
    assert np.array_equal(read(union, "a.nii.gz"), expected)
    assert "by 4 rules" in capsys.readouterr().out
    shutil.rmtree(union.root / "out")
    assert main([*words, "-o", str(union.root / "out")]) == 0  # an eighth is more than a tenth
    assert np.array_equal(read(union, "a.nii.gz"), labels)
    assert main([*words, "-o", str(union.root / "none"), "--smallest", "2"]) == 2
    assert "--smallest 2.0: must be between 0 and 1" in capsys.readouterr().err


def test_maps_of_single_tasks_are_processed_too(union, folder):
    """There the vessel does not cut the liver, and other regions are not known."""
    own = np.where(MAP == 3, 2, np.minimum(MAP, 1))
    union.predictions("pred/liver", {"liver": [1, 2], "liver_tumour": [2, 2]}, [1, 2], a=own)
    run(union, folder, {"liver_tumour": {"inside": "liver"}, "liver": {"keep_largest": 1}, "kidney": {}})
    expected = own.copy()
    expected[0, :, 3] = expected[1, 1, 3] = 0
    assert np.array_equal(read(union, "liver", "a.nii.gz"), expected)
    assert (union.root / "out" / "liver" / "dataset.json").is_file()
    assert not (union.root / "out" / "vessel").exists()


def test_predictions_of_plain_labels_are_processed(union):
    folder = union.predictions("plain", {"liver": 1, "kidney": 2}, None, a=np.array([1, 1, 0, 1] * 4).reshape(2, 2, 4))
    run(union, folder, {"liver": {"keep_largest": 1}})
    assert np.array_equal(read(union, "a.nii.gz"), np.array([1, 1, 0, 0] * 4).reshape(2, 2, 4))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"lung": {}}, "rules.json: no region .lung. in the data set"),
        ({}, "has no rule for liver"),
    ],
)
def test_rules_that_do_not_fit_are_refused(union, folder, rules, message):
    with pytest.raises(UserError, match=message) as error:
        run(union, folder, rules)
    assert "\n" not in str(error.value)
    assert not (union.root / "out").exists()


def test_what_is_not_there_is_named_in_one_line(union, folder, capsys):
    words = ["postprocess", "-d", "900", "-o", str(union.root / "out")]
    broken = union.root / "broken.json"
    broken.write_text("{")
    empty = union.predictions("empty", LABELS, ORDER)
    for more, named in (
        (["-i", str(folder), "--rules", str(union.root / "none.json")], "none.json: cannot be read"),
        (["-i", str(folder), "--rules", str(broken)], "broken.json: is no JSON"),
        (["-i", str(union.root / "nowhere")], "nowhere/dataset.json"),
        (["-i", str(empty)], "empty: no prediction named *.nii.gz"),
    ):
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("nnunet_mtl: error: ")
        assert named in line
        assert not (union.root / "out").exists()
    assert main([*words, "-i", str(folder)]) == 0
    assert "processed 2 cases" in capsys.readouterr().out


def test_a_map_that_cannot_be_read_is_named_and_nothing_is_written(union, folder):
    (folder / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be read"):
        run(union, folder)
    assert not (union.root / "out").exists()


def test_an_unknown_label_is_named(union, folder):
    union.predictions("pred", LABELS, ORDER, a=np.full(MAP.shape, 9))
    with pytest.raises(UserError, match=r"a\.nii\.gz: holds 9"):
        run(union, folder)


def test_a_file_that_is_no_label_map_is_named_in_one_line(union, folder, spoil):
    change, said = spoil
    change(folder / "a.nii.gz")
    with pytest.raises(UserError) as error:
        run(union, folder)
    assert f"pred/a.nii.gz: {said}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (union.root / "out").exists()


def test_a_name_that_means_something_else_is_refused(union):
    """A rule about the liver is about its tumour too, which plain labels leave out."""
    labels = np.array([1, 1, 0, 2] * 4).reshape(2, 2, 4)
    folder = union.predictions("plain", {"liver": 1, "liver_tumour": 2}, None, a=labels)
    with pytest.raises(UserError, match=r"plain/dataset\.json: liver_tumour is not part of liver there"):
        run(union, folder)
    assert not (union.root / "out").exists()
