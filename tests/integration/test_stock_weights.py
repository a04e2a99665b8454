"""A network that stock nnU-Net trained, continued as ours: with gates that start at the identity nothing changes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention

pytestmark = pytest.mark.slow


def features(network: Any, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Output of every decoder stage, by hooks, and the logits."""
    seen: list[torch.Tensor] = []
    stages = [stage.convs[-1].all_modules[-1] for stage in network.decoder.stages]
    hooks = [stage.register_forward_hook(lambda *call: seen.append(call[-1].clone())) for stage in stages]
    with torch.no_grad():
        logits = network(x)
    for hook in hooks:
        hook.remove()
    return seen, logits


@pytest.mark.parametrize("plans", ["tiny", "tiny_resenc"])
def test_features_and_logits_of_a_stock_training_are_kept(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plans: str
) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    stock = get_trainer_from_args("900", "3d_fullres", 0, "nnUNetTrainer_1epoch", plans, device=torch.device("cpu"))
    stock.num_iterations_per_epoch, stock.num_val_iterations_per_epoch = 20, 2
    stock.run_training()
    ours = nnUNetTrainerMTLAttention(
        prepared.plans(plans), "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), torch.device("cpu")
    )
    ours.initialize()
    checkpoint = torch.load(Path(stock.output_folder, "checkpoint_final.pth"), weights_only=False)
    missing, unexpected = ours.network.load_state_dict(checkpoint["network_weights"], strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} == {"task_attention", "classification"}
    x = torch.randn(2, 1, 16, 16, 16)
    for trainer in (stock, ours):
        trainer.network.eval()
        trainer.set_deep_supervision_enabled(False)
    expected_features, expected_logits = features(stock.network, x)
    found_features, found_logits = features(ours.network, x)
    n_tasks = len(ours.tasks.tasks)
    assert len(found_features) == n_tasks * len(expected_features)
    for index, feature in enumerate(found_features):  # every task's pass
        assert torch.equal(feature, expected_features[index % len(expected_features)])
    assert torch.equal(found_logits, expected_logits)
