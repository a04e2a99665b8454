from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnunet_mtl.networks.task_passes import OFF, Answer, PassResult, Step, TaskPasses

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
@pytest.mark.parametrize(
    "view",
    [lambda x: x.expand(2, 5, 3, 3), lambda x: x[:, 0, :, :, None].repeat(1, 1, 1, 5).permute(0, 3, 1, 2)],
)
def test_the_result_is_fresh_and_contiguous_even_if_the_steps_return_a_view(
    view: Callable[[Tensor], Tensor], conditioned: bool
) -> None:
    image = torch.randn(2, 1, 3, 3)
    steps = (Step(lambda x, *_: PassResult(view(x)), conditioned),)
    logits, _ = TaskPasses(OWNERS)(steps, image)
    assert logits.is_contiguous()
    before = image.clone()
    logits += 1
    assert torch.equal(image, before)


def test_it_adds_nothing_to_a_checkpoint() -> None:
    assert not TaskPasses(OWNERS).state_dict()


def answers(recorder: Recorder) -> dict[str, Answer]:
    """Two questions of task 2, one of task 0 and one of none; each answers with the mean of its pass's features."""

    def reader(name: str) -> Answer:
        def read(result: PassResult) -> float:
            recorder.calls.append(name)
            return round(float(result.features.mean()), 4)

        return Answer(read, {"a": 2, "b": -1, "c": 0, "d": 2}[name])

    return {name: reader(name) for name in "abcd"}


@pytest.mark.parametrize(("conditioned", "means"), [(True, [21, 1, 1, 21]), (False, [1, 1, 1, 1])])
def test_every_answer_is_read_once_in_the_pass_of_its_task(conditioned: bool, means: list[int]) -> None:
    recorder = Recorder()
    image = torch.zeros(2, 1, 3, 3)
    _, read = TaskPasses(OWNERS)(recorder.steps(decode=conditioned), image, answers=answers(recorder))
    assert read == dict(zip("abcd", means, strict=True))
    assert list(read) == list("abcd")
    assert recorder.calls.count("encode") == 1
    assert [recorder.calls.count(name) for name in "abcd"] == [1, 1, 1, 1]


def test_with_a_task_every_answer_is_read_from_that_pass() -> None:
    recorder = Recorder()
    _, read = TaskPasses(OWNERS)(
        recorder.steps(decode=True), torch.zeros(2, 1, 3, 3), torch.tensor([1, 1]), answers(recorder)
    )
    assert read == dict.fromkeys("abcd", 11.0)


@pytest.mark.parametrize("conditioned", [True, False])
def test_only_selected_tasks_run_and_the_regions_of_the_others_are_off(conditioned: bool) -> None:
    recorder = Recorder()
    image = torch.randn(2, 1, 3, 3)
    passes = TaskPasses(OWNERS)
    whole, whole_read = passes(recorder.steps(decode=conditioned), image, answers=answers(recorder))
    recorder.calls.clear()
    passes.select([2, 1, 2])
    logits, read = passes(recorder.steps(decode=conditioned), image, answers=answers(recorder))
    for region, owner in enumerate(OWNERS):
        expected = whole[:, region] if owner in (1, 2) else torch.full_like(whole[:, region], OFF)
        assert torch.equal(logits[:, region], expected)
    assert recorder.calls.count("decode") == (2 if conditioned else 1)
    assert set(read) == {"a", "b", "d"}
    assert read["a"] == whole_read["a"]
    passes.select([0, 1, 2])
    assert torch.equal(passes(recorder.steps(decode=conditioned), image)[0], whole)


def test_a_selection_says_nothing_where_the_task_is_given() -> None:
    recorder = Recorder()
    image, task = torch.randn(2, 1, 3, 3), torch.tensor([0, 1])
    passes = TaskPasses(OWNERS)
    passes.select([2])
    logits, read = passes(recorder.steps(decode=True), image, task, answers(recorder))
    assert torch.equal(logits, (image + 1 + 10 * task.reshape(2, 1, 1, 1)) * REGION_WEIGHTS)
    assert set(read) == set("abcd")


@pytest.mark.parametrize("tasks", [[], [0, 3], [-1]])
def test_a_selection_of_no_task_or_an_unknown_one_is_refused(tasks: list[int]) -> None:
    passes = TaskPasses(OWNERS)
    with pytest.raises(ValueError, match=r"task indices between 0 and 2, got \["):
        passes.select(tasks)
    assert passes.selected == [0, 1, 2]


def test_off_stays_finite_when_half_precision_sums_it_over_patches() -> None:
    assert torch.sigmoid(torch.tensor(OFF)) == 0
    assert bool((torch.tensor(OFF).half() * 10 * 8).isfinite())
