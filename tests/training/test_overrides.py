import warnings
from importlib.metadata import version

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet
from nnunet_mtl.training.overrides import OVERRIDES, changed, upstream_hash

OURS = [ours for ours in nnUNetTrainerOMNet.__mro__ if ours.__module__.startswith("nnunet_mtl.")]


def test_the_list_names_every_overridden_method_and_no_other() -> None:
    overridden = {
        name for ours in OURS for name in vars(ours) if callable(getattr(ours, name)) and name in dir(nnUNetTrainer)
    }
    assert overridden == {override.name for override in OVERRIDES if override.kind != "swapped"}


def test_replaced_methods_do_not_call_the_original_and_extended_ones_do() -> None:
    for override in OVERRIDES:
        for ours in OURS:
            if override.name in vars(ours):
                calls_super = "super" in getattr(ours, override.name).__code__.co_names
                assert calls_super == (override.kind == "extended"), override.name


def test_upstream_is_what_the_overrides_were_compared_with() -> None:
    installed = version("nnunetv2")
    for line in changed():
        if installed in next(iter(OVERRIDES)).sha256:
            pytest.fail(f"{line}: read it again, then correct nnunet_mtl/training/overrides.py")
        warnings.warn(line, stacklevel=1)  # another release: worth reading, not worth failing


def test_a_changed_source_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = upstream_hash("train_step")

    def train_step(self: object, batch: object) -> None:
        """Something else."""

    monkeypatch.setattr(nnUNetTrainer, "train_step", train_step)
    assert upstream_hash("train_step") != before
    assert any("train_step" in line for line in changed())
