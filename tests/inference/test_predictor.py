from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_mtl.inference.calibration import Calibration, stored_calibrations
from nnunet_mtl.inference.checkpoint_content import add_to_checkpoint
from nnunet_mtl.inference.patch_answers import Combination, PatchAnswers
from nnunet_mtl.inference.predictor import MultiTaskPredictor, PredictionError
from nnunet_mtl.losses.classification import probabilities

NAMES = ["malignancy", "stage", "signs"]
KINDS = {"malignancy": "nominal", "stage": "ordinal", "signs": "multilabel"}
MakeModel = Callable[..., Any]


def image(seed: int = 0, shape: tuple[int, ...] = (12, 12, 12)) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def initialised(kind: type[nnUNetPredictor], model: Any, *, mirroring: bool = True, weights: bool = True) -> Any:
    """A predictor of that class that was handed the model's network, with the first fold's weights."""
    predictor = kind(device=torch.device("cpu"), use_mirroring=mirroring, allow_tqdm=False)
    manager = PlansManager(deepcopy(model.plans))
    network = model.network()
    network.load_state_dict(model.weights[0])
    predictor.manual_initialization(
        network,
        manager,
        manager.get_configuration("tiny"),
        model.weights if weights else None,
        model.dataset_json,
        model.trainer_name,
        model.axes,
    )
    return predictor


def ours(model: Any, **options: Any) -> MultiTaskPredictor:
    predictor: MultiTaskPredictor = initialised(MultiTaskPredictor, model, **options)
    return predictor


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


# ---- segmentation


@pytest.mark.parametrize("mirroring", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"folds": 1}, {"head": None}, {"stock": True}, {"dimensions": 2}, {"axes": None}], ids=str
)
def test_segmentation_logits_are_those_of_the_stock_predictor(
    tiny_model: MakeModel, options: dict[str, Any], mirroring: bool
) -> None:
    model = tiny_model(**{"axes": (0, 1), **options})
    expected = initialised(nnUNetPredictor, model, mirroring=mirroring).predict_logits_from_preprocessed_data(image())
    found = ours(model, mirroring=mirroring).predict_logits_from_preprocessed_data(image())
    assert found.abs().max() > 0.01
    assert torch.equal(found, expected)


# ---- answers


def eight_patches(case: Tensor) -> Iterator[Tensor]:
    for corner in torch.cartesian_prod(*[torch.tensor([0, 4])] * 3):
        x, y, z = corner.tolist()
        yield case[None, :, x : x + 8, y : y + 8, z : z + 8]


@torch.no_grad()
def answers_by_hand(network: nn.Module, case: Tensor, axes: tuple[int, ...]) -> list[list[Any]]:
    """Outputs of every view of every patch."""
    network.eval()
    flips = chain.from_iterable(combinations([axis + 2 for axis in axes], n) for n in range(len(axes) + 1))
    views = list(flips)
    return [[network(torch.flip(patch, flip), full_output=True) for flip in views] for patch in eight_patches(case)]


def mean_by_hand(outputs: list[list[Any]], question: str) -> Tensor:
    """The mean over all forward calls, weighted by their evidence."""
    total, weights = torch.zeros(()), torch.zeros(())
    for output in chain.from_iterable(outputs):
        weight = torch.ones(())
        if question in output.evidence:
            weight = output.evidence[question][0]
        total = total + weight * output.classification[question][0]
        weights = weights + weight
    return total / weights


def test_two_folds_and_mirrors_on_eight_patches_equal_a_computation_without_the_predictor(
    tiny_model: MakeModel,
) -> None:
    model = tiny_model()
    predictor = ours(model)
    predictor.predict_logits_from_preprocessed_data(image())
    assert [len(fold) for fold in predictor.answers] == [8, 8]
    shapes = {name: values.shape for name, values in predictor.answers[1][7].logits.items()}
    assert shapes == {"malignancy": (4, 2), "stage": (4, 2), "signs": (4, 3)}
    assert set(predictor.answers[0][0].evidence) == {"malignancy", "stage"}
    expected: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for fold, weights in enumerate(model.weights):
        network = model.network()
        network.load_state_dict(weights)
        outputs = answers_by_hand(network, image(), (0, 2))
        for name in NAMES:
            logits = mean_by_hand(outputs, name)
            torch.testing.assert_close(predictor.case_logits()[fold][name], logits)
            expected[name].append(probabilities(KINDS[name], logits))
    found = predictor.probabilities()
    assert list(found) == NAMES
    for name in NAMES:
        torch.testing.assert_close(found[name], torch.stack(expected[name]).mean(0))


def test_each_patch_is_seen_once_per_view_whatever_the_number_of_tasks_and_questions(tiny_model: MakeModel) -> None:
    model = tiny_model(folds=1)
    predictor = ours(model)
    calls = []
    predictor.network.register_forward_hook(lambda *call: calls.append(call[1][0].shape))
    predictor.predict_logits_from_preprocessed_data(image())
    assert calls == [(1, 1, 8, 8, 8)] * 8 * 4


@pytest.mark.parametrize("mirroring", [True, False])
def test_the_rule_comes_from_the_settings(tiny_model: MakeModel, mirroring: bool) -> None:
    model = tiny_model(class_combination="top_k", class_top_k=2)
    predictor = ours(model, mirroring=mirroring)
    predictor.predict_logits_from_preprocessed_data(image())
    question = predictor.questions[0]
    expected = Combination("top_k", 2).case_logits(predictor.answers[0], question)
    assert torch.equal(predictor.case_logits()[0]["malignancy"], expected)
    assert len(predictor.answers[0][0].logits["malignancy"]) == (4 if mirroring else 1)


# ---- one case does not leak into the next


def test_a_case_is_answered_alike_after_any_other_case(tiny_model: MakeModel) -> None:
    model = tiny_model()
    fresh, used = ours(model), ours(model)
    used.predict_logits_from_preprocessed_data(image(1, (20, 8, 12)))
    other = used.probabilities()
    for predictor in (fresh, used):
        predictor.predict_logits_from_preprocessed_data(image())
    assert same(fresh.probabilities(), used.probabilities())
    assert not same(fresh.probabilities(), other)


@pytest.mark.parametrize("method", ["predict_logits_from_preprocessed_data", "predict_sliding_window_return_logits"])
def test_a_case_that_fails_leaves_no_answers_of_the_one_before(tiny_model: MakeModel, method: str) -> None:
    predictor = ours(tiny_model())
    predict = getattr(predictor, method)
    predict(image())
    before, network = list(predictor.answers), predictor.network
    with pytest.raises(RuntimeError):
        predict(torch.zeros(2, 12, 12, 12))  # a channel too many
    assert len(before) > 0
    assert len(predictor.answers) == 0
    assert predictor.probabilities() == {}
    assert predictor.network is network
    predict(image())
    assert [len(fold) for fold in predictor.answers] == [8] * len(before)


@pytest.mark.parametrize("fails", [False, True])
def test_all_folds_and_then_one_network_alone_are_two_cases(tiny_model: MakeModel, fails: bool) -> None:
    predictor = ours(tiny_model())
    if fails:
        with pytest.raises(RuntimeError):
            predictor.predict_logits_from_preprocessed_data(torch.zeros(2, 12, 12, 12))
    else:
        predictor.predict_logits_from_preprocessed_data(image())
    predictor.predict_sliding_window_return_logits(image(1))
    assert [len(fold) for fold in predictor.answers] == [8]


def test_a_sliding_window_that_is_tried_again_counts_once(tiny_model: MakeModel) -> None:
    model = tiny_model()
    undisturbed, disturbed = ours(model), ours(model)
    disturbed.perform_everything_on_device = True  # as on a GPU: the second try keeps its results on the CPU
    calls = []

    def run_out_of_memory(*_: Any) -> None:
        calls.append(1)
        if len(calls) in (14, 60):  # in the middle of a patch, once in each fold
            raise RuntimeError("out of memory")

    disturbed.network.register_forward_pre_hook(run_out_of_memory)
    for predictor in (undisturbed, disturbed):
        predictor.predict_logits_from_preprocessed_data(image())
    assert len(calls) == 2 * (14 + 32)
    assert [len(fold) for fold in disturbed.answers] == [8, 8]
    assert same(undisturbed.probabilities(), disturbed.probabilities())


# ---- a network that is handed over, as in training


def test_a_network_that_was_handed_over_answers_for_the_last_case(tiny_model: MakeModel) -> None:
    model = tiny_model()
    whole = ours(tiny_model(folds=1))
    predictor = ours(model, weights=False)
    assert not predictor.answers
    for seed in (1, 0):
        predictor.predict_sliding_window_return_logits(image(seed))
        assert [len(fold) for fold in predictor.answers] == [8]
    whole.predict_logits_from_preprocessed_data(image(0))
    assert same(predictor.probabilities(), whole.probabilities())
    assert len(predictor.case_logits()) == 1


def test_a_network_that_changes_between_cases_is_not_remembered(tiny_model: MakeModel) -> None:
    model = tiny_model()
    predictor = ours(model, weights=False)
    predictor.predict_sliding_window_return_logits(image())
    before = predictor.probabilities()
    predictor.network.load_state_dict(model.weights[1])
    predictor.predict_sliding_window_return_logits(image())
    assert not same(before, predictor.probabilities())


@pytest.mark.parametrize("method", ["predict_logits_from_preprocessed_data", "predict_sliding_window_return_logits"])
@pytest.mark.parametrize("options", [{"head": None}, {"stock": True}], ids=str)
def test_a_network_without_a_head_answers_nothing(tiny_model: MakeModel, options: dict[str, Any], method: str) -> None:
    predictor = ours(tiny_model(**options))
    getattr(predictor, method)(image())
    assert not predictor.answers
    assert predictor.probabilities() == predictor.classes() == {}
    assert predictor.case_logits() == []
    assert (predictor.tasks is None) == ("stock" in options)


def test_plans_of_a_stock_training_may_hold_settings(tiny_model: MakeModel) -> None:
    model = tiny_model(stock=True)
    model.plans["nnunet_mtl"] = {"settings": {"epochs": 3}}
    predictor = ours(model)
    assert predictor.tasks is None
    assert predictor.questions == ()


def test_a_network_in_a_wrapper_is_found(tiny_model: MakeModel) -> None:
    predictor = ours(tiny_model(folds=1), weights=False)
    bare = predictor.network
    predictor.network = torch.compile(bare, backend="eager")
    predictor.select_tasks(["kidney"])
    assert bare.passes.selected == [1]


# ---- choice of tasks


def test_only_chosen_tasks_are_predicted_and_asked_about(tiny_model: MakeModel) -> None:
    model = tiny_model()
    everything, chosen = ours(model), ours(model)
    chosen.select_tasks(["kidney"])
    logits, some = (p.predict_logits_from_preprocessed_data(image()) for p in (everything, chosen))
    assert torch.equal(logits[2], some[2])
    assert bool((some[:2] < -99).all())
    assert list(chosen.probabilities()) == ["stage", "signs"]
    expected = everything.probabilities()
    assert same(chosen.probabilities(), {name: expected[name] for name in ("stage", "signs")})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["heart"], "tasks: unknown task 'heart'; the model has liver, kidney"),
        ([], "tasks: none is chosen; the model has liver, kidney"),
    ],
)
def test_tasks_that_are_not_there_are_refused(tiny_model: MakeModel, names: list[str], message: str) -> None:
    with pytest.raises(PredictionError) as error:
        ours(tiny_model()).select_tasks(names)
    assert str(error.value) == message


def test_a_stock_model_has_no_tasks_to_choose_from(tiny_model: MakeModel) -> None:
    with pytest.raises(PredictionError, match="the model is a stock nnU-Net"):
        ours(tiny_model(stock=True)).select_tasks(["liver"])


# ---- a model folder


def from_folder(folder: Path, folds: Any = None, **options: Any) -> MultiTaskPredictor:
    predictor = MultiTaskPredictor(device=torch.device("cpu"), allow_tqdm=False, **options)
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    return predictor


def test_a_model_folder_predicts_as_nnunet_predicts_with_it(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model().write(tmp_path / "model")
    stock = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(folder), (0, 1))
    predictor = from_folder(folder)
    expected, found = (p.predict_logits_from_preprocessed_data(image()) for p in (stock, predictor))
    assert torch.equal(found, expected)
    for name in ("trainer_name", "dataset_json", "allowed_mirroring_axes"):
        assert getattr(predictor, name) == getattr(stock, name)
    assert [len(fold) for fold in predictor.answers] == [8, 8]
    assert len(predictor.answers[0][0].logits["stage"]) == 4


def test_folds_are_those_that_were_named(tiny_model: MakeModel, tmp_path: Path) -> None:
    model = tiny_model(folds=3)
    folder = model.write(tmp_path / "model")
    (folder / "fold_2").rename(folder / "fold_all")
    for folds, expected in ((None, [0, 1]), ((1,), [1]), ("all", [2]), (["all", 0], [2, 0]), (("1",), [1])):
        predictor = from_folder(folder, folds)
        found = predictor.list_of_parameters
        assert len(found) == len(predictor.calibrations) == len(expected)
        for weights, fold in zip(found, expected, strict=True):
            assert same(weights, model.weights[fold])
        assert same(predictor.network.state_dict(), model.weights[expected[0]])


def calibrate(folder: Path, fold: int, calibration: Calibration) -> None:
    stored = stored_calibrations({"malignancy": calibration})
    add_to_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth", stored)


def test_a_fold_that_was_never_taught_a_question_does_not_answer_it(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model().write(tmp_path / "model")
    calibrate(folder, 0, Calibration(2.0, (0.2,), 9, fitted=True))
    for fold, taught in enumerate((["malignancy", "signs"], ["signs"])):
        add_to_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth", {"taught": taught})
    both, alone = from_folder(folder), from_folder(folder, (0,))
    for predictor in (both, alone):
        predictor.predict_logits_from_preprocessed_data(image())
        assert set(predictor.probabilities()) == set(predictor.classes()) == {"malignancy", "signs"}
    torch.testing.assert_close(both.probabilities()["malignancy"], alone.probabilities()["malignancy"])
    assert not torch.allclose(both.probabilities()["signs"], alone.probabilities()["signs"])
    assert both.thresholds(both.questions[0]) == (0.2,)


def test_each_fold_is_tempered_by_its_own_calibration(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model().write(tmp_path / "model")
    stored = [Calibration(2.0, (0.2,), 9, fitted=True), Calibration(0.5, (0.6,), 8, fitted=True)]
    for fold, calibration in enumerate(stored):
        calibrate(folder, fold, calibration)
    predictor = from_folder(folder)
    assert [fold["malignancy"] for fold in predictor.calibrations] == stored
    predictor.predict_logits_from_preprocessed_data(image())
    logits = [fold["malignancy"] for fold in predictor.case_logits()]
    expected = (torch.softmax(logits[0] / 2, -1) + torch.softmax(logits[1] / 0.5, -1)) / 2
    torch.testing.assert_close(predictor.probabilities()["malignancy"], expected)
    question, stage, signs = predictor.questions
    assert predictor.thresholds(question) == pytest.approx((0.4,))
    assert (predictor.thresholds(stage), predictor.thresholds(signs)) == ((), (0.5,) * 3)


def test_classes_are_answered_at_the_mean_threshold(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model().write(tmp_path / "model")
    predictor = from_folder(folder)
    predictor.predict_logits_from_preprocessed_data(image())
    malignant = float(predictor.probabilities()["malignancy"][1])
    stage = predictor.probabilities()["stage"]
    for shift, expected in ((-0.01, "malignant"), (0.01, "benign")):
        for fold in range(2):
            threshold = malignant + shift
            calibration = Calibration(1.0, (threshold,), 9, fitted=True)
            calibrate(folder, fold, calibration)
        predictor = from_folder(folder)
        predictor.predict_logits_from_preprocessed_data(image())
        assert predictor.classes()["malignancy"] == (expected,)
        assert predictor.classes()["stage"] == (("I", "II", "III")[int(stage.argmax())],)


def test_the_answers_of_one_model_are_not_kept_for_the_next(tiny_model: MakeModel, tmp_path: Path) -> None:
    predictor = from_folder(tiny_model().write(tmp_path / "model"))
    predictor.predict_logits_from_preprocessed_data(image())
    predictor.initialize_from_trained_model_folder(str(tiny_model(head=None).write(tmp_path / "other")), None)
    assert not predictor.answers


def test_answers_are_plain_numbers_in_the_memory_of_the_cpu(tiny_model: MakeModel) -> None:
    predictor = ours(tiny_model(folds=1))
    predictor.predict_logits_from_preprocessed_data(image())
    (fold,) = predictor.answers
    assert all(isinstance(patch, PatchAnswers) for patch in fold)
    assert fold[0].logits["stage"].device.type == "cpu"
    assert fold[0].logits["stage"].dtype == torch.float32
