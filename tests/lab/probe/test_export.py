import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.inference.model_folder import read_checkpoint, read_model
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.lab.probe.export import export
from nnunet_mtl.lab.probe.features import Source, describe_cases, open_source
from nnunet_mtl.lab.probe.fit import LinearProbe, case_probabilities
from nnunet_mtl.lab.probe.images import Images
from nnunet_mtl.tasks import TaskSet, read_dataset_json

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CASES = ["liver_000", "kidney_001"]
Trained = Callable[..., Path]
CHECKPOINT = "checkpoint_final.pth"


def opened(folder: Path, data: Path, folds: tuple[int, ...] = (0,)) -> Source:
    tasks = TaskSet.from_dataset_json(read_dataset_json(data / "dataset.json"))
    return open_source(read_model(folder, folds, CHECKPOINT), tasks, tasks.classification)


def random_probes(source: Source, seed: int = 0) -> dict[str, LinearProbe]:
    """Probes that tell the cases apart; both questions of the data set have two outputs."""
    rng = np.random.default_rng(seed)
    size = 3 * sum(source.network.encoder.output_channels)
    return {
        question.name: LinearProbe(
            rng.normal(size=size), rng.uniform(0.5, 2, size), 0.02 * rng.normal(size=(2, size)), rng.normal(size=2), 1.0
        )
        for question in source.questions
    }


def predictor(kind: Any, folder: Path, folds: tuple[int, ...] = (0,)) -> Any:
    made = kind(device=CPU, use_mirroring=False, perform_everything_on_device=False, allow_tqdm=False)
    made.initialize_from_trained_model_folder(str(folder), folds, CHECKPOINT)
    return made


@pytest.mark.parametrize(
    "model",
    [
        {"folds": (0, 1)},
        {"plans": "tiny_resenc"},
        {"trainer": "nnUNetTrainer"},
        {"trainer": "nnUNetTrainer", "plans": "tiny_resenc", "labels": "regions"},
        {"trainer": "nnUNetTrainerSTLCls"},
        {"trainer": "nnUNetTrainerHPS"},
        {"trainer": "nnUNetTrainerACSNet"},
    ],
    ids=str,
)
def test_an_exported_probe_answers_as_the_probe_and_segments_as_the_model(
    trained: Trained, data: Path, model: Any
) -> None:
    folds = model.get("folds", (0,))
    folder = trained(**model)
    source = opened(folder, data, folds)
    probes = {fold: random_probes(source, fold) for fold in folds}
    exported = export(source, "probed", probes)
    images = Images(source.model, data, CASES)
    expected = {question.name: np.zeros((len(CASES), len(question.classes))) for question in source.questions}
    for fold in folds:
        described = describe_cases(source, fold, images, CPU)
        for question in source.questions:
            logits = probes[fold][question.name].logits(described[question.name].descriptors)
            expected[question.name] += case_probabilities(question, logits) / len(folds)
    ours, stock = predictor(MultiTaskPredictor, exported, folds), predictor(nnUNetPredictor, folder, folds)
    for row, (_, image) in enumerate(images):
        segmentation = ours.predict_logits_from_preprocessed_data(image)
        assert torch.equal(segmentation, stock.predict_logits_from_preprocessed_data(image))
        for name, probability in ours.probabilities().items():
            np.testing.assert_allclose(probability.numpy(), expected[name][row], atol=1e-4)
    assert list(ours.probabilities()) == ["malignancy", "severity"]
    assert all(np.abs(values[0] - values[1]).max() > 1e-3 for values in expected.values())


def test_what_is_written_is_a_model_folder_without_the_case_table(trained: Trained, data: Path) -> None:
    source = opened(trained("nnUNetTrainer"), data)
    before = deepcopy((source.model.plans, source.model.dataset_json))
    exported = export(source, "probed", {0: random_probes(source)})
    assert exported == source.model.folder.parent / "nnUNetTrainerMTLNoAttention__probed__3d_fullres"
    assert (source.model.plans, source.model.dataset_json) == before
    assert "secretpatient" in json.dumps(before)  # stock nnU-Net copies the table into its results
    checkpoint = read_checkpoint(exported / "fold_0" / CHECKPOINT)
    for content in (checkpoint["init_args"], *(json.loads(path.read_text()) for path in exported.glob("*.json"))):
        text = json.dumps(content)
        assert "secretpatient" not in text
        assert "liver_000" not in text
    assert sorted(path.name for path in exported.iterdir()) == ["dataset.json", "fold_0", "plans.json"]
    plans = json.loads((exported / "plans.json").read_text())
    assert plans["plans_name"] == "probed"
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert architecture["classification"] == "nnunet_mtl.networks.probe_head.ProbeHead"
    assert plans["nnunet_mtl"]["settings"]["class_combination"] == "mean"
    assert not [path for path in exported.parent.iterdir() if path.name.startswith(".")]


def test_stock_nnunet_predicts_with_it(trained: Trained, data: Path) -> None:
    source = opened(trained(), data)
    exported = export(source, "probed", {0: random_probes(source)})
    ((_, image),) = Images(source.model, data, CASES[:1])
    found, expected = (predictor(nnUNetPredictor, folder) for folder in (exported, source.model.folder))
    assert torch.equal(
        found.predict_logits_from_preprocessed_data(image), expected.predict_logits_from_preprocessed_data(image)
    )


def test_other_rules_of_the_model_do_not_apply_to_a_linear_probe(trained: Trained, data: Path) -> None:
    source = opened(trained(), data)
    source.model.plans["nnunet_mtl"]["settings"].update(class_combination="noisy_or")
    exported = export(source, "probed", {0: random_probes(source)})
    settings = json.loads((exported / "plans.json").read_text())["nnunet_mtl"]["settings"]
    assert settings["class_combination"] == "mean"


def test_only_the_questions_asked_are_in_it(trained: Trained, data: Path) -> None:
    tasks = TaskSet.from_dataset_json(read_dataset_json(data / "dataset.json"))
    source = open_source(read_model(trained(), (0,), CHECKPOINT), tasks, tasks.classification[1:])
    exported = export(source, "probed", {0: random_probes(source)})
    ours = predictor(MultiTaskPredictor, exported)
    assert [question.name for question in ours.questions] == ["severity"]
    assert [question["name"] for question in ours.network.classification.questions] == ["severity"]


def test_evidence_is_named_as_in_the_model(trained: Trained, data: Path) -> None:
    tasks = TaskSet.from_dataset_json(read_dataset_json(data / "dataset.json"))
    model = read_model(trained("nnUNetTrainer", labels="regions"), (0,), CHECKPOINT)
    labels = model.dataset_json["labels"]
    model.dataset_json["labels"] = {name.replace("liver_tumour", "lesion"): labels[name] for name in labels}
    source = open_source(model, tasks, tasks.classification)
    exported = export(source, "probed", {0: random_probes(source)})
    ours = predictor(MultiTaskPredictor, exported)
    assert [question.evidence for question in ours.questions] == ["lesion", None]
    assert ours.network.classification.questions[0]["evidence"] == 1


@pytest.mark.parametrize("name", ["a__b", "a/b", "", "..", "a b", "a" * 121, "TINY"])
def test_a_name_that_is_none_is_refused(trained: Trained, data: Path, name: str) -> None:
    with pytest.raises(UserError, match="--export"):
        export(opened(trained(), data), name, {})


def test_what_is_there_is_not_replaced(trained: Trained, data: Path) -> None:
    source = opened(trained(), data)
    export(source, "probed", {0: random_probes(source)})
    with pytest.raises(UserError, match="there already"):
        export(source, "probed", {0: random_probes(source)})
    with pytest.raises(UserError, match="there already"):
        export(source, "tiny", {0: random_probes(source)})


def test_nothing_is_left_of_an_export_that_fails(trained: Trained, data: Path) -> None:
    source = opened(trained(), data)
    before = sorted(source.model.folder.parent.iterdir())
    with pytest.raises(KeyError):
        export(source, "probed", {0: {}})
    assert sorted(source.model.folder.parent.iterdir()) == before


def test_branches_that_answer_are_refused_in_one_line(trained: Trained, data: Path) -> None:
    folder = trained(trainer="nnUNetTrainerMTAN")
    source = opened(folder, data)
    with pytest.raises(UserError, match="weights without a place in our network"):
        export(source, "probe", {0: random_probes(source)})


def test_softmax_is_refused_in_one_line(trained: Trained, data: Path) -> None:
    with pytest.raises(UserError, match="softmax") as raised:
        export(opened(trained("nnUNetTrainer", labels="softmax"), data), "probed", {})
    assert "\n" not in str(raised.value)


def test_a_stock_trainer_with_a_network_of_its_own_is_refused(
    trained: Trained, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(trained("nnUNetTrainer"), data)
    monkeypatch.setattr("nnunet_mtl.lab.probe.export.recursive_find_trainer_class_by_name", lambda name: OwnNetwork)
    with pytest.raises(UserError, match="way of its own"):
        export(source, "probed", {})


class OwnNetwork:
    @staticmethod
    def build_network_architecture() -> None:
        """Not nnU-Net's."""
