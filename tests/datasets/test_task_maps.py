from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_mtl.datasets.task_maps import region_map, task_maps
from nnunet_mtl.tasks import TaskSet


def painted(description: Any, probabilities: Any) -> Any:
    """What nnU-Net makes of the channels under a description."""
    labels = LabelManager(description.dataset_json["labels"], description.dataset_json["regions_class_order"])
    assert labels.has_regions
    assert labels.num_segmentation_heads == len(description.channels)
    channels = torch.as_tensor(probabilities)[list(description.channels)]
    return labels.convert_probabilities_to_segmentation(channels).numpy()


VESSEL: dict[str, Any] = {
    "labels": {"background": 0, "liver": [1, 2, 3], "tumour": [2], "vessel": [3]},
    "regions_class_order": [1, 2, 3],
    "file_ending": ".nii.gz",
    "nnunet_mtl": {
        "version": 1,
        # the tumour is named first: its value is 1, but it is painted over the liver all the same
        "tasks": {"liver": {"regions": ["tumour", "liver"]}, "vessel": {"regions": ["vessel"]}},
    },
}


def test_a_vessel_in_the_liver_leaves_the_liver_as_it_is() -> None:
    liver, vessel = task_maps(TaskSet.from_dataset_json(VESSEL), ("liver", "vessel"), VESSEL)
    probabilities = np.zeros((3, 1, 1, 6))
    probabilities[0, ..., :5] = probabilities[1, ..., 1:3] = probabilities[2, ..., 2:] = 0.9
    assert painted(liver, probabilities).tolist() == [[[2, 1, 1, 2, 2, 0]]]
    assert painted(vessel, probabilities).tolist() == [[[0, 0, 1, 1, 1, 1]]]
    assert liver.dataset_json["labels"] == {"background": 0, "liver": [1, 2], "tumour": [1, 1]}
    assert list(liver.dataset_json["labels"]) == ["background", "liver", "tumour"]
    assert liver.dataset_json["regions_class_order"] == [2, 1]
    assert liver.dataset_json["file_ending"] == ".nii.gz"


def test_only_what_is_asked_for_is_described() -> None:
    assert [each.name for each in task_maps(TaskSet.from_dataset_json(VESSEL), ("vessel",), VESSEL)] == ["vessel"]


def test_without_regions_the_only_task_is_everything() -> None:
    flat: dict[str, Any] = {"labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ".png"}
    (whole,) = task_maps(TaskSet.from_dataset_json(flat), ("all",), flat)
    assert whole.channels == (0, 1, 2)
    assert whole.dataset_json == flat


def test_a_region_alone_is_0_and_1() -> None:
    probabilities = np.array([0.2, 0.5, 0.51, 0.9]).reshape(1, 1, 4)[None].repeat(3, 0)
    probabilities[0] = 1
    assert painted(region_map(2), probabilities).tolist() == [[[0, 0, 1, 1]]]
