import pickle
from typing import Any

import pytest
import torch

import nnunet_mtl.training.final_validation as validation
from nnunet_mtl.training.final_validation import OFF, RestrictedExport


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(validation, "export_prediction_from_logits", lambda *arguments: calls.append(arguments))
    return calls


def test_unannotated_regions_are_switched_off_in_a_copy(exported: list[Any]) -> None:
    export = pickle.loads(pickle.dumps(RestrictedExport({"a": (True, False), "b": (True, True)})))
    logits = torch.randn(2, 3, 4)
    before = logits.clone()
    for case in ("a", "b"):
        export(logits, {}, "configuration", "plans", {}, f"/somewhere/validation/{case}", True)
    assert torch.equal(logits, before)
    restricted, whole = (call[0] for call in exported)
    assert torch.equal(restricted[0], logits[0])
    assert (restricted[1] == OFF).all()
    assert torch.equal(whole, logits)
    assert exported[0][1:] == ({}, "configuration", "plans", {}, "/somewhere/validation/a", True)


def test_off_survives_half_precision_and_is_off() -> None:
    weighted = torch.tensor(OFF).half() * 10
    assert torch.isfinite(weighted)
    assert torch.sigmoid(torch.tensor(OFF)) < 1e-6
