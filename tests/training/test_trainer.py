"""What the trainer adds to nnU-Net's, on a real small data set; the battery over all trainers is tests/trainers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.logging import nnunet_logger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.networks.architecture import GUIDED, SupervisedOutput
from nnunet_mtl.planning.plans import write_plans
from nnunet_mtl.tasks import TaskSetError
from nnunet_mtl.tasks.settings import SettingsError
from nnunet_mtl.trainers.nnUNetTrainerCLIPDriven import nnUNetTrainerCLIPDriven
from nnunet_mtl.trainers.nnUNetTrainerMTLAttention import nnUNetTrainerMTLAttention
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention
from nnunet_mtl.trainers.nnUNetTrainerStockSchedule import nnUNetTrainerStockSchedule
from nnunet_mtl.training.batch_annotation import BatchAnnotation
from nnunet_mtl.training.course import Course
from nnunet_mtl.training.run_folder import RunFolderError

SECRET = "secretpatient"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def results(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def make(prepared: Any, cls: Any = nnUNetTrainerMTLAttention, plans: str = "tiny", **changes: Any) -> Any:
    dataset_json = json.loads(json.dumps(prepared.dataset_json)) | changes
    return cls(prepared.plans(plans), "3d_fullres", 0, dataset_json, CPU)


@pytest.fixture
def started(prepared: Any) -> Any:
    trainer = make(prepared)
    trainer.on_train_start()
    return trainer


def epoch(trainer: Any) -> None:
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val)) for _ in range(2)])
    trainer.on_epoch_end()


def test_settings_reach_the_trainer(prepared: Any) -> None:
    trainer = make(prepared)
    trainer.initialize()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (2, 2, 2)
    assert trainer.plans_manager.plans["nnunet_mtl"]["settings"]["epochs"] == 2
    assert list(trainer.plans_manager.plans["nnunet_mtl"]["tasks"]) == ["liver", "kidney", "spleen"]


def test_embeddings_of_a_file_are_read_once_and_travel_with_the_checkpoint(prepared: Any, tmp_path: Path) -> None:
    regions = [name for name in prepared.dataset_json["labels"] if name != "background"]
    vectors = {region: np.arange(4) + number for number, region in enumerate(regions)}
    file = tmp_path / "names.npz"
    np.savez(file, **vectors)
    plans = prepared.plans("tiny")
    plans["nnunet_mtl"]["settings"] |= {"region_embedding": "file", "region_embedding_file": str(file)}
    trainer = nnUNetTrainerCLIPDriven(plans, "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), CPU)
    trainer.initialize()
    rows = trainer.network.segmentation_head.embedding
    expected = torch.tensor(np.stack(list(vectors.values())), dtype=torch.float32)
    torch.testing.assert_close(rows, expected / expected.norm(dim=1, keepdim=True))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    weights = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["network_weights"]
    assert torch.equal(weights["segmentation_head.embedding"], rows)


def test_momentum_and_mirroring_are_settings(prepared: Any, results: Path) -> None:
    write_plans(900, name="still", source="tiny", assignments=["momentum=0.5", "mirroring=false"])
    trainer = make(prepared, plans="still")
    trainer.initialize()
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.5}
    *_, mirror_axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert mirror_axes is None
    assert trainer.inference_allowed_mirroring_axes is None


class FakeRun:
    """Stands for a wandb run: what the host sends it is kept."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.config, self.summary, self.step = self, {}, 0

    def update(self, content: Any) -> None:
        self.kept.append(content)

    def log(self, content: Any, step: int) -> None:
        self.kept.append(content)


def test_wandb_gets_the_curves_and_no_case_table(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun()
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    monkeypatch.setattr(nnunet_logger, "wandb", type("wandb", (), {"init": staticmethod(lambda **_: run)}))
    trainer = make(prepared)
    trainer.on_train_start()
    epoch(trainer)
    text = repr(run.kept)
    assert SECRET not in text
    assert "'task_dice/spleen'" in text
    assert "'loss/segmentation'" in text


def test_a_curve_for_each_task(started: Any) -> None:
    epoch(started)
    log = started.logger.local_logger.my_fantastic_logging
    for key in ("task_dice/liver", "task_dice/kidney", "task_dice/spleen", "loss/segmentation"):
        assert len(log[key]) == 1
    assert Path(started.output_folder, "progress_mtl.png").is_file()


def test_without_a_weight_the_questions_are_not_asked(prepared: Any) -> None:
    write_plans(900, name="silent", source="tiny", assignments=["class_weight=0"])
    trainer = make(prepared, plans="silent")
    trainer.on_train_start()
    epoch(trainer)
    assert trainer.terms.names == ("segmentation",)
    assert not list(trainer.bare_network.classification.parameters())
    assert not [key for key in trainer.logger.local_logger.my_fantastic_logging if key.startswith("class/")]
    # every sample is drawn for what is annotated in it
    target = torch.ones(20, 5, 2, 2, 2, dtype=torch.bool)
    assert set(trainer.cases.draw_tasks(["kidney_000"] * 20, target).tolist()) == {1}


def outputs(trainer: Any, annotated: list[float], losses: list[float]) -> list[dict[str, Any]]:
    zeros = np.zeros(len(trainer.tasks.regions))
    counts = {"tp_hard": zeros, "fp_hard": zeros, "fn_hard": zeros}
    nothing = np.full((2, len(trainer.tasks.classification), 3), np.nan)
    answers = {"loss/classification": np.float32(0), "class/probabilities": nothing, "class/targets": nothing}
    return [
        {
            "loss": np.float32(loss),
            "loss/segmentation": np.float32(loss),
            "present/segmentation": np.float64(n > 0),
            "present/classification": np.float64(0),
            **counts,
            **answers,
        }
        for n, loss in zip(annotated, losses, strict=True)
    ]


def test_batches_without_annotation_are_counted_not_averaged_in(prepared: Any) -> None:
    trainer = make(prepared)
    trainer.on_train_epoch_end(outputs(trainer, [2, 0, 1], [1.0, 0.0, 3.0]))
    assert trainer.logger.get_value("train_losses", step=-1) == 2.0
    assert trainer.logger.get_value("batches_without_annotation", step=-1) == 1


def test_a_batch_that_only_answers_is_averaged_in(prepared: Any) -> None:
    """Of a data set of questions alone the loss would be logged as 0."""
    trainer = make(prepared)
    steps = outputs(trainer, [0, 0, 0], [0.5, 0.0, 1.5])
    for index in (0, 2):
        steps[index]["present/classification"] = np.float64(1)
    trainer.on_train_epoch_end(steps)
    trainer.on_validation_epoch_end(steps)
    assert trainer.logger.get_value("train_losses", step=-1) == 1.0
    assert trainer.logger.get_value("val_losses", step=-1) == 1.0
    assert trainer.logger.get_value("batches_without_annotation", step=-1) == 1


def test_an_epoch_that_measured_nothing_leaves_the_moving_average(prepared: Any) -> None:
    trainer = make(prepared)
    trainer.num_epochs = 100  # whole cases are looked at in the last one
    measured = outputs(trainer, [2], [1.0])
    measured[0] |= {"tp_hard": np.full(5, 8.0), "fp_hard": np.full(5, 4.0)}
    trainer.on_validation_epoch_end(measured)
    trainer.current_epoch = 1
    trainer.on_validation_epoch_end(outputs(trainer, [0], [0.0]))
    trainer.current_epoch = 2
    trainer.on_validation_epoch_end(measured)
    np.testing.assert_allclose(trainer.logger.get_value("ema_fg_dice", step=None), [0.8] * 3)
    per_region = trainer.logger.get_value("dice_per_class_or_region", step=None)
    assert all(math.isnan(value) for value in per_region[1])


def test_a_first_epoch_that_measured_nothing_is_finite(prepared: Any) -> None:
    trainer = make(prepared)
    trainer.on_validation_epoch_end(outputs(trainer, [0], [0.0]))
    assert trainer.logger.get_value("ema_fg_dice", step=-1) == 0.0


def test_another_setting_under_the_same_plans_name_is_refused(started: Any, prepared: Any) -> None:
    make(prepared)  # the same again is fine
    path = prepared.preprocessed / "tiny.json"
    before = path.read_text()
    path.write_text(before.replace('"epochs": 2', '"epochs": 3'))
    try:
        with pytest.raises(RunFolderError, match=r"settings.epochs is 2 there and 3 here.*--name"):
            make(prepared)
    finally:
        path.write_text(before)


def with_plans(prepared: Any, cls: Any, fold: int, changes: dict[str, Any]) -> Any:
    plans = prepared.plans("tiny")
    plans["configurations"]["3d_fullres"] |= changes
    return cls(plans, "3d_fullres", fold, json.loads(json.dumps(prepared.dataset_json)), CPU)


OTHER_PLANS = [
    ({"patch_size": [16, 16, 8]}, r"3d_fullres\.patch_size is \[16, 16, 16\] there and \[16, 16, 8\] here"),
    ({"batch_size": 3}, r"3d_fullres\.batch_size is 2 there and 3 here"),
    ({"spacing": [1.0, 2.0, 1.0]}, r"3d_fullres\.spacing is \[1\.0, 1\.0, 1\.0\] there and \[1\.0, 2\.0, 1\.0\] here"),
    ({"normalization_schemes": ["ZScoreNormalization"]}, r"normalization_schemes is \['CTNormalization'\] there"),
]


@pytest.mark.parametrize("cls", [nnUNetTrainerMTLAttention, nnUNetTrainerStockSchedule])
def test_other_plans_under_the_same_name_are_refused_whatever_the_fold(prepared: Any, results: Path, cls: Any) -> None:
    with_plans(prepared, cls, 0, {}).on_train_start()
    (written,) = results.rglob("plans.json")
    before = written.read_bytes()
    architecture = prepared.plans("tiny")["configurations"]["3d_fullres"]["architecture"]
    arguments = {**architecture["arch_kwargs"], "features_per_stage": [4, 8, 16]}
    wider = (
        {"architecture": {**architecture, "arch_kwargs": arguments}},
        r"features_per_stage is \[4, 8, 8\] there and",
    )
    for changes, message in [*OTHER_PLANS, wider]:
        for fold in (0, 1):
            with pytest.raises(RunFolderError, match=message) as error:
                with_plans(prepared, cls, fold, changes)
            assert "\n" not in str(error.value)
    assert written.read_bytes() == before
    with_plans(prepared, cls, 1, {})


def test_a_checkpoint_of_other_plans_is_not_gone_on_from(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(prepared)
    trainer.initialize()
    path = str(tmp_path / "checkpoint.pth")
    trainer.save_checkpoint(path)
    trainer.load_checkpoint(path)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "another"))
    other = with_plans(prepared, nnUNetTrainerMTLAttention, 0, OTHER_PLANS[1][0])
    with pytest.raises(RunFolderError, match=r"checkpoint\.pth: .*batch_size is 2 there and 3 here"):
        other.load_checkpoint(path)


def test_other_tasks_are_refused(started: Any, prepared: Any) -> None:
    block = json.loads(json.dumps(prepared.dataset_json["nnunet_mtl"]))
    block["tasks"]["milz"] = block["tasks"].pop("spleen")
    for case in block["cases"].values():
        case["annotated"] = [{"spleen": "milz"}.get(name, name) for name in case["annotated"]]
    with pytest.raises(RunFolderError, match=r"tasks.spleen"):
        make(prepared, nnunet_mtl=block)


def test_a_case_that_is_not_in_the_table_is_refused_by_name(prepared: Any) -> None:
    block = json.loads(json.dumps(prepared.dataset_json["nnunet_mtl"]))
    del block["cases"]["kidney_002"]
    trainer = make(prepared, nnunet_mtl=block)
    trainer.initialize()
    with pytest.raises(TaskSetError, match="kidney_002"):
        trainer.get_tr_and_val_datasets()


def test_foreground_nobody_was_to_annotate_is_refused_by_name(prepared: Any) -> None:
    block = json.loads(json.dumps(prepared.dataset_json["nnunet_mtl"]))
    block["cases"]["kidney_002"]["annotated"] = ["spleen"]
    trainer = make(prepared, nnunet_mtl=block)
    trainer.initialize()
    with pytest.raises(TaskSetError, match=r"kidney_002 \(kidney\)"):
        trainer.get_tr_and_val_datasets()


def test_sampling_reaches_the_loader(prepared: Any) -> None:
    write_plans(900, name="balanced", source="tiny", assignments=["sampling=tasks"])
    trainer = make(prepared, plans="balanced")
    trainer.on_train_start()
    loader = trainer.dataloader_train.data_loader
    task = [case.split("_")[0] for case in loader.indices]
    shares = {t: sum(p for p, o in zip(loader.sampling_probabilities, task, strict=True) if o == t) for t in set(task)}
    np.testing.assert_allclose(list(shares.values()), 1 / 3)


def test_resuming_continues_the_curves(started: Any, prepared: Any, results: Path) -> None:
    epoch(started)
    path = str(results / "latest.pth")
    started.current_epoch -= 1  # as the host's own on_train_end does
    started.save_checkpoint(path)
    resumed = make(prepared)
    resumed.load_checkpoint(path)
    assert resumed.current_epoch == 1
    resumed.on_train_start()
    epoch(resumed)
    log = resumed.logger.local_logger.my_fantastic_logging
    assert {len(values) for values in log.values()} == {2}


def test_a_checkpoint_written_before_our_curves_resumes(started: Any, prepared: Any, results: Path) -> None:
    epoch(started)
    path = str(results / "latest.pth")
    started.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["logging"]["task_dice/liver"]
    torch.save(checkpoint, path)
    resumed = make(prepared)
    resumed.load_checkpoint(path)
    log = resumed.logger.local_logger.my_fantastic_logging
    assert len(log["task_dice/liver"]) == resumed.current_epoch


def test_a_process_killed_while_writing_leaves_the_old_checkpoint(
    started: Any, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = results / "checkpoint.pth"
    started.save_checkpoint(str(path))
    before = path.read_bytes()

    def dies(content: Any, filename: str) -> None:
        Path(filename).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        started.save_checkpoint(str(path))
    assert path.read_bytes() == before


SOFTMAX = {"background": 0, "liver": 1, "tumour": 2, "kidney": 3, "kidney_tumour": 4, "spleen": 5}


def test_a_data_set_without_regions_trains_on_the_stock_loss(prepared: Any) -> None:
    dataset_json = {key: value for key, value in prepared.dataset_json.items() if key != "nnunet_mtl"}
    dataset_json |= {"labels": SOFTMAX}
    dataset_json.pop("regions_class_order")
    pair = []
    for cls in (nnUNetTrainerMTLNoAttention, nnUNetTrainer):
        trainer = cls(prepared.plans("tiny"), "3d_fullres", 0, dict(dataset_json), CPU)
        trainer.initialize()
        pair.append(trainer)
    ours, stock = pair
    ours.network.load_state_dict(stock.network.state_dict(), strict=True)
    rng = torch.Generator().manual_seed(0)
    target = [torch.randint(0, 6, (2, 1, *[16 // 2**i] * 3), generator=rng).short() for i in range(2)]
    batch = {"data": torch.randn(2, 1, 16, 16, 16, generator=rng), "target": target, "keys": np.array(["a", "b"])}
    results = []
    for trainer in pair:
        trainer.network.train()
        results.append((trainer.train_step(dict(batch)), trainer))
    assert results[0][0]["loss"] == results[1][0]["loss"]
    for (name, mine), (_, theirs) in zip(
        ours.network.named_parameters(), stock.network.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    with torch.no_grad():
        counts, expected = (trainer.validation_step(dict(batch)) for trainer in pair)
    for key in ("tp_hard", "fp_hard", "fn_hard"):
        np.testing.assert_array_equal(counts[key][1:], expected[key])


def test_the_log_says_what_is_trained(prepared: Any) -> None:
    trainer = make(prepared)
    trainer.initialize()
    assert "3 tasks" in Path(trainer.log_file).read_text()


class EachTask(nnUNetTrainerMTLNoAttention):
    task_losses = True


def test_every_task_can_be_a_term_of_the_loss(prepared: Any) -> None:
    together, apart = (make(prepared, cls) for cls in (nnUNetTrainerMTLNoAttention, EachTask))
    for trainer in (together, apart):
        trainer.initialize()
    apart.network.load_state_dict(together.network.state_dict())
    names = ("segmentation/liver", "segmentation/kidney", "segmentation/spleen")
    assert apart.terms.names[:3] == names
    patch = apart.configuration_manager.patch_size
    target = [
        torch.rand(2, 5, *[round(edge * scale) for edge, scale in zip(patch, scales, strict=True)]) > 0.7
        for scales in apart._get_deep_supervision_scales()
    ]
    output = apart.network(torch.randn(2, 1, *patch), torch.zeros(2, dtype=torch.long), full_output=True)
    annotated = torch.tensor([[True, True, False, False, False], [False, False, True, True, False]])
    batch = BatchAnnotation(["liver_000", "kidney_001"], annotated, torch.tensor([0, 1]))
    losses = apart.compute_losses(output, target, batch)
    for name, columns in (("segmentation/liver", [0, 1]), ("segmentation/kidney", [2, 3])):
        alone = torch.zeros_like(annotated)
        alone[:, columns] = annotated[:, columns]
        assert alone.any()
        expected = together.compute_losses(output, target, batch._replace(annotated=alone))["segmentation"]
        torch.testing.assert_close(losses[name], expected)
    assert losses["segmentation/spleen"] == 0
    present = apart.terms.present(batch, conditioned=apart.bare_network.conditioned, epoch=0)
    assert [present[name] for name in names] == [True, True, False]
    assert list(present) == list(apart.terms.names)


def test_a_term_that_weighs_nothing_is_not_there(prepared: Any) -> None:
    class OnlyLiver(Course):
        def term_weights(self, epoch: int) -> dict[str, float]:
            return {"segmentation/liver": 2.0, "segmentation/kidney": 0.0}

    class Trainer(EachTask):
        course_class = OnlyLiver

    trainer = make(prepared, Trainer)
    trainer.on_train_start()
    step = trainer.train_step(next(trainer.dataloader_train) | {"keys": ["liver_000", "kidney_001"]})
    assert step["loss/segmentation/liver"] > 0 == step["loss/segmentation/kidney"]
    assert (step["present/segmentation/liver"], step["present/segmentation/kidney"]) == (1.0, 0.0)


def test_outputs_that_are_no_stages_are_supervised_at_their_own_size_and_weight(prepared: Any) -> None:
    outputs = (SupervisedOutput(0, 1.0), SupervisedOutput(1, 0.9), SupervisedOutput(1, 0.8))

    class Outputs(nnUNetTrainerMTLNoAttention):
        family = GUIDED._replace(outputs=outputs)

    trainer = make(prepared, Outputs)
    trainer.initialize()
    assert trainer._get_deep_supervision_scales() == [[1.0] * 3, [0.5] * 3, [0.5] * 3]
    assert trainer.loss.loss.weight_factors == (1.0, 0.9, 0.8)
    trainer.enable_deep_supervision = False
    assert trainer._get_deep_supervision_scales() is None


def test_a_classification_head_that_a_trainer_does_not_have_is_refused(prepared: Any) -> None:
    plans = prepared.plans("tiny")
    plans["nnunet_mtl"]["settings"]["class_head"] = "own"
    with pytest.raises(SettingsError, match=r"class_head='own' .* nnUNetTrainerMTLAttention, .*evidence, bottleneck"):
        nnUNetTrainerMTLAttention(plans, "3d_fullres", 0, json.loads(json.dumps(prepared.dataset_json)), CPU)
