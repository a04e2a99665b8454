import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.training.annotated_foreground import AnnotatedForeground
from nnunet_mtl.training.evidence_crops import EvidenceCropLoader

PATCHES = {"2d": (9, 9), "3d_fullres": (9, 9, 9)}
CASES = [f"liver_{index:03d}" for index in range(4)]  # their files hold leaves 1, the liver, and 2, its tumour


@pytest.fixture(params=PATCHES)
def draw(request: pytest.FixtureRequest, prepared: Any) -> Any:
    """Draws 40 foreground patches of the liver cases, all annotated as told; stock where they are not."""
    plans = PlansManager(prepared.plans("tiny"))
    folder = Path(prepared.preprocessed) / plans.get_configuration(request.param).data_identifier
    patch = PATCHES[request.param]

    def draw(annotated: list[str] | None, loader: Any = nnUNetDataLoader, **options: Any) -> dict[str, Any]:
        dataset: Any = nnUNetDatasetBlosc2(str(folder), CASES)
        if annotated is not None:
            dataset = AnnotatedForeground(dataset, tasks_with(prepared.dataset_json, annotated))
        built = loader(
            data=dataset,
            batch_size=40,
            patch_size=patch,
            final_patch_size=patch,
            label_manager=plans.get_label_manager(prepared.dataset_json),
            oversample_foreground_percent=1.0,
            **options,
        )
        np.random.seed(0)  # noqa: NPY002 - nnU-Net draws from the global generator
        drawn: dict[str, Any] = pickle.loads(pickle.dumps(built)).generate_train_batch()  # as worker processes get it
        return drawn

    return draw


def tasks_with(dataset_json: dict[str, Any], annotated: list[str]) -> TaskSet:
    """The task set in which every liver case is annotated like this."""
    edited = copy.deepcopy(dataset_json)
    for case in CASES:
        edited["nnunet_mtl"]["cases"][case]["annotated"] = annotated
    return TaskSet.from_dataset_json(edited)


def centres(batch: dict[str, Any]) -> Any:
    """The label in the centre of each patch, (40,)."""
    target = batch["target"].numpy()
    return target[(slice(None), 0, *(size // 2 for size in target.shape[2:]))]


@pytest.mark.parametrize("annotated", [["liver"], ["liver", "spleen"]])
def test_where_all_foreground_is_annotated_batches_are_nnunets_bit_for_bit(draw: Any, annotated: list[str]) -> None:
    ours, stock = draw(annotated), draw(None)
    assert list(ours["keys"]) == list(stock["keys"])
    assert ours["data"].equal(stock["data"])
    assert ours["target"].equal(stock["target"])


def test_where_only_the_tumour_was_annotated_no_patch_is_centred_on_the_rest_of_its_organ(draw: Any) -> None:
    assert set(centres(draw(None))) == {1, 2}
    assert set(centres(draw(["liver_tumour"]))) == {2}


def test_where_only_the_organ_was_annotated_its_tumour_is_not_looked_for(draw: Any) -> None:
    stock, ours = (np.mean(centres(draw(annotated)) == 2) for annotated in (None, ["liver/liver"]))
    assert stock > 0.5  # the tumour is drawn half of the time, and is in the organ besides
    assert ours < 0.4  # the share of the organ's voxels that are tumour is an eighth or less


def test_a_case_without_annotation_is_cropped_at_random(draw: Any) -> None:
    assert 0 in set(centres(draw([])))


def test_evidence_that_is_not_annotated_is_not_looked_for_either(draw: Any) -> None:
    options = {"loader": EvidenceCropLoader, "evidence": ((2,),), "share": 1.0}
    assert set(centres(draw(["liver"], **options))) == {2}
    assert 1 in set(centres(draw(["liver/liver"], **options)))


class OneCase:
    """A data set of one case, with these locations."""

    identifiers = ("case",)

    def __init__(self, class_locations: dict[Any, Any]) -> None:
        self.properties = {"class_locations": class_locations, "spacing": (1, 1, 1)}

    def load_case(self, identifier: str) -> Any:
        return "image", "segmentation", "previous stage", self.properties


def tasks_of_one_case(annotated: list[str]) -> TaskSet:
    labels = {"background": 0, "liver": [3, 1, 2], "tumour": 2, "vessel": [3, 4], "ignore": 5}
    tasks = {"liver": {"regions": ["liver", "tumour"]}, "vessel": {"regions": ["vessel"]}}
    block = {"version": 1, "tasks": tasks, "cases": {"case": {"annotated": annotated}}}
    return TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 2, 4], "nnunet_mtl": block})


@pytest.mark.parametrize(
    ("annotated", "kept"),
    [
        (["liver"], [(3, 1, 2), 2]),
        (["tumour"], [2]),
        (["vessel"], [(3, 4)]),
        (["liver/liver", "vessel"], [(3, 1, 2), (3, 4)]),
        ([], []),
    ],
)
def test_keys_are_regions_as_written_and_the_ignore_labels_key_stays(annotated: list[str], kept: list[Any]) -> None:
    everywhere = (-1, 0, 1, 2, 3, 4)  # nnU-Net's key of all voxels that are not ignored
    locations = {key: [[0, 1, 1, 1]] for key in ((3, 1, 2), 2, (3, 4), everywhere)}
    stock = OneCase(locations)
    *volumes, properties = AnnotatedForeground(stock, tasks_of_one_case(annotated)).load_case("case")
    assert volumes == ["image", "segmentation", "previous stage"]
    assert list(properties["class_locations"]) == [*kept, everywhere]
    assert properties["spacing"] == (1, 1, 1)
    assert len(stock.properties["class_locations"]) == 4  # nnU-Net's own are not changed
