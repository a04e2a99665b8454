import dataclasses

import pytest
import torch

from nnunet_mtl.networks.multitask_output import MultiTaskOutput


def test_cannot_be_changed_and_has_no_classes_unless_given() -> None:
    output = MultiTaskOutput(torch.zeros(1, 2, 4, 4))
    assert output.classification == {}
    assert output.evidence == {}
    with pytest.raises(dataclasses.FrozenInstanceError, match="segmentation"):
        output.segmentation = torch.zeros(1)  # type: ignore[misc]
