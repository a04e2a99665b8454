import pytest

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.planning.folders import new_raw_folder, preprocessed_folder, raw_folder


@pytest.mark.parametrize("given", [900, "900", "Dataset900_Toy"])
def test_id_and_name_mean_the_same_folder(dataset, given):
    assert raw_folder(given) == dataset.raw
    assert preprocessed_folder(given) == dataset.preprocessed


@pytest.mark.parametrize(("name", "of"), [("nnUNet_raw", raw_folder), ("nnUNet_preprocessed", preprocessed_folder)])
def test_variable_that_is_not_set_is_named(dataset, monkeypatch, name, of):
    monkeypatch.delenv(name)
    with pytest.raises(UserError, match=f"{name} is not set"):
        of(900)


def test_new_folder_is_named_and_not_made(dataset):
    folder = new_raw_folder(7, "Phantom")
    assert folder == dataset.raw.parent / "Dataset007_Phantom"
    assert not folder.exists()
    assert new_raw_folder(900, "Toy") == dataset.raw


@pytest.mark.parametrize(
    ("dataset_id", "message"),
    [(900, "taken by Dataset900_Toy; give another"), (0, "between 1 and 999"), (1000, "between 1 and 999")],
)
def test_new_id_is_free_and_in_range(dataset, dataset_id, message):
    with pytest.raises(UserError, match=message):
        new_raw_folder(dataset_id, "Phantom")


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "a\\b", "..", " a", "a ", "a\n", "", "a" * 121])
def test_a_new_folder_lies_where_nnunet_looks_for_it(dataset, name):
    with pytest.raises(UserError, match=r"--name .*: the name of a data set must") as error:
        new_raw_folder(7, name)
    assert "\n" not in str(error.value)


def test_new_folder_needs_the_variable(dataset, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        new_raw_folder(7, "Phantom")
