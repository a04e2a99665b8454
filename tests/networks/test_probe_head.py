from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_mtl.networks.classification import Features
from nnunet_mtl.networks.probe_head import ProbeHead, patch_descriptor

QUESTIONS: list[Any] = [
    {"name": "malignancy", "outputs": 2, "evidence": 1, "task": 0},
    {"name": "stage", "outputs": 3, "evidence": -1, "task": -1},
]


def stages(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, channels, *size, generator=generator) for channels, size in ((4, (8, 8, 4)), (6, (4, 4, 4)))]


def fitted(head: Any) -> Any:
    with torch.no_grad():
        for answer in head.answers:
            size, outputs = answer.output.in_features, answer.output.out_features
            answer.load(torch.randn(size), torch.rand(size) + 0.1, torch.randn(outputs, size), torch.randn(outputs))
    return head.eval()


def test_without_evidence_every_voxel_counts_the_same() -> None:
    features = stages()
    expected = [
        part
        for feature in (feature.flatten(2) for feature in features)
        for part in (feature.mean(2), feature.std(2, correction=0), feature.amax(2).relu())
    ]
    torch.testing.assert_close(patch_descriptor(features, None), torch.cat(expected, 1), atol=1e-3, rtol=1e-3)


def test_only_what_lies_under_the_evidence_is_described() -> None:
    evidence = torch.zeros(3, 1, 8, 8, 4)
    evidence[:, :, :4] = 1
    features, others = stages(0), stages(1)
    mixed = [feature.clone() for feature in features]
    for feature, other in zip(mixed, others, strict=True):
        half = feature.shape[2] // 2
        feature[:, :, half:] = other[:, :, half:]
    assert torch.equal(patch_descriptor(mixed, evidence), patch_descriptor(features, evidence))
    halves = [feature[:, :, : feature.shape[2] // 2] for feature in features]
    torch.testing.assert_close(
        patch_descriptor(features, evidence), patch_descriptor(halves, None), atol=1e-3, rtol=1e-3
    )


def test_a_new_head_answers_nothing_and_a_loaded_one_its_linear_layer() -> None:
    head = ProbeHead(QUESTIONS, (4, 6), (4,), 0.5).eval()
    features = Features(stages(), torch.zeros(3, 4, 4, 4, 4))
    assert head.questions == QUESTIONS
    assert torch.equal(head(1, features, None), torch.zeros(3, 3))
    size = 30
    mean, var, weight, bias = torch.randn(size), torch.rand(size) + 0.1, torch.randn(3, size), torch.randn(3)
    answer: Any = head.answers[1]
    answer.load(mean, var, weight, bias)
    descriptor = patch_descriptor(features.encoder, None)
    expected = (descriptor - mean) / (var + 1e-6).sqrt() @ weight.T + bias
    torch.testing.assert_close(head(1, features, None), expected)
    assert torch.equal(head(0, features, torch.ones(3, 1, 8, 8, 4)), torch.zeros(3, 2))


def test_the_mean_of_its_answers_is_its_answer_to_the_mean() -> None:
    torch.manual_seed(0)
    answer: Any = fitted(ProbeHead(QUESTIONS, (4, 6), (4,), 0.5).double()).answers[0]
    descriptors, weights = 100 * torch.randn(5, 30, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    weights /= weights.sum()
    torch.testing.assert_close(weights @ answer(descriptors), answer((weights @ descriptors)[None])[0])


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_in_a_network_it_reads_every_encoder_stage_and_leaves_the_segmentation_alone(
    build: Callable[..., nn.Module], kind: str
) -> None:
    without = build(kind).eval()
    network: Any = build(kind, questions=QUESTIONS, classification=ProbeHead, class_dropout=0.5).eval()
    network.load_state_dict(without.state_dict() | fitted(network.classification).state_dict(prefix="classification."))
    image = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        output = network(image, full_output=True)
        assert torch.equal(output.segmentation, without(image))
    assert {name: tuple(logits.shape) for name, logits in output.classification.items()} == {
        "malignancy": (2, 2),
        "stage": (2, 3),
    }
    assert list(output.evidence) == ["malignancy"]
    assert network.classification.answers[0].output.in_features == 3 * (4 + 6 + 8)
    assert (output.classification["stage"][0] - output.classification["stage"][1]).abs().max() > 1e-3
