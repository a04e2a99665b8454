"""What nobody annotated changes nothing that is learnt: through nnU-Net's own loaders, with its augmentation."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import batchgeneratorsv2.transforms.noise.gaussian_blur as blur
import blosc2
import numpy as np
import pytest
import torch

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerMultiTalent import nnUNetTrainerMultiTalent
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet
from nnunet_mtl.trainers.nnUNetTrainerTAL import nnUNetTrainerTAL
from nnunet_mtl.training.merged_labels import MergedLabelsDataset

TRAINERS = (nnUNetTrainerMultiTalent, nnUNetTrainerMTLAttention, nnUNetTrainerTAL, nnUNetTrainerOMNet)
STEPS = 15
# What is annotated in the cases of a task, in turn, and which labels that does not tell apart. The files of the liver
# hold 1, the organ, and 2, its tumour; those of the kidney 3 and 4; those of the spleen 5.
ANNOTATIONS: dict[str, list[tuple[list[str], list[tuple[int, ...]]]]] = {
    "liver": [
        (["liver/liver"], [(0, 3, 4, 5), (1, 2)]),
        (["liver_tumour"], [(0, 1, 3, 4, 5)]),
        (["liver"], [(0, 3, 4, 5)]),
        (["liver/liver", "kidney"], [(0, 5), (1, 2)]),
    ],
    "kidney": [(["kidney/kidney", "spleen"], [(0, 1, 2), (3, 4)]), (["kidney_tumour"], [(0, 1, 2, 3, 5)])],
    "spleen": [(["spleen"], [(0, 1, 2, 3, 4)])],
}


def annotation_of(case: str) -> tuple[list[str], list[tuple[int, ...]]]:
    task, index = case.rsplit("_", 1)
    return ANNOTATIONS[task][int(index) % len(ANNOTATIONS[task])]


def scrambled(segmentation: Any, groups: list[tuple[int, ...]], rng: np.random.Generator) -> Any:
    """Exchange labels at random where nobody told them apart; -1, outside of the body, stays."""
    result = segmentation.copy()
    for group in groups:
        where = np.isin(segmentation, group)
        result[where] = rng.choice(group, np.count_nonzero(where))
    return result


@pytest.fixture(scope="module", params=["2d", "3d_fullres"])
def configuration(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folders(prepared: Any, configuration: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two folders of preprocessed data that differ in what was not annotated alone."""
    root = tmp_path_factory.mktemp("scrambled")
    rng = np.random.default_rng(0)
    for name in ("written", "scrambled"):
        shutil.copytree(prepared.preprocessed, root / name / prepared.preprocessed.name)
    changed = 0
    for path in (root / "scrambled").glob(f"*/nnUNetPlans_{configuration}/*_seg.b2nd"):
        stored = blosc2.open(str(path), mode="r")[:]
        other = scrambled(stored, annotation_of(path.name.removesuffix("_seg.b2nd"))[1], rng)
        changed += np.count_nonzero(other != stored)
        blosc2.asarray(other, urlpath=str(path), mode="w")
    assert changed > 10_000
    return {name: root / name for name in ("written", "scrambled")}


def partly_annotated(dataset_json: dict[str, Any]) -> dict[str, Any]:
    edited: dict[str, Any] = json.loads(json.dumps(dataset_json))
    for case, content in edited["nnunet_mtl"]["cases"].items():
        content["annotated"] = annotation_of(case)[0]
    return edited


def run(prepared: Any, trainer_class: Any, configuration: str) -> tuple[list[Any], dict[str, Any]]:
    """Train some steps; return everything they and a validation step report, and the weights."""
    torch.manual_seed(0)
    plans = prepared.plans("tiny")
    plans["nnunet_mtl"]["settings"] |= {"oversample_foreground_percent": 1.0}
    trainer = trainer_class(plans, configuration, 0, partly_annotated(prepared.dataset_json), torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_epoch_start()
    trainer.cases._random, trainer.image_level._random = (np.random.default_rng(seed) for seed in (1, 2))
    np.random.seed(0)  # noqa: NPY002 - nnU-Net draws from the global generators
    torch.manual_seed(0)
    training, validation = trainer.get_dataloaders()
    reported = [trainer.train_step(next(training)) for _ in range(STEPS)]
    with torch.no_grad():
        reported += [trainer.validation_step(next(validation)) for _ in range(3)]
    return reported, {name: value.clone() for name, value in trainer.network.state_dict().items()}


@pytest.mark.parametrize("trainer_class", TRAINERS)
def test_that_labels_nobody_told_apart_change_no_loss_and_no_weight(
    prepared: Any,
    folders: dict[str, Path],
    configuration: str,
    trainer_class: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # of two ways to blur nnU-Net takes the one that was faster just now, and they differ in the last digits
    monkeypatch.setattr(
        blur.GaussianBlurTransform, "_benchmark_wrapper", lambda self, *arguments: blur.blur_dimension(*arguments)
    )
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    found = {}
    for name, folder in folders.items():
        monkeypatch.setenv("nnUNet_preprocessed", str(folder))
        found[name] = run(prepared, trainer_class, configuration)
    (steps, weights), (other_steps, other_weights) = found.values()
    assert all(np.isfinite(step["loss"]) for step in steps)
    for number, (step, other) in enumerate(zip(steps, other_steps, strict=True)):
        for key in step:
            np.testing.assert_array_equal(step[key], other[key], err_msg=f"{key} of step {number}")
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


# ---- one case


class OneCase:
    """A data set of one case, with this segmentation."""

    identifiers = ("case",)

    def __init__(self, segmentation: Any) -> None:
        self.segmentation = segmentation

    def load_case(self, identifier: str) -> Any:
        return "image", self.segmentation, "previous stage", {"class_locations": {1: [[0, 1, 1, 1]]}}


def tasks_of_one_case(annotated: list[str] | None) -> TaskSet:
    """The liver, 1 to 3, with tumour, 2, and a vessel, 3 and 4, that leaves it; None for a data set without a block."""
    labels = {"background": 0, "liver": [3, 1, 2], "tumour": 2, "vessel": [3, 4], "spleen": [5], "ignore": 6}
    content: dict[str, Any] = {"labels": labels, "regions_class_order": [1, 2, 4, 5]}
    if annotated is not None:
        tasks = {
            "liver": {"regions": ["liver", "tumour"]},
            "vessel": {"regions": ["vessel"]},
            "spleen": {"regions": ["spleen"]},
        }
        content["nnunet_mtl"] = {"version": 1, "tasks": tasks, "cases": {"case": {"annotated": annotated}}}
    return TaskSet.from_dataset_json(content)


EVERY_LABEL = (-1, 0, 1, 2, 3, 4, 5, 6)


def read(annotated: list[str], make: Any = np.asarray, values: Sequence[int] = EVERY_LABEL) -> Any:
    segmentation = make(np.array(values, np.int8).reshape(1, 2, 2, -1))
    case = MergedLabelsDataset(OneCase(segmentation), tasks_of_one_case(annotated)).load_case("case")
    assert (case[0], case[2], case[3]) == ("image", "previous stage", {"class_locations": {1: [[0, 1, 1, 1]]}})
    return case[1]


@pytest.mark.parametrize("make", [np.asarray, blosc2.asarray], ids=["numpy", "blosc2"])
@pytest.mark.parametrize(
    ("annotated", "merged"),
    [
        (["liver/liver"], [-1, 0, 1, 1, 1, 0, 0, 6]),
        (["liver"], [-1, 0, 1, 2, 1, 0, 0, 6]),
        (["tumour"], [-1, 0, 0, 2, 0, 0, 0, 6]),
        (["vessel"], [-1, 0, 0, 0, 3, 3, 0, 6]),
        (["liver/liver", "vessel"], [-1, 0, 1, 1, 3, 4, 0, 6]),
        ([], [-1, 0, 0, 0, 0, 0, 0, 6]),
    ],
)
def test_that_labels_become_the_least_of_those_in_the_same_annotated_regions(
    annotated: list[str], merged: list[int], make: Any
) -> None:
    view = read(annotated, make)
    assert view[:].ravel().tolist() == merged
    assert (view.shape, view.ndim, view.dtype) == ((1, 2, 2, 2), 4, np.int8)


def test_that_only_what_is_indexed_is_read() -> None:
    asked = []

    class Counting(np.ndarray):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return np.asarray(self)[index]

    view = read(["liver/liver"], lambda array: array.view(Counting))
    index = (slice(None), slice(1, 2), slice(None), slice(0, 1))
    assert view[index].ravel().tolist() == [1, 0]
    assert asked == [index]


def test_that_a_value_that_is_no_label_is_background_as_it_is_in_no_region() -> None:
    assert read(["liver"], values=[7, 99, 127, -1])[:].ravel().tolist() == [0, 0, 0, -1]


def test_that_a_case_of_a_data_set_with_many_labels_may_be_stored_in_8_bits() -> None:
    labels: dict[str, Any] = {"background": 0, **{f"organ {label}": [label, label] for label in range(1, 301)}}
    tasks = {name: {"regions": [name]} for name in labels if name != "background"}
    block = {"version": 1, "tasks": tasks, "cases": {"case": {"annotated": ["organ 3", "organ 300"]}}}
    content = {"labels": labels, "regions_class_order": list(range(1, 301)), "nnunet_mtl": block}
    dataset: Any = OneCase(np.array([-1, 0, 1, 3, 127], np.int8).reshape(1, 1, 1, 5))
    read = MergedLabelsDataset(dataset, TaskSet.from_dataset_json(content)).load_case("case")[1][:]
    assert read.ravel().tolist() == [-1, 0, 0, 3, 0]
    dataset = OneCase(np.array([-1, 299, 300, 301], np.int16).reshape(1, 1, 1, 4))
    read = MergedLabelsDataset(dataset, TaskSet.from_dataset_json(content)).load_case("case")[1][:]
    assert read.ravel().tolist() == [-1, 0, 300, 0]


@pytest.mark.parametrize("annotated", [["liver", "vessel", "spleen"], None], ids=["all annotated", "no block"])
def test_that_a_fully_annotated_case_is_nnunets_own(annotated: list[str] | None) -> None:
    stored = np.zeros((1, 2, 2, 2), np.int8)
    tasks = tasks_of_one_case(annotated)
    assert MergedLabelsDataset(OneCase(stored), tasks).load_case("case")[1] is stored


def test_that_cases_annotated_alike_share_what_is_sent_to_the_loading_processes() -> None:
    tasks = tasks_of_one_case(["liver"])
    cases = {f"case_{number}": tasks.cases["case"] for number in range(100)}
    block = {**tasks.to_block(), "cases": {name: case.to_json() for name, case in cases.items()}}
    labels = {"background": 0, "liver": [3, 1, 2], "tumour": 2, "vessel": [3, 4], "spleen": [5], "ignore": 6}
    many = TaskSet.from_dataset_json({"labels": labels, "regions_class_order": [1, 2, 4, 5], "nnunet_mtl": block})
    dataset: Any = SimpleNamespace(identifiers=list(cases))
    found = MergedLabelsDataset(dataset, many)._merged
    assert len({id(labels) for labels in found.values()}) == 1
