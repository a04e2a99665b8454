from collections.abc import Callable
from typing import Any

import pytest
import torch

from nnunet_mtl.networks.classification import EvidenceHead
from nnunet_mtl.networks.decoders import TaskDecoders
from nnunet_mtl.networks.heads import SlotHead
from nnunet_mtl.networks.off_parts import NoTaskAttention

Build = Callable[..., Any]
OFF = {"task_attention": NoTaskAttention, "segmentation_head": SlotHead, "slot_of_region": [0, 1, 0, 0, 1]}
OWN = OFF | {"decoders": TaskDecoders}
QUESTION = {"name": "malignant", "outputs": 2, "evidence": 1, "task": 0}


def image(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_k_minus_one_decoders_are_added_and_no_encoder(build: Build, kind: str) -> None:
    shared, own = build(kind, **OFF), build(kind, **OWN)
    of_decoder = count(shared) - count(shared.encoder)
    assert count(own) - count(shared) == 2 * of_decoder
    assert not any("encoder" in name for name in own.decoders.state_dict())
    starts = [own.decoder.stages[0], own.decoders.others[0].stages[0], own.decoders.others[1].stages[0]]
    weights = [stage.convs[0].conv.weight for stage in starts]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_a_sample_passes_through_the_decoder_of_its_task_alone(build: Build, calls_of: Any) -> None:
    network = build(**OWN)
    first, second, third = network.decoder, *network.decoders.others
    x, task = image(), torch.tensor([2, 0, 2])
    with (
        calls_of(first.transpconvs[0]) as of_first,
        calls_of(second.transpconvs[0]) as of_second,
        calls_of(third.transpconvs[0]) as of_third,
    ):
        output = network(x, task=task, full_output=True)
    assert [len(each) for each in (of_first, of_second, of_third)] == [1, 0, 1]
    assert (of_first[0][0].shape[0], of_third[0][0].shape[0]) == (1, 2)
    for n in range(3):
        alone = network(x[n : n + 1], task=task[n : n + 1])
        torch.testing.assert_close(output.segmentation[0][n : n + 1], alone, atol=1e-5, rtol=0)
    sum(scale.square().sum() for scale in output.segmentation).backward()
    gradients = [
        [parameter.grad for name, parameter in d.named_parameters() if "encoder" not in name] for d in (first, second)
    ]
    assert any(bool(gradient.any()) for gradient in gradients[0])
    # zero and not None: DistributedDataParallel waits for every one
    assert not any(bool(gradient.any()) for gradient in gradients[1])
    assert any(bool(parameter.grad.any()) for parameter in third.parameters())


def test_all_tasks_cost_one_encoder_pass_and_a_decoder_pass_each(build: Build, calls_of: Any) -> None:
    network = build(**OWN).eval()
    x = image()
    decoders = [network.decoder, *network.decoders.others]
    with (
        calls_of(network.get_submodule(network.keys_to_in_proj[0])) as encoded,
        calls_of(decoders[1].transpconvs[0]) as decoded,
        torch.no_grad(),
    ):
        logits = network(x)
    assert (len(encoded), len(decoded)) == (1, 1)
    for region, owner in enumerate([0, 0, 1, 2, 2]):
        alone = network(x, task=torch.full((3,), owner))
        torch.testing.assert_close(logits[:, region], alone[:, region], atol=1e-5, rtol=0)
    assert not torch.allclose(logits[:, 0], logits[:, 2], atol=1e-2)  # the same slot of two decoders


def test_answers_are_read_from_the_decoder_of_their_task(build: Build) -> None:
    network = build(**OWN, questions=[QUESTION], classification=EvidenceHead)
    with torch.no_grad():
        for parameter in network.classification.parameters():
            parameter.add_(torch.randn_like(parameter))
    network.eval()
    x = image()
    mixed = network(x, task=torch.tensor([0, 1, 0]), full_output=True).classification["malignant"]
    everything = network(x, full_output=True).classification["malignant"]
    torch.testing.assert_close(mixed[[0, 2]], everything[[0, 2]], atol=1e-4, rtol=0)


def test_one_task_has_one_decoder(build: Build) -> None:
    network = build(**(OWN | {"slot_of_region": [0, 1]}), task_of_region=[0, 0])
    assert len(network.decoders.others) == 0
    assert network(image()).shape == (3, 2, 16, 16)
