import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnunet_mtl.inference.patch_answers import Combination, PatchAnswers, combine
from nnunet_mtl.losses.classification import probabilities
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks import ClassificationTask
from nnunet_mtl.tasks.settings import Settings

PROPERTY = settings(max_examples=30, deadline=None, derandomize=True)
NOMINAL = ClassificationTask("malignancy", "nominal", ("benign", "malignant"), "liver_tumour")
STAGE = ClassificationTask("stage", "ordinal", ("I", "II", "III"), "liver_tumour")
SIGNS = ClassificationTask("signs", "multilabel", ("fat", "blood"), "liver_tumour")
SUBTYPE = ClassificationTask("subtype", "nominal", ("none", "clear", "papillary"), "liver_tumour")
CONTRAST = ClassificationTask("contrast", "nominal", ("no", "yes"))
QUESTIONS = (NOMINAL, STAGE, SIGNS, SUBTYPE, CONTRAST)
OUTPUTS = {"malignancy": 2, "stage": 2, "signs": 2, "subtype": 3, "contrast": 2}


def patches(question: ClassificationTask, logits: Any, evidence: Any = None) -> list[PatchAnswers]:
    """One patch per row of logits, (P, V, outputs) or with one view each (P, outputs)."""
    logits = torch.as_tensor(logits, dtype=torch.float32)
    logits = logits[:, None] if logits.ndim == 2 else logits
    volumes: list[dict[str, Tensor]] = [{}] * len(logits)
    if evidence is not None:
        rows = torch.as_tensor(evidence, dtype=torch.float32).reshape(logits.shape[:2])
        volumes = [{question.name: row} for row in rows]
    return [PatchAnswers({question.name: row}, volume) for row, volume in zip(logits, volumes, strict=True)]


def rule(name: Any, top_k: int = 3) -> Combination:
    return Combination(name, top_k)


def random_case(question: ClassificationTask, n_patches: int = 8, n_views: int = 1, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_patches, n_views, OUTPUTS[question.name], generator=generator)
    return logits, 50 * torch.rand(n_patches, n_views, generator=generator)


# ---- by hand


def test_two_folds_of_eight_patches_seen_in_two_mirrors_by_hand() -> None:
    # malignant minus benign of each patch, first as it is and then mirrored; voxels of evidence likewise
    fold_0 = [(1, 3), (0, 0), (0, 0), (2, 2), (-1, 0), (0, 0), (0, 0), (4, 0)]
    evidence_0 = [(20, 60), (0, 0), (0, 0), (180, 20), (20, 0), (0, 0), (0, 0), (60, 180)]
    fold_1 = [(-2, -2), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
    evidence_1 = [(20, 20), (60, 60), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]

    def margin(values: list[tuple[int, int]]) -> Tensor:
        second = torch.tensor(values, dtype=torch.float32)
        return torch.stack((torch.zeros_like(second), second), dim=-1)

    folds = [
        patches(NOMINAL, margin(fold_0), evidence_0),
        patches(NOMINAL, margin(fold_1), evidence_1),
    ]
    mean_0 = (20 * 1 + 60 * 3 + 180 * 2 + 20 * 2 + 20 * -1 + 60 * 4 + 180 * 0) / (20 + 60 + 180 + 20 + 20 + 60 + 180)
    mean_1 = (20 * -2 + 20 * -2 + 60 * 1 + 60 * 1) / (20 + 20 + 60 + 60)
    expected = (1 / (1 + math.exp(-mean_0 / 1.5)) + 1 / (1 + math.exp(-mean_1 / 0.8))) / 2
    found = combine(folds, NOMINAL, rule("mean"), [1.5, 0.8])
    assert found.tolist() == pytest.approx([1 - expected, expected], abs=1e-6)


def test_top_k_by_hand() -> None:
    case = patches(NOMINAL, [[0.0, 9.0], [0.0, 2.0], [0.0, 4.0], [0.0, -9.0]], [1, 30, 40, 2])
    assert rule("top_k", 2).case_logits(case, NOMINAL).tolist() == [0.0, 3.0]
    assert rule("top_k", 9).case_logits(case, NOMINAL).tolist() == [0.0, 1.5]


def test_noisy_or_by_hand() -> None:
    # exponents 1 and 1/3
    case = patches(NOMINAL, [[0.0, math.log(1 / 3)], [0.0, 0.0]], [60, 20])
    malignant = 1 - 0.75 * 0.5 ** (1 / 3)
    assert combine([case], NOMINAL, rule("noisy_or")).tolist() == pytest.approx([1 - malignant, malignant], abs=1e-5)


def test_noisy_or_of_more_classes_by_hand() -> None:
    each = torch.tensor([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1]])
    found = combine([patches(SUBTYPE, each.log(), [20, 20])], SUBTYPE, rule("noisy_or"))
    raw = [0.5 * 0.8, 1 - 0.7 * 0.9, 1 - 0.8 * 0.9]
    assert found.tolist() == pytest.approx([value / sum(raw) for value in raw], abs=1e-5)


def test_noisy_or_of_an_ordinal_question_is_that_of_each_step() -> None:
    beyond = torch.tensor([[0.5, 0.2], [0.4, 0.3]])
    found = combine([patches(STAGE, torch.logit(beyond), [20, 20])], STAGE, rule("noisy_or"))
    at_least = [1 - 0.5 * 0.6, 1 - 0.8 * 0.7]
    assert found.tolist() == pytest.approx([1 - at_least[0], at_least[0] - at_least[1], at_least[1]], abs=1e-5)


def test_noisy_or_of_labels_is_that_of_each() -> None:
    each = torch.tensor([[0.9, 0.2], [0.4, 0.3]])
    found = combine([patches(SIGNS, torch.logit(each), [20, 20])], SIGNS, rule("noisy_or"))
    assert found.tolist() == pytest.approx([1 - 0.1 * 0.6, 1 - 0.8 * 0.7], abs=1e-5)


# ---- what holds for every rule and kind

RULES = st.sampled_from(["mean", "noisy_or", "top_k"])


@PROPERTY
@given(RULES, st.sampled_from(QUESTIONS), st.integers(0, 50), st.integers(1, 5))
def test_probabilities_are_probabilities(name: str, question: ClassificationTask, seed: int, n_folds: int) -> None:
    cases = [random_case(question, seed=100 * seed + fold) for fold in range(n_folds)]
    found = combine([patches(question, 4 * x, e) for x, e in cases], question, rule(name))
    assert found.shape == (len(question.classes),)
    assert bool(((found >= 0) & (found <= 1)).all())
    if question.kind != "multilabel":
        assert float(found.sum()) == pytest.approx(1, abs=1e-5)


@PROPERTY
@given(RULES, st.sampled_from(QUESTIONS), st.integers(0, 50))
def test_a_single_patch_keeps_its_probabilities(name: str, question: ClassificationTask, seed: int) -> None:
    logits, evidence = random_case(question, 1, seed=seed)
    found = combine([patches(question, logits, evidence)], question, rule(name))
    torch.testing.assert_close(found, probabilities(question.kind, logits[0, 0]), atol=1e-5, rtol=0)


@PROPERTY
@given(RULES, st.sampled_from(QUESTIONS), st.integers(0, 50), st.integers(2, 8))
def test_equal_views_of_a_patch_change_nothing(name: str, question: ClassificationTask, seed: int, views: int) -> None:
    logits, evidence = random_case(question, seed=seed)
    once = combine([patches(question, logits, evidence)], question, rule(name))
    often = patches(question, logits.repeat(1, views, 1), evidence.repeat(1, views))
    torch.testing.assert_close(combine([often], question, rule(name)), once, atol=1e-5, rtol=0)


@PROPERTY
@given(RULES, st.sampled_from(QUESTIONS), st.permutations(range(8)))
def test_the_order_of_patches_does_not_matter(name: str, question: ClassificationTask, order: list[int]) -> None:
    case = patches(question, *random_case(question, n_views=2))
    found = combine([[case[i] for i in order]], question, rule(name))
    torch.testing.assert_close(found, combine([case], question, rule(name)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mean", "noisy_or", "top_k"])
def test_patches_without_evidence_do_not_dilute(name: str) -> None:
    logits, evidence = random_case(NOMINAL, 3)
    empty = patches(NOMINAL, [[9.0, -9.0]] * 500, [0] * 500)
    case = patches(NOMINAL, logits, evidence)
    found = combine([empty + case], NOMINAL, rule(name))
    torch.testing.assert_close(found, combine([case], NOMINAL, rule(name)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_case_without_any_evidence_is_the_plain_mean(question: ClassificationTask) -> None:
    logits, _ = random_case(question, n_views=2)
    found = rule("mean").case_logits(patches(question, logits, torch.zeros(8, 2)), question)
    torch.testing.assert_close(found, logits.mean((0, 1)))


@pytest.mark.parametrize("name", ["mean", "top_k"])
def test_a_question_without_a_region_counts_every_patch_alike(name: str) -> None:
    logits, _ = random_case(CONTRAST, n_views=2)
    found = rule(name).case_logits(patches(CONTRAST, logits), CONTRAST)
    torch.testing.assert_close(found, logits.mean((0, 1)))


def test_noisy_or_of_a_question_without_a_region_counts_every_patch_alike() -> None:
    logits, _ = random_case(CONTRAST)
    without = rule("noisy_or").case_logits(patches(CONTRAST, logits), CONTRAST)
    full = rule("noisy_or").case_logits(patches(CONTRAST, logits, torch.full((8, 1), 20.0)), CONTRAST)
    torch.testing.assert_close(without, full)


def test_certain_patches_stay_finite_and_can_be_tempered() -> None:
    for question in QUESTIONS:
        logits = torch.full((5, OUTPUTS[question.name]), -200.0)
        logits[2, -1 if question.kind == "nominal" else slice(None)] = 200.0
        tempered = combine([patches(question, logits, torch.full((5,), 20.0))], question, rule("noisy_or"), [2.0])
        assert bool(tempered.isfinite().all())
        assert 0.5 < float(tempered[-1]) < 1


@PROPERTY
@given(RULES, st.sampled_from(QUESTIONS))
def test_a_temperature_above_one_makes_less_sure_and_each_fold_has_its_own(
    name: str, question: ClassificationTask
) -> None:
    case = patches(question, *random_case(question))
    plain, tempered = (combine([case], question, rule(name), [t]) for t in (1.0, 3.0))
    torch.testing.assert_close(combine([case], question, rule(name)), plain)
    flat = probabilities(question.kind, torch.zeros(OUTPUTS[question.name]))
    assert float((tempered - flat).abs().sum()) < float((plain - flat).abs().sum())
    both = combine([case, case], question, rule(name), [1.0, 3.0])
    torch.testing.assert_close(both, (plain + tempered) / 2)


# ---- what comes in


def test_views_are_joined_in_single_precision_and_free_of_the_graph() -> None:
    views = [
        MultiTaskOutput([], {"malignancy": torch.tensor([[0.0, value]], requires_grad=True)}, {"malignancy": evidence})
        for value, evidence in ((1.0, torch.tensor([3.0])), (2.0, torch.tensor([4.0])))
    ]
    joined = PatchAnswers.from_views(views).cpu()
    assert joined.logits["malignancy"].tolist() == [[0.0, 1.0], [0.0, 2.0]]
    assert joined.evidence["malignancy"].tolist() == [3.0, 4.0]
    assert not joined.logits["malignancy"].requires_grad
    half = MultiTaskOutput([], {"contrast": torch.zeros(1, 2, dtype=torch.half)})
    assert PatchAnswers.from_views([half]).logits["contrast"].dtype == torch.float32
    assert PatchAnswers.from_views([half]).evidence == {}


@pytest.mark.parametrize("views", [[], [MultiTaskOutput([], {"contrast": torch.zeros(2, 2)})]])
def test_views_that_are_not_of_one_patch_are_refused(views: list[MultiTaskOutput]) -> None:
    with pytest.raises(ValueError, match="batch size one"):
        PatchAnswers.from_views(views)


def test_the_settings_name_the_rule() -> None:
    settings = Settings(class_combination="top_k", class_top_k=5)
    assert Combination.from_settings(settings) == Combination("top_k", 5)


def test_nothing_to_combine_is_refused() -> None:
    case = patches(NOMINAL, *random_case(NOMINAL))
    with pytest.raises(ValueError, match="at least one network"):
        combine([], NOMINAL, rule("mean"))
    with pytest.raises(ValueError, match="at least one patch"):
        combine([case, []], NOMINAL, rule("mean"))
    with pytest.raises(ValueError, match="zip"):
        combine([case, case], NOMINAL, rule("mean"), [1.0])
