import pytest
import torch

from nnunet_mtl.networks.attention import Gates, TaskGuidedAttention
from nnunet_mtl.networks.off_parts import NoTaskAttention

SKIP, FEATURE, TASKS = 12, 20, 3
GATES: list[Gates] = ["identity", "faithful"]


def attention(gates: Gates, *, moved: bool = True) -> TaskGuidedAttention:
    torch.manual_seed(0)
    module = TaskGuidedAttention(SKIP, FEATURE, TASKS, gates)
    if moved and gates == "identity":
        for _ in range(3):
            optimizer = torch.optim.SGD(module.parameters(), 0.03)
            module.factors(feature(4), torch.tensor([0, 1, 2, 0])).mul(torch.randn(4, SKIP)).sum().backward()
            optimizer.step()
    return module.eval()


def spread(factors: torch.Tensor) -> float:
    return float(factors.detach().std(0).mean())


def feature(batch: int) -> torch.Tensor:
    """Features whose channels differ in mean and scale between the images."""
    means = torch.randn(batch, FEATURE, 1, 1, 1)
    return means + (0.5 + torch.rand(batch, FEATURE, 1, 1, 1)) * torch.randn(batch, FEATURE, 4, 5, 3)


def test_identity_leaves_the_skip_bit_for_bit() -> None:
    skip = torch.randn(2, SKIP, 4, 4, 4)
    module = attention("identity", moved=False)
    assert torch.equal(module(skip, feature(2), skip, torch.tensor([0, 2])), skip)


def test_faithful_starts_near_one_half() -> None:
    with torch.no_grad():
        factors = attention("faithful").factors(feature(50), torch.zeros(50, dtype=torch.long))
    assert 0.35 < float(factors.mean()) < 0.65
    assert float(factors.min()) > 0
    assert float(factors.max()) < 1


@pytest.mark.parametrize("gates", GATES)
def test_factors_depend_on_the_image_at_a_fixed_task(gates: Gates) -> None:
    factors = attention(gates).factors(feature(8), torch.ones(8, dtype=torch.long))
    assert spread(factors) > 1e-2


@pytest.mark.parametrize("gates", GATES)
def test_factors_depend_on_the_task_at_a_fixed_image(gates: Gates) -> None:
    factors = attention(gates).factors(feature(1).expand(TASKS, -1, -1, -1, -1), torch.arange(TASKS))
    assert spread(factors) > 1e-2


def test_image_and_task_interact_in_what_the_sigmoid_reads() -> None:
    module = attention("identity")
    images = feature(8)
    factors = torch.stack([module.factors(images, torch.full((8,), task)) for task in range(TASKS)], dim=1)
    logits = torch.logit(factors.detach() / 2)
    interaction = logits - logits.mean(0, keepdim=True) - logits.mean(1, keepdim=True) + logits.mean((0, 1))
    assert float(interaction.std()) > 0.02 * float(logits.std())


def test_a_checkpoint_holds_the_weights_and_the_running_estimates_only() -> None:
    assert not [name for name in attention("identity").state_dict() if not name.startswith("gate.")]


@pytest.mark.parametrize("gates", GATES)
def test_factors_are_the_same_for_any_order_of_the_voxels(gates: Gates) -> None:
    module = attention(gates)
    image, task = feature(2), torch.tensor([0, 2])
    shuffled = image.flatten(2)[:, :, torch.randperm(60)].reshape(image.shape)
    torch.testing.assert_close(module.factors(shuffled, task), module.factors(image, task), atol=1e-5, rtol=0)


@pytest.mark.parametrize("gates", GATES)
def test_a_channel_is_scaled_by_one_factor_everywhere(gates: Gates) -> None:
    module = attention(gates)
    image, task = feature(2), torch.tensor([0, 2])
    skip = torch.randn(2, SKIP, 4, 4)
    expected = torch.einsum("bcyx,bc->bcyx", skip, module.factors(image, task))
    torch.testing.assert_close(module(skip, image, skip, task), expected, atol=0, rtol=0)


@pytest.mark.parametrize("gates", GATES)
def test_only_the_tasks_of_the_batch_move_their_part_of_the_weights(gates: Gates) -> None:
    module = attention(gates).train()
    module.zero_grad()
    module.factors(feature(2), torch.tensor([2, 0])).sum().backward()
    weight = module.gate.task_embedding.weight if gates == "identity" else module.gate.output.weight[:, SKIP:]
    gradient = (module.gate.task_embedding if gates == "identity" else module.gate.output).weight.grad
    of_tasks = gradient[:, -weight.shape[1] :]
    assert torch.equal(of_tasks[:, 1], torch.zeros_like(of_tasks[:, 1]))
    assert float(of_tasks[:, 0].abs().sum()) > 0
    assert float(of_tasks[:, 2].abs().sum()) > 0


def test_faithful_has_the_published_number_of_parameters() -> None:
    count = sum(parameter.numel() for parameter in TaskGuidedAttention(SKIP, FEATURE, TASKS, "faithful").parameters())
    assert count == (SKIP + TASKS) * SKIP + SKIP


@pytest.mark.parametrize("gates", GATES)
def test_half_precision_features_are_pooled_in_single_precision(gates: Gates) -> None:
    module = attention(gates)
    image = 300 * feature(2)  # squares beyond the range of float16
    task = torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        factors = module.factors(image.half(), task)
    assert factors.dtype == torch.float32
    torch.testing.assert_close(factors, module.factors(image, task), atol=2e-2, rtol=0)


def test_no_task_attention_hands_the_skip_on() -> None:
    skip = torch.randn(2, SKIP, 4, 4, 4)
    module = NoTaskAttention(SKIP, FEATURE, TASKS, "identity")
    assert module(skip, feature(2), skip) is skip
    assert not NoTaskAttention.conditioned
    assert not module.state_dict()
