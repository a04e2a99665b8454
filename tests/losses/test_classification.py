import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from nnunet_mtl.losses.classification import CaseTargets, ClassificationLoss, n_outputs, patch_weight, probabilities
from nnunet_mtl.tasks import ClassificationTask

KINDS = ("nominal", "ordinal", "multilabel")
NOMINAL = ClassificationTask("a.question / with any name", "nominal", ("x", "y", "z"), "tumour")
ORDINAL = ClassificationTask("grade", "ordinal", ("1", "2", "3", "4"))
MULTILABEL = ClassificationTask("findings", "multilabel", ("f", "g"), "tumour")
QUESTIONS = (NOMINAL, ORDINAL, MULTILABEL)
WEIGHTS = {
    NOMINAL.name: torch.tensor([0.5, 2.0, 1.0]),
    ORDINAL.name: torch.tensor([1.0, 3.0, 0.25, 1.0]),
    MULTILABEL.name: torch.tensor([4.0, 0.5]),
}
N_SAMPLES = 6
LEVEL = torch.tensor([0, 1, 2, 3, 2, 1])  # each grade at least once


def make_batch(seed=0):
    """Logits, targets that are all known, evidence volumes and usable pairs of six samples."""
    generator = torch.Generator().manual_seed(seed)
    logits = {
        question.name: 2 * torch.randn(N_SAMPLES, n_outputs(question.kind, len(question.classes)), generator=generator)
        for question in QUESTIONS
    }
    truth = {
        NOMINAL.name: one_hot(LEVEL % 3, 3).float(),
        ORDINAL.name: one_hot(LEVEL, 4).float(),
        MULTILABEL.name: torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0], [1, 0]]).float(),
    }
    known = torch.ones(N_SAMPLES, dtype=torch.bool)
    targets = {name: CaseTargets(target, known) for name, target in truth.items()}
    evidence = {name: 50 * torch.rand(N_SAMPLES, generator=generator) for name in (NOMINAL.name, MULTILABEL.name)}
    return logits, targets, evidence, torch.ones(N_SAMPLES, len(QUESTIONS), dtype=torch.bool)


def loss_of(*questions, half_evidence=10.0):
    return ClassificationLoss(questions, WEIGHTS, half_evidence)


def evaluate(loss, logits, *others):
    """Return the loss and its gradient on each question's logits."""
    leaves = {name: values.clone().requires_grad_() for name, values in logits.items()}
    value = loss(leaves, *others)
    value.backward()
    return value.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def per_sample(question, logits, targets):
    """The loss of each sample, written with torch's own losses."""
    answers, truth, weights = logits[question.name], targets[question.name].target, WEIGHTS[question.name]
    if question.kind == "nominal":
        return cross_entropy(answers, truth.argmax(1), weights, reduction="none")
    if question.kind == "ordinal":
        level = truth.argmax(1)
        above = (level[:, None] > torch.arange(3)).float()
        return binary_cross_entropy_with_logits(answers, above, reduction="none").mean(1) * weights[level]
    return nn.BCEWithLogitsLoss(pos_weight=weights, reduction="none")(answers, truth).mean(1)


@pytest.mark.parametrize("question", QUESTIONS, ids=KINDS)
def test_a_question_without_evidence_costs_the_mean_of_its_usual_loss(question):
    logits, targets, _, _ = make_batch()
    usable = torch.ones(N_SAMPLES, 1, dtype=torch.bool)
    value, gradient = evaluate(loss_of(question), logits, targets, {}, usable)
    expected, expected_gradient = evaluate(lambda leaves: per_sample(question, leaves, targets).mean(), logits)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient[question.name], expected_gradient[question.name], rtol=1e-5, atol=1e-8)


def test_an_ordinal_answer_by_hand():
    logits = {ORDINAL.name: torch.zeros(1, 3)}
    targets = {ORDINAL.name: CaseTargets(one_hot(torch.tensor([1]), 4).float(), torch.tensor([True]))}
    value, gradient = evaluate(loss_of(ORDINAL), logits, targets, {}, torch.tensor([[True]]))
    # three fair coins, times the weight of the second class; it lies above the first step only
    torch.testing.assert_close(value, 3 * torch.tensor(2.0).log())
    torch.testing.assert_close(gradient[ORDINAL.name], torch.tensor([[-0.5, 0.5, 0.5]]))


def test_all_pairs_of_all_questions_weigh_by_their_evidence_and_are_counted():
    logits, targets, evidence, usable = make_batch()
    usable[2, 0] = usable[4, 1] = False
    value, _ = evaluate(loss_of(*QUESTIONS), logits, targets, evidence, usable)
    volumes = (evidence[NOMINAL.name], torch.tensor(float("inf")), evidence[MULTILABEL.name])
    total = 0
    for column, (question, volume) in enumerate(zip(QUESTIONS, volumes, strict=True)):
        weight = 1 / (1 + 10 / volume)
        total += (per_sample(question, logits, targets) * weight * usable[:, column]).sum()
    torch.testing.assert_close(value, total / int(usable.sum()), rtol=1e-6, atol=0)


def test_weights_of_evidence():
    volumes = torch.tensor([0.0, 5.0, 10.0, 90.0])
    torch.testing.assert_close(patch_weight(volumes, 10.0), torch.tensor([0, 1 / 3, 0.5, 0.9]))
    assert patch_weight(volumes.half(), 0.0).tolist() == [0, 1, 1, 1]
    assert patch_weight(volumes.half(), 10.0).dtype == torch.float32


def test_no_gradient_reaches_the_evidence():
    logits, targets, evidence, usable = make_batch()
    evidence = {name: volume.requires_grad_() for name, volume in evidence.items()}
    logits = {name: values.requires_grad_() for name, values in logits.items()}
    loss_of(*QUESTIONS)(logits, targets, evidence, usable).backward()
    assert all(volume.grad is None for volume in evidence.values())
    assert all(values.grad.count_nonzero() for values in logits.values())


@pytest.mark.parametrize("reason", ["unknown", "not usable"])
def test_missing_labels_change_nothing_by_a_bit(reason):
    logits, targets, evidence, usable = make_batch()
    missing = torch.tensor([False, True, False, False, True, False])
    if reason == "unknown":
        targets = {name: CaseTargets(target, ~missing) for name, (target, _) in targets.items()}
    else:
        usable = usable & ~missing[:, None]
    loss = loss_of(*QUESTIONS)
    value, gradient = evaluate(loss, logits, targets, evidence, usable)

    other = {name: CaseTargets(target.clone(), known) for name, (target, known) in targets.items()}
    for name in logits:
        other[name].target[missing] = float("nan")
    broken = {name: values.masked_fill(missing[:, None], float("inf")) for name, values in logits.items()}
    nowhere = {name: volume.masked_fill(missing, float("nan")) for name, volume in evidence.items()}
    other_value, other_gradient = evaluate(loss, broken, other, nowhere, usable)

    assert torch.equal(value, other_value)
    for name in logits:
        assert torch.equal(gradient[name], other_gradient[name])
        assert gradient[name][missing].count_nonzero() == 0
        assert gradient[name][~missing].count_nonzero() > 0


@pytest.mark.parametrize("reason", ["unknown", "not usable"])
def test_nothing_to_learn_is_a_zero_attached_to_all_logits(reason):
    logits, targets, evidence, usable = make_batch()
    if reason == "unknown":
        nobody = torch.zeros(N_SAMPLES, dtype=torch.bool)
        targets = {name: CaseTargets(target, nobody) for name, (target, _) in targets.items()}
    else:
        usable = torch.zeros_like(usable)
    value, gradient = evaluate(loss_of(*QUESTIONS), logits, targets, evidence, usable)
    assert value == 0
    assert all(gradient[name].count_nonzero() == 0 for name in logits)


def test_one_question_with_labels_attaches_the_others_too():
    logits, targets, evidence, usable = make_batch()
    usable[:, 1:] = False
    _, gradient = evaluate(loss_of(*QUESTIONS), logits, targets, evidence, usable)
    assert [gradient[question.name].count_nonzero() > 0 for question in QUESTIONS] == [True, False, False]


def test_half_precision_and_autocast_compute_in_float32():
    logits, targets, evidence, usable = make_batch()
    logits = {name: values.bfloat16() for name, values in logits.items()}
    expected = loss_of(*QUESTIONS)({name: v.float() for name, v in logits.items()}, targets, evidence, usable)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss_of(*QUESTIONS)(logits, targets, evidence, usable)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


def test_arguments_that_do_not_fit_are_refused():
    logits, targets, evidence, usable = make_batch()
    loss = loss_of(*QUESTIONS)
    with pytest.raises(ValueError, match=r"logits of grade: shape \(6, 4\), expected \(6, 3\)"):
        loss(logits | {"grade": torch.zeros(6, 4)}, targets, evidence, usable)
    with pytest.raises(ValueError, match=r"target of grade: shape \(6, 3\), expected \(6, 4\)"):
        loss(logits, targets | {"grade": CaseTargets(torch.zeros(6, 3), usable[:, 0])}, evidence, usable)
    with pytest.raises(ValueError, match="known of grade"):
        loss(logits, targets | {"grade": CaseTargets(torch.zeros(6, 4), usable[:5, 0])}, evidence, usable)
    with pytest.raises(ValueError, match="evidence of findings"):
        loss(logits, targets, evidence | {"findings": torch.zeros(6, 1)}, usable)
    with pytest.raises(ValueError, match="usable"):
        loss(logits, targets, evidence, usable[:, :2])
    with pytest.raises(TypeError, match="must be bool"):
        loss(logits, targets, evidence, usable.long())
    with pytest.raises(TypeError, match="must be bool"):
        loss(logits, targets | {"grade": CaseTargets(torch.zeros(6, 4), torch.ones(6))}, evidence, usable)
    with pytest.raises(ValueError, match="class weights of grade"):
        ClassificationLoss(QUESTIONS, WEIGHTS | {"grade": torch.ones(3)}, 1.0)
    with pytest.raises(ValueError, match="no questions"):
        ClassificationLoss((), {}, 1.0)


def test_number_of_outputs():
    assert [n_outputs(kind, 4) for kind in KINDS] == [4, 3, 4]
    with pytest.raises(ValueError, match="unknown kind 'regression'; known are nominal, ordinal, multilabel"):
        n_outputs("regression", 3)
    with pytest.raises(ValueError, match="unknown kind"):
        probabilities("regression", torch.zeros(3))


def test_probabilities():
    logits = torch.tensor([[0.5, -1.0, -3.0], [2.0, 1.0, 1.0]])
    torch.testing.assert_close(probabilities("nominal", logits), logits.softmax(1))
    torch.testing.assert_close(probabilities("multilabel", logits), logits.sigmoid())
    above = logits.sigmoid()
    expected = torch.stack([1 - above[:, 0], above[:, 0] - above[:, 1], above[:, 1] - above[:, 2], above[:, 2]], 1)
    torch.testing.assert_close(probabilities("ordinal", logits), expected)
    torch.testing.assert_close(probabilities("ordinal", torch.zeros(2, 3, 1)), torch.full((2, 3, 2), 0.5))


def test_unordered_cumulative_logits_are_lowered():
    values = probabilities("ordinal", torch.tensor([0.0, 5.0, -1.0]))
    torch.testing.assert_close(values, probabilities("ordinal", torch.tensor([0.0, 0.0, -1.0])))


@given(st.sampled_from(["nominal", "ordinal"]), st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=6))
def test_exclusive_probabilities_are_not_negative_and_sum_to_one(kind, logits):
    values = probabilities(kind, torch.tensor(logits).bfloat16())
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.sum().item() == pytest.approx(1, abs=1e-6)


# Name -> samples with labels for each question, and how many samples the first of two processes holds.
SCENARIOS = {
    "disjoint questions": ([[0, 1, 2], [3, 4], [5]], 3),
    "one process without": ([[3, 4], [4, 5], [5]], 3),
    "unequal batches": ([[0, 2, 3], [0, 1, 2, 3, 4, 5], [1, 4]], 1),
    "nothing": ([[], [], []], 3),
}


def make_network():
    torch.manual_seed(0)
    return nn.Linear(4, 8)


def run_scenario(network, scenario, samples):
    """Return the loss and every parameter's gradient for those samples of the scenario's batch."""
    _, targets, evidence, usable = make_batch()
    features = torch.randn(N_SAMPLES, 4, generator=torch.Generator().manual_seed(1))[samples]
    outputs = network(features).split([3, 3, 2], 1)
    labelled = SCENARIOS[scenario][0]
    some = {}
    for question, known in zip(QUESTIONS, labelled, strict=True):
        mask = torch.tensor([sample in known for sample in range(N_SAMPLES)])
        some[question.name] = CaseTargets(targets[question.name].target[samples], mask[samples])
    volumes = {name: volume[samples] for name, volume in evidence.items()}
    logits = dict(zip((question.name for question in QUESTIONS), outputs, strict=True))
    value = loss_of(*QUESTIONS)(logits, some, volumes, usable[samples])
    value.backward()
    return value.detach(), [parameter.grad for parameter in network.parameters()]


def train_as_one_of_two(rank):
    """Run every scenario as process `rank` of two; called by the fixture `two_processes`."""
    results = {}
    for scenario, (_, first) in SCENARIOS.items():
        samples = slice(0, first) if rank == 0 else slice(first, N_SAMPLES)
        network = nn.parallel.DistributedDataParallel(make_network())
        results[scenario] = run_scenario(network, scenario, samples)
    return results


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_train_as_one_on_the_union(two_processes, scenario):
    expected, expected_gradients = run_scenario(make_network(), scenario, slice(0, N_SAMPLES))
    (value_0, gradients_0), (value_1, gradients_1) = (results[scenario] for results in two_processes)
    torch.testing.assert_close((value_0 + value_1) / 2, expected, rtol=1e-6, atol=0)
    for gradient_0, gradient_1, gradient in zip(gradients_0, gradients_1, expected_gradients, strict=True):
        assert torch.equal(gradient_0, gradient_1)
        torch.testing.assert_close(gradient_0, gradient, rtol=1e-5, atol=1e-8)
    assert (expected == 0) == (scenario == "nothing")
