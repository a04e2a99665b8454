"""What the trainer of nested tasks does with a batch, a data set and an epoch; the data are those of the battery.

Liver and kidney hold a tumour each, so four of the five nested tasks are pairs; the spleen stands alone.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.trainers.nnUNetTrainerOMNet import nnUNetTrainerOMNet
from nnunet_mtl.training.evidence_crops import EvidenceCropLoader
from nnunet_mtl.training.omnet.patch_pools import KEY, PoolLoader

CPU = torch.device("cpu")
NAMES = ["liver", "liver_tumour", "kidney", "kidney_tumour", "spleen"]
ANYWHERE, IN_LIVER, IN_KIDNEY = -1, 0, 2


@pytest.fixture(autouse=True)
def results(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def make(prepared: Any, block: bool = True, **settings: Any) -> Any:
    plans = prepared.plans("tiny")
    plans["nnunet_mtl"]["settings"] |= {"class_weight": 0, **settings}
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    if not block:
        del dataset_json["nnunet_mtl"]
    return nnUNetTrainerOMNet(plans, "3d_fullres", 0, dataset_json, CPU)


def built(prepared: Any, **settings: Any) -> Any:
    trainer = make(prepared, **settings)
    trainer.initialize()
    trainer.on_train_epoch_start()
    return trainer


def batch_of(keys: list[str], pool: list[int] | None = None, filled: float = 0.5) -> dict[str, Any]:
    """Every region fills so much of the patch, the tumours half of that."""
    targets = []
    for edge in (16, 8):
        target = torch.zeros(len(keys), 5, edge, edge, edge, dtype=torch.bool)
        for region, share in enumerate((filled, filled / 2, filled, filled / 2, filled)):
            target[:, region].view(len(keys), -1)[:, : round(share * edge**3)] = True
        targets.append(target)
    data = torch.randn(len(keys), 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = {} if pool is None else {KEY: np.array(pool)}
    return {"data": data, "target": targets, "keys": np.array(keys), **drawn}


def taught(trainer: Any, batch: dict[str, Any]) -> list[list[bool]]:
    annotated = trainer.cases.annotated(batch["keys"])
    read: list[list[bool]] = trainer.course.teaching(
        annotated, batch["target"][0], batch, trainer.current_epoch
    ).tolist()
    return read


# ---- tasks


def test_the_network_and_the_plans_know_the_tasks_of_the_data_set_and_the_head_the_nested_ones(prepared: Any) -> None:
    trainer = make(prepared)
    plans = trainer.plans_manager.plans
    assert list(plans["nnunet_mtl"]["tasks"]) == ["liver", "kidney", "spleen"]
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert arguments["task_of_region"] == [0, 0, 1, 1, 2]
    assert arguments["head_options"] == {
        "task_of_region": [0, 1, 2, 3, 4],
        "parent_of_task": [-1, 0, -1, 2, -1],
        "guidance": "cga",
    }
    assert [task.name for task in trainer.tasks.tasks] == NAMES
    assert trainer.terms.names == tuple(f"segmentation/{name}" for name in NAMES)
    json.dumps(plans)


def test_without_the_block_regions_inside_regions_are_the_chain(prepared: Any, results: Path) -> None:
    trainer = make(prepared, block=False)
    trainer.initialize()
    tasks = [(task.name, task.regions, task.parent) for task in trainer.tasks.tasks]
    assert tasks == [
        ("all", ("liver", "kidney", "spleen"), None),
        ("liver_tumour", ("liver_tumour",), "all"),
        ("kidney_tumour", ("kidney_tumour",), "all"),
    ]
    assert taught(trainer, batch_of(["any case"], [ANYWHERE], 0.0)) == [[True, False, True, False, True]]
    text = next(results.rglob("training_log*.txt")).read_text()
    assert "nested tasks: liver_tumour in all, kidney_tumour in all" in text
    trainer.train_step(batch_of(["one", "other"], [ANYWHERE, IN_LIVER]))


def test_without_the_block_patches_of_the_data_set_come_from_pools_and_are_learnt(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = make(prepared, block=False, curriculum=False)
    trainer.initialize()
    trainer.on_train_epoch_start()
    loader, _ = trainer.get_dataloaders()
    batches = [next(loader) for _ in range(8)]
    assert {ANYWHERE, IN_LIVER} == {pool for batch in batches for pool in batch[KEY].tolist()}
    for batch in batches[:2]:
        step = trainer.train_step(batch)
        assert np.isfinite(step["loss"])
    assert any(step["present/segmentation/all"] for step in map(trainer.train_step, batches))


def test_where_nothing_is_nested_it_trains_as_others_do_and_says_so(prepared: Any, results: Path) -> None:
    dataset_json = json.loads(json.dumps(prepared.dataset_json))
    labels = {"background": 0, "liver": [1, 1], "liver_tumour": [2], "kidney": [3], "kidney_tumour": [4], "spleen": [5]}
    dataset_json.pop("nnunet_mtl")
    trainer = nnUNetTrainerOMNet(prepared.plans("tiny"), "3d_fullres", 0, dataset_json | {"labels": labels}, CPU)
    trainer.initialize()
    assert taught(trainer, batch_of(["any case"], [ANYWHERE], 0.0)) == [[True] * 5]
    text = next(results.rglob("training_log*.txt")).read_text()
    assert 'no task lies inside another one, so nothing is guided or transferred: name a "parent"' in text
    trainer.on_train_epoch_start()
    trainer.train_step(batch_of(["one", "other"], [ANYWHERE, ANYWHERE]))


def test_a_data_set_without_regions_trains_too(prepared: Any, results: Path) -> None:
    dataset_json = {key: value for key, value in prepared.dataset_json.items() if key != "nnunet_mtl"}
    dataset_json["labels"] = {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    trainer = nnUNetTrainerOMNet(prepared.plans("tiny"), "3d_fullres", 0, dataset_json, CPU)
    trainer.initialize()
    trainer.on_train_epoch_start()
    target = [torch.randint(0, 6, (2, 1, edge, edge, edge)).short() for edge in (16, 8)]
    batch = {**batch_of(["one", "other"], [ANYWHERE, ANYWHERE]), "target": target}
    assert np.isfinite(trainer.train_step(batch)["loss"])
    with torch.no_grad():
        assert trainer.validation_step(batch)["tp_hard"].shape == (6,)
    text = next(results.rglob("training_log*.txt")).read_text()
    assert "so the loss is nnU-Net's softmax loss: the settings loss, dice_weight and bce_weight change nothing" in text


# ---- what teaches what


def test_samples_teach_the_tasks_of_their_pool_and_what_else_they_show_enough_of(prepared: Any) -> None:
    trainer = built(prepared, transfer_threshold="0.4", curriculum=False)
    keys, pools = ["liver_000", "liver_001", "kidney_000"], [ANYWHERE, IN_LIVER, ANYWHERE]
    least = int(0.4 * 16**3)
    assert taught(trainer, batch_of(keys, pools, least / 16**3)) == [
        [True, True, False, False, False],  # the rest is not annotated
        [False, True, False, False, False],
        [False, False, True, True, False],
    ]
    assert taught(trainer, batch_of(keys, pools, (least - 1) / 16**3)) == [
        [True, False, False, False, False],
        [False, True, False, False, False],
        [False, False, True, False, False],
    ]
    # a batch without pools, as in validation
    assert taught(trainer, batch_of(keys, None, 0.0))[0] == [True, True, False, False, False]


def test_whatever_somebody_annotated_is_taught(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spleen's cases know no tumour: they must not take the other organs' patches from anywhere."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = built(prepared, curriculum=False)
    loader, _ = trainer.get_dataloaders()
    annotated, read = np.zeros((2, 5))
    for _ in range(40):
        batch = next(loader)
        annotated += trainer.cases.annotated([str(key) for key in batch["keys"]]).sum(0).numpy()
        read += np.sum(taught(trainer, batch), axis=0)
    organs = [0, 2, 4]
    assert (annotated > 0).all()
    assert (read >= 0.3 * annotated)[organs].all()


def test_without_the_transfer_nothing_moves(prepared: Any) -> None:
    trainer = built(prepared, transfer=False, curriculum=False)
    batch = batch_of(["liver_000", "liver_001"], [ANYWHERE, IN_LIVER], 0.9)
    assert taught(trainer, batch) == [[True, False, False, False, False], [False, True, False, False, False]]


def test_a_sample_that_does_not_qualify_adds_neither_to_the_loss_nor_to_its_mean(prepared: Any) -> None:
    """The loss of the tumour with a second sample that does not teach it is its loss without that sample."""
    trainer = built(prepared, transfer_threshold="0.4", curriculum=False)
    trainer.network.eval()
    both = batch_of(["liver_000", "liver_001"], [IN_LIVER, ANYWHERE], 0.1)
    alone = {
        "data": both["data"][:1],
        "target": [scale[:1] for scale in both["target"]],
        "keys": both["keys"][:1],
        KEY: both[KEY][:1],
    }
    term = "segmentation/liver_tumour"
    with torch.no_grad():
        first, second = (trainer._forward(batch, training=True)[3][term] for batch in (both, alone))
        counted = trainer._forward({**both, KEY: np.array([IN_LIVER, IN_LIVER])}, training=True)[3][term]
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, counted)


# ---- curriculum


def heads_of(trainer: Any, task: int) -> list[torch.nn.Parameter]:
    return [value for scale in trainer.network.decoder.seg_layers[1:] for value in scale.tasks[task].parameters()]


def gradients(trainer: Any, batch: dict[str, Any]) -> list[float | None]:
    """The largest gradient of each task's heads; None where they have none."""
    trainer.train_step(batch)
    found = []
    for task in range(5):
        grads = [value.grad for value in heads_of(trainer, task)]
        found.append(None if all(g is None for g in grads) else max(float(g.abs().max()) for g in grads))
    return found


def test_before_a_task_begins_its_heads_have_no_gradient(prepared: Any) -> None:
    batch = batch_of(["liver_000", "liver_001"], [ANYWHERE, IN_LIVER], 0.5)
    trainer = built(prepared, curriculum_start=0.5, curriculum_end=0.5)
    first = gradients(trainer, batch)
    assert first[0] > 0
    assert first[1] is None
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    assert gradients(trainer, batch)[1] > 0
    assert gradients(built(prepared, curriculum=False), batch)[1] > 0


@pytest.mark.parametrize("loss_weighting", ["equal", "liebel_koerner", "nash_mtl"])
def test_before_a_task_begins_weight_decay_leaves_its_heads_alone(prepared: Any, loss_weighting: str) -> None:
    batch = batch_of(["liver_000", "liver_001"], [ANYWHERE, IN_LIVER], 0.5)
    settings = {"weight_decay": 0.5, "curriculum_start": 0.5, "curriculum_end": 0.5, "loss_weighting": loss_weighting}
    trainer = built(prepared, **settings)
    before = [[value.detach().clone() for value in heads_of(trainer, task)] for task in (0, 1)]
    for _ in range(3):
        trainer.train_step(batch)
    assert not torch.equal(heads_of(trainer, 0)[0], before[0][0])
    assert all(torch.equal(now, then) for now, then in zip(heads_of(trainer, 1), before[1], strict=True))
    trainer.current_epoch = 1
    trainer.train_step(batch)
    assert not torch.equal(heads_of(trainer, 1)[0], before[1][0])


def test_a_task_that_has_not_begun_is_not_there(prepared: Any) -> None:
    batch = batch_of(["liver_000", "liver_001"], [ANYWHERE, IN_LIVER], 0.5)
    trainer = built(prepared, curriculum_start=0.5, curriculum_end=0.5)
    step = trainer.train_step(batch)
    assert (step["present/segmentation/liver"], step["present/segmentation/liver_tumour"]) == (1, 0)
    assert step["loss/segmentation/liver_tumour"] == 0
    trainer.current_epoch = 1
    assert trainer.train_step(batch)["present/segmentation/liver_tumour"] == 1


def test_the_ramp_multiplies_the_loss(prepared: Any) -> None:
    trainer = built(prepared, epochs=10, curriculum_start=0.2, curriculum_end=0.4, curriculum_ramp=4)
    trainer.current_epoch = 3
    assert trainer.course.term_weights(3) == {
        f"segmentation/{name}": 0.5 if name.endswith("tumour") else 1.0 for name in NAMES
    }


def test_the_best_checkpoint_is_one_of_the_epochs_in_which_every_task_counts(prepared: Any) -> None:
    trainer = built(prepared, epochs=4, curriculum_start=0.5, curriculum_end=0.5, curriculum_ramp=2)
    log = trainer.logger.local_logger.my_fantastic_logging
    log["ema_fg_dice"] = [0.9]
    scores = []
    for epoch in range(4):
        trainer.current_epoch = epoch
        scores.append(trainer.selection_score())
    assert scores == pytest.approx([-0.1, -0.1, -0.1, 0.9])


# ---- an epoch of nnU-Net's loop


def epoch(trainer: Any) -> None:
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(4)])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val)) for _ in range(2)])
    trainer.on_epoch_end()


def test_an_epoch_logs_pools_transfer_and_active_tasks(prepared: Any, results: Path) -> None:
    trainer = make(prepared, curriculum_start=0.5, curriculum_end=0.5, transfer_threshold="0")
    trainer.on_train_start()
    assert isinstance(trainer.dataloader_train.data_loader, PoolLoader)
    assert type(trainer.dataloader_val.data_loader) is EvidenceCropLoader
    assert KEY not in next(trainer.dataloader_val)
    epoch(trainer)
    log = trainer.logger.local_logger.my_fantastic_logging
    assert log["nested/drawn/anywhere"] == [8]
    assert log["nested/drawn/in liver"] == log["nested/drawn/in kidney"] == [0]
    assert log["nested/active/liver_tumour"] == [0]
    assert log["nested/moved_patches/liver_tumour"] == log["nested/moved_voxels/liver_tumour"] == [0]
    epoch(trainer)
    assert sum(log[f"nested/drawn/{pool}"][1] for pool in ("anywhere", "in liver", "in kidney")) == 8
    assert log["nested/drawn/in liver"][1] + log["nested/drawn/in kidney"][1] > 0
    assert log["nested/active/liver_tumour"] == [0, 1]
    assert "nested/active/spleen" not in log  # always
    assert "segmentation" not in "".join(key for key in log if key.startswith("nested/"))
    text = next(results.rglob("training_log*.txt")).read_text()
    assert "Active tasks: liver 1, kidney 1, spleen 1; drawn: 8 anywhere, 0 in liver, 0 in kidney; moved to: " in text
    assert "Active tasks: liver 1, liver_tumour 1, kidney 1, kidney_tumour 1, spleen 1; " in text
    assert "tasks begin in epoch 0 (liver), 1 (liver_tumour), 0 (kidney), 1 (kidney_tumour), 0 (spleen)" in text


def test_what_moved_is_counted_in_patches_and_in_voxels_of_the_parent(prepared: Any) -> None:
    trainer = make(prepared, curriculum=False, transfer_threshold="0.25")
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    steps = [trainer.train_step(batch_of(["liver_000", "liver_001"], [ANYWHERE, pool], 0.5)) for pool in (-1, 0)]
    trainer.on_train_epoch_end(steps)
    with torch.no_grad():
        trainer.on_validation_epoch_end([trainer.validation_step(batch_of(["liver_000", "kidney_000"]))])
    trainer.on_epoch_end()
    log = trainer.logger.local_logger.my_fantastic_logging
    assert log["nested/drawn/anywhere"] == [3]
    assert log["nested/drawn/in liver"] == [1]
    assert log["nested/moved_patches/liver_tumour"] == [3]
    assert log["nested/moved_voxels/liver_tumour"] == [3 * 16**3 / 2]
    # kidneys are not annotated in these cases, so nothing was moved that could teach
    assert log["nested/moved_patches/kidney_tumour"] == [0]


def test_a_run_goes_on_where_it_was(prepared: Any, results: Path) -> None:
    trainer = make(prepared, curriculum_start=0.5, curriculum_end=0.5)
    trainer.on_train_start()
    epoch(trainer)
    path = str(results / "checkpoint.pth")
    trainer.save_checkpoint(path)
    other = make(prepared, curriculum_start=0.5, curriculum_end=0.5)
    other.initialize()
    other.load_checkpoint(path)
    assert other.current_epoch == 2  # nnU-Net's counter, one ahead when it is saved between epochs
    other.on_train_start()
    assert other.course._open.tolist() == [1, 1, 1]
    assert {-1} < set(np.concatenate([next(other.dataloader_train)[KEY] for _ in range(4)]).tolist())


def test_cases_are_drawn_by_what_is_annotated_in_them(prepared: Any) -> None:
    """The nested tasks know the cases of the block."""
    trainer = make(prepared)
    raw = TaskSet.from_dataset_json(prepared.dataset_json)
    for case in raw.cases:
        assert trainer.cases.tasks.annotated(case) == raw.annotated(case)
    assert trainer.tasks.cases == {}
