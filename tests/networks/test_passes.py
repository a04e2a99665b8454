import pytest
import torch
from torch import Tensor

from nnunet_mtl.networks.passes import PassResult, Step, TaskPasses

OWNERS = [0, 2, 1, 0, 2]
REGION_WEIGHTS = torch.arange(1.0, 6.0).reshape(1, 5, 1, 1)


class Recorder:
    """Steps on one-channel images: add 1, add 10 per task index, spread over the regions; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        self.calls.append("encode")
        return x + 1 + (0 if task is None else 10 * task.reshape(-1, 1, 1, 1))

    def decode(self, x: Tensor, task: Tensor | None = None) -> Tensor:
        self.calls.append("decode")
        return x + (0 if task is None else 10 * task.reshape(-1, 1, 1, 1))

    def head(self, x: Tensor) -> PassResult:
        self.calls.append("head")
        return PassResult(x * REGION_WEIGHTS, x)

    def steps(self, *, encode: bool = False, decode: bool = False) -> tuple[Step, ...]:
        return Step(self.encode, encode), Step(self.decode, decode), Step(self.head, False)


def expected(image: Tensor, codes: list[int]) -> Tensor:
    return (image + 1 + 10 * torch.tensor(codes).reshape(1, -1, 1, 1)) * REGION_WEIGHTS


def test_the_task_free_prefix_runs_once_and_the_rest_once_per_task() -> None:
    recorder = Recorder()
    image = torch.randn(2, 1, 3, 3)
    logits, _ = TaskPasses(OWNERS)(recorder.steps(decode=True), image)
    assert torch.equal(logits, expected(image, OWNERS))
    assert recorder.calls == ["encode"] + ["decode", "head"] * 3


def test_a_task_that_enters_at_the_input_costs_whole_passes() -> None:
    recorder = Recorder()
    image = torch.randn(2, 1, 3, 3)
    logits, _ = TaskPasses(OWNERS)(recorder.steps(encode=True), image)
    assert torch.equal(logits, expected(image, OWNERS))
    assert recorder.calls == ["encode", "decode", "head"] * 3


def test_one_pass_serves_all_tasks_where_the_task_enters_nowhere() -> None:
    recorder = Recorder()
    image = torch.randn(2, 1, 3, 3)
    logits, _ = TaskPasses(OWNERS)(recorder.steps(), image)
    assert torch.equal(logits, expected(image, [0] * 5))
    assert recorder.calls == ["encode", "decode", "head"]


def test_a_step_that_is_not_conditioned_never_sees_the_task() -> None:
    recorder = Recorder()
    image = torch.randn(2, 1, 3, 3)
    task = torch.tensor([2, 1])
    logits, _ = TaskPasses(OWNERS)(recorder.steps(decode=True), image, task)
    assert torch.equal(logits, (image + 1 + 10 * task.reshape(2, 1, 1, 1)) * REGION_WEIGHTS)


@pytest.mark.parametrize("conditioned", [True, False])
def test_the_result_is_fresh_and_contiguous_even_if_the_steps_return_a_view(conditioned: bool) -> None:
    image = torch.randn(2, 1, 3, 3)
    steps = (Step(lambda x, *_: PassResult(x.expand(2, 5, 3, 3)), conditioned),)
    logits, _ = TaskPasses(OWNERS)(steps, image)
    assert logits.is_contiguous()
    before = image.clone()
    logits += 1
    assert torch.equal(image, before)


def test_it_adds_nothing_to_a_checkpoint() -> None:
    assert not TaskPasses(OWNERS).state_dict()
