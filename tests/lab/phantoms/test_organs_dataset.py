import json

import numpy as np
import pytest
import SimpleITK

from nnunet_mtl.lab.phantoms.anatomy import Leaf
from nnunet_mtl.lab.phantoms.organs_cases import TASKS, plan_cases, render
from nnunet_mtl.lab.phantoms.organs_dataset import PhantomError, PhantomOptions, write_phantom_dataset
from nnunet_mtl.tasks import TaskSet, read_dataset_json

OPTIONS = {
    3: PhantomOptions(cases_per_task=2, test_cases=2, image_size=(24, 40, 40), tumour_prevalence=1.0),
    2: PhantomOptions(cases_per_task=2, test_cases=2, dimension=2, image_size=(48, 56)),
}


@pytest.fixture(scope="module", params=[3, 2])
def dimension(request):
    return request.param


@pytest.fixture(scope="module")
def folder(dimension, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "Dataset900_Phantom"
    write_phantom_dataset(folder, OPTIONS[dimension], lambda _: None)
    return folder


@pytest.fixture(scope="module")
def tasks(folder):
    return TaskSet.from_dataset_json(read_dataset_json(folder / "dataset.json"))


@pytest.fixture(scope="module")
def oracle(folder):
    return TaskSet.from_dataset_json(read_dataset_json(folder / "labelsTs.json"))


def _array(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_the_folder_keeps_the_rules_of_nnunet(folder, dimension):
    dataset_json = json.loads((folder / "dataset.json").read_text())
    assert dataset_json["channel_names"] == {"0": "CT"}
    assert dataset_json["file_ending"] == ".nii.gz"
    for part, count in (("Tr", dataset_json["numTraining"]), ("Ts", OPTIONS[dimension].test_cases)):
        images = sorted((folder / f"images{part}").iterdir())
        labels = sorted((folder / f"labels{part}").glob("*.nii.gz"))
        assert [path.name.replace("_0000.nii.gz", ".nii.gz") for path in images] == [path.name for path in labels]
        assert len(images) == count
        for image_path, label_path in zip(images, labels, strict=True):
            image, label = SimpleITK.ReadImage(str(image_path)), SimpleITK.ReadImage(str(label_path))
            assert image.GetDimension() == dimension
            for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(image, geometry)() == getattr(label, geometry)()


def test_the_files_lie_where_the_scanner_put_them(folder, dimension):
    case = next(case for case in plan_cases(OPTIONS[dimension]) if case.domain == 2)
    scan = render(OPTIONS[dimension], case)
    image = SimpleITK.ReadImage(str(folder / "imagesTr" / f"{case.name}_0000.nii.gz"))
    assert image.GetDirection() == scan.direction
    np.testing.assert_allclose(image.GetSpacing(), scan.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), scan.origin_mm, rtol=1e-5)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), scan.image)


def test_each_training_case_is_annotated_for_one_task_and_holds_no_more(folder, tasks):
    assert {task.name for task in tasks.tasks} == set(TASKS)
    assert tasks.has_regions
    tasks.require_cases(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir())
    for name in tasks.cases:
        assert len(tasks.annotated_tasks(name)) == 1
        tasks.check_leaves(name, np.unique(_array(folder / "labelsTr" / f"{name}.nii.gz")).tolist())


def test_vessels_are_liver_to_the_annotator_of_the_liver_and_all_there_is_to_that_of_the_vessels(folder, dimension):
    for case in plan_cases(OPTIONS[dimension]):
        truth, path = render(OPTIONS[dimension], case).leaves, folder / "labelsTr" / f"{case.name}.nii.gz"
        if case.annotated == ("liver",):
            expected = np.where(truth == Leaf.VESSEL, Leaf.LIVER, truth) * (truth <= Leaf.LIVER_TUMOUR)
        elif case.annotated == ("vessel",):
            expected = truth * (truth == Leaf.VESSEL)
        else:
            continue
        np.testing.assert_array_equal(_array(path), expected)


def test_the_test_cases_are_the_whole_truth(folder, oracle, dimension):
    for case in plan_cases(OPTIONS[dimension]):
        if case.is_test:
            assert all(oracle.annotated(case.name))
            leaves = _array(folder / "labelsTs" / f"{case.name}.nii.gz")
            np.testing.assert_array_equal(leaves, render(OPTIONS[dimension], case).leaves)
            oracle.check_leaves(case.name, np.unique(leaves).tolist())


def test_the_table_that_training_reads_knows_nothing_of_the_test_cases(tasks, oracle):
    assert not set(tasks.cases) & set(oracle.cases)
    assert tasks.compact() == oracle.compact()


def test_vessel_and_liver_overlap(tasks):
    labels = dict(zip(tasks.regions, tasks.region_labels, strict=True))
    assert set(labels["vessel"]) < set(labels["liver"])
    overlaps = {task.name: task.overlaps for task in tasks.tasks}
    assert overlaps["vessel"] == ("liver",)
    assert overlaps["liver"] == ("vessel",)


def test_malignancy_is_known_where_a_liver_tumour_was_annotated(folder, tasks, oracle):
    known = 0
    for part, table in (("Tr", tasks), ("Ts", oracle)):
        for name, case in table.cases.items():
            leaves = _array(folder / f"labels{part}" / f"{name}.nii.gz")
            has_tumour = bool((leaves == Leaf.LIVER_TUMOUR).any())
            assert ("malignancy" in case.classes) == has_tumour
            known += has_tumour
    assert known > 0


def test_patients_and_scanners_are_named(tasks):
    assert {case.source for case in tasks.cases.values()} == {"scanner_a", "scanner_b", "scanner_c"}
    assert all(case.patient for case in tasks.cases.values())


def test_the_same_options_write_the_same_files(folder, dimension, tmp_path):
    again = tmp_path / folder.name
    lines = []
    write_phantom_dataset(again, OPTIONS[dimension], lines.append)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (folder / file).read_bytes() == (again / file).read_bytes(), file
    assert len(lines) == len(list(plan_cases(OPTIONS[dimension])))


def test_an_existing_folder_is_replaced_only_on_request(tmp_path):
    folder = tmp_path / "Dataset901_Phantom"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "labelsTr").mkdir()
    (folder / "labelsTr" / "old.nii.gz").touch()
    options = PhantomOptions(dimension=2, image_size=(32, 32), cases_per_task=1, test_cases=0)
    with pytest.raises(PhantomError, match="Dataset901_Phantom: exists already"):
        write_phantom_dataset(folder, options, lambda _: None)
    assert (folder / "labelsTr" / "old.nii.gz").exists()
    write_phantom_dataset(folder, options, lambda _: None, overwrite=True)
    assert not (folder / "labelsTr" / "old.nii.gz").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list((folder / "labelsTr").iterdir())) == len(TASKS)


def test_a_file_in_the_way_is_never_replaced(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(PhantomError, match="taken: exists already"):
        write_phantom_dataset(tmp_path / "taken", OPTIONS[2], lambda _: None, overwrite=True)
