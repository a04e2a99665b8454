import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.lab.phantoms.dose import DoseLeaf
from nnunet_mtl.lab.phantoms.dose_dataset import DoseOptions, write_dose_dataset
from nnunet_mtl.lab.phantoms.organs_cases import PhantomError
from nnunet_mtl.tasks import TaskSet, read_dataset_json

OPTIONS = DoseOptions(dimension=2, image_size=(32, 32), cases=4, test_cases=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset903_Dose"
    lines = []
    write_dose_dataset(folder, OPTIONS, lines.append)
    assert lines[-1].startswith("5/5 test_000")
    return folder


def array(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_that_the_table_says_which_cases_have_a_dose(written):
    tasks = TaskSet.from_dataset_json(read_dataset_json(written / "dataset.json"))
    assert [task.name for task in tasks.regressions] == ["dose"]
    for case in tasks.cases:
        dose = array(written / "imagesTr" / f"{case}_0001.nii.gz")
        assert dose.dtype == np.float32
        assert bool(dose.any()) == tasks.regressed(case)[0]
    assert {tasks.regressed(case) for case in tasks.cases} == {(True,), (False,)}


def test_that_organs_nobody_annotated_are_body_in_the_label_file(written):
    tasks = TaskSet.from_dataset_json(read_dataset_json(written / "dataset.json"))
    kidneys = tasks.regions.index("kidneys")
    seen = set()
    for case in tasks.cases:
        leaves = array(written / "labelsTr" / f"{case}.nii.gz")
        tasks.check_leaves(case, np.unique(leaves).tolist())
        seen.add(tasks.annotated(case)[kidneys])
        assert bool((leaves == DoseLeaf.KIDNEYS).any()) == tasks.annotated(case)[kidneys]
        assert (leaves == DoseLeaf.TARGET).any()
    assert seen == {True, False}


def test_that_test_cases_are_images_alone_with_their_dose_elsewhere_on_the_same_grid(written):
    assert [path.name for path in (written / "imagesTs").iterdir()] == ["test_000_0000.nii.gz"]
    image = SimpleITK.ReadImage(str(written / "imagesTs" / "test_000_0000.nii.gz"))
    dose = SimpleITK.ReadImage(str(written / "regressionTs" / "dose" / "test_000.nii.gz"))
    assert image.GetOrigin() == dose.GetOrigin()
    assert image.GetSpacing() == dose.GetSpacing()
    assert image.GetDirection() == dose.GetDirection()
    assert array(written / "regressionTs" / "dose" / "test_000.nii.gz").max() == 60
    tests = TaskSet.from_dataset_json(read_dataset_json(written / "labelsTs.json"))
    assert all(tests.annotated("test_000"))


def test_that_a_data_set_is_replaced_only_when_allowed(written, tmp_path):
    with pytest.raises(PhantomError, match="exists already"):
        write_dose_dataset(written, OPTIONS, str)
    folder = tmp_path / "Dataset904_Dose"
    fewer = DoseOptions(dimension=2, image_size=(32, 32), cases=1, test_cases=0)
    write_dose_dataset(folder, DoseOptions(dimension=2, image_size=(32, 32), cases=2, test_cases=0), str)
    write_dose_dataset(folder, fewer, str, overwrite=True)
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        "dose_000_0000.nii.gz",
        "dose_000_0001.nii.gz",
    ]
