from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.training import step_numbers as module
from nnunet_mtl.training.step_numbers import gathered, step_numbers


def outputs() -> list[dict[str, Any]]:
    losses = {"segmentation": torch.tensor(1.0)}
    steps = [
        step_numbers(torch.tensor(total), losses, {"segmentation": taught})
        for total, taught in ((1.0, True), (3.0, False))
    ]
    return [{**step, "class/targets": np.full((2, 1, 2), row)} for row, step in enumerate(steps)]


def test_steps_are_the_rows_of_an_epoch() -> None:
    collated = gathered(outputs())
    assert collated["loss"].ravel().tolist() == [1, 3]
    assert collated["present/segmentation"].ravel().tolist() == [1, 0]
    assert collated["class/targets"].shape == (2, 2, 1, 2)


def test_losses_are_averaged_over_ranks_counts_added_and_answers_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_two_ranks(ranks: list[Any], collated: dict[str, Any]) -> None:
        ranks[:] = [collated, {key: 3 * values for key, values in collated.items()}]

    monkeypatch.setattr(module, "process_count", lambda: 2)
    monkeypatch.setattr(module.dist, "all_gather_object", from_two_ranks)
    collated = gathered(outputs())
    assert collated["loss"].ravel().tolist() == [2, 6]
    assert collated["present/segmentation"].ravel().tolist() == [4, 0]
    assert collated["class/targets"].shape == (2, 4, 1, 2)
