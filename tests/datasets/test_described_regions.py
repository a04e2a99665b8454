import json

import pytest

from nnunet_mtl.datasets.described_regions import (
    NOTHING,
    DescribedRegionsError,
    described_regions,
    not_in_common,
)
from nnunet_mtl.tasks import TaskSet, TaskSetError

DATASET = TaskSet.from_dataset_json(
    {
        "labels": {"background": 0, "liver": [1, 2], "liver_tumour": [2], "kidney": [3]},
        "regions_class_order": [1, 2, 3],
        "file_ending": ".nii.gz",
    }
)


def described(folder, labels, order=None, ending=".nii.gz"):
    content = {"labels": labels, "file_ending": ending} | ({"regions_class_order": order} if order else {})
    (folder / "dataset.json").write_text(json.dumps(content))
    return described_regions(folder, DATASET, ".nii.gz")


def test_regions_are_matched_by_name(tmp_path):
    found = described(tmp_path, {"background": 0, "kidney": 1})
    assert found.values == {2: (1,)}
    assert found.known == {0, 1}
    assert not_in_common(found, DATASET) == "does not predict liver, liver_tumour"
    turned = described(tmp_path, {"background": 0, "kidney": [1, 1], "liver": [2, 3], "liver_tumour": [3]}, [1, 2, 3])
    assert turned.values == {2: (1,), 0: (2, 3), 1: (3,)}
    assert not_in_common(turned, DATASET) == ""


def test_other_names_are_told(tmp_path):
    found = described(tmp_path, {"background": 0, "kidney": 1, "spleen": 2})
    assert found.unknown == ("spleen",)
    assert not_in_common(found, DATASET).endswith(" and predicts spleen, which the data set does not have")


def test_the_map_of_nothing_predicts_nothing(tmp_path):
    found = described(tmp_path, {"background": 0, NOTHING: [1, 1]}, [1])
    assert (found.values, found.unknown) == ({}, ())
    questions = TaskSet.from_dataset_json({"labels": {"background": 0, NOTHING: [1, 1]}, "regions_class_order": [1]})
    assert described_regions(tmp_path, questions, ".nii.gz").values == {0: (1,)}


def test_a_name_that_means_something_else_is_refused(tmp_path):
    # a stock network with plain labels calls liver what is liver and no tumour
    with pytest.raises(
        DescribedRegionsError, match=r"dataset\.json: liver_tumour is not part of liver there and is part"
    ):
        described(tmp_path, {"background": 0, "liver": 1, "liver_tumour": 2})
    with pytest.raises(DescribedRegionsError, match="kidney is part of liver there and is not part of it in the data"):
        described(tmp_path, {"background": 0, "liver": [1, 2], "kidney": [2]}, [1, 2])


def test_what_cannot_be_matched_is_refused(tmp_path):
    with pytest.raises(DescribedRegionsError, match=r"file_ending \.nrrd, the data set's is \.nii\.gz"):
        described(tmp_path, {"background": 0, "kidney": 1}, ending=".nrrd")
    (tmp_path / "dataset.json").write_text("")
    with pytest.raises(TaskSetError, match="is not valid JSON"):
        described_regions(tmp_path, DATASET, ".nii.gz")
