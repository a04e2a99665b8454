"""A dose phantom through nnU-Net's planning and preprocessing, a trainer, and prediction."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_mtl.discovery import shim_folder
from nnunet_mtl.evaluation.metrics.regression_error import mae_of_folder
from nnunet_mtl.inference.predict import predict
from nnunet_mtl.inference.predict_options import PredictOptions
from nnunet_mtl.lab.phantoms.dose_dataset import DoseOptions, write_dose_dataset
from nnunet_mtl.planning.network_size import NetworkSize
from nnunet_mtl.planning.plans import write_plans
from nnunet_mtl.trainers.nnUNetTrainerCTAN import nnUNetTrainerCTAN
from nnunet_mtl.trainers.nnUNetTrainerHPS import nnUNetTrainerHPS
from nnunet_mtl.trainers.nnUNetTrainerMTAN import nnUNetTrainerMTAN
from nnunet_mtl.trainers.nnUNetTrainerMTLNoAttention import nnUNetTrainerMTLNoAttention

pytestmark = pytest.mark.slow
NAME = "Dataset903_Dose"
SIZES = {"2d": ((32, 32), (32, 32)), "3d_fullres": ((16, 24, 24), (16, 16, 16))}
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=SIZES)
def planned(request, tmp_path_factory):
    """Folder and configuration of a phantom in two or three dimensions, preprocessed, with small plans."""
    root, configuration = tmp_path_factory.mktemp("dose"), request.param
    image_size, patch_size = SIZES[configuration]
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("raw", "preprocessed", "results"):
            (root / variable).mkdir()
            patch.setenv(f"nnUNet_{variable}", str(root / variable))
        patch.setenv("nnUNet_n_proc_DA", "1")
        patch.setenv("nnUNet_def_n_proc", "1")
        patch.setenv("nnUNet_extTrainer", str(shim_folder()))
        options = DoseOptions(dimension=len(image_size), image_size=image_size, cases=8, test_cases=1)
        write_dose_dataset(root / "raw" / NAME, options, str)
        extract_fingerprints([903], num_processes=1)
        plan_experiments([903])
        preprocess([903], configurations=(configuration,), num_processes=(1,))
        size = NetworkSize(patch_size=patch_size, batch_size=2, features_per_stage=(4, 8, 8))
        numbers = ["epochs=1", "iterations=1", "val_iterations=1"]
        write_plans(
            903, name="tiny", source="nnUNetPlans", network=size, configurations=[configuration], assignments=numbers
        )
        patch.setenv("nnUNet_n_proc_DA", "0")
        yield root, configuration


def make(planned, cls=nnUNetTrainerHPS):
    root, configuration = planned
    folder = root / "preprocessed" / NAME
    plans = json.loads((folder / "tiny.json").read_text()) | {"continue_training": False}
    return cls(plans, configuration, 0, json.loads((folder / "dataset.json").read_text()), CPU)


@pytest.fixture(scope="module")
def started(planned):
    trainer = make(planned)
    trainer.on_train_start()
    return trainer


def cases_with_dose(trainer):
    tasks = trainer.cases.tasks
    return [case for case in tasks.cases if tasks.regressed(case)[0]]


def taught(trainer, steps=12):
    """Teach one batch of cases with a dose again and again; the dose's loss in each step."""
    batch = next(trainer.dataloader_train) | {"keys": np.array(cases_with_dose(trainer)[:2])}
    return [float(trainer.train_step(batch)["loss/regression/dose"]) for _ in range(steps)]


def array(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def values_exported_as_logits(trainer, image):
    """The network's values for an image, in units of the scale, by nnU-Net's own prediction and export of logits."""
    predictor = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trainer.output_folder_base), (0,), "checkpoint_final.pth")
    network = predictor.network
    network.register_forward_pre_hook(lambda _, x, named: (x, {**named, "full_output": True}), with_kwargs=True)
    # the same values in the channel of every region
    network.register_forward_hook(lambda _, x, output: output.regression["dose"] + 0 * output.segmentation)
    read, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(image)])
    _, probabilities = predictor.predict_single_npy_array(read, properties, save_or_return_probabilities=True)
    values = np.log(probabilities[0] / (1 - probabilities[0]))  # the sigmoid undone
    return values.reshape(array(image).shape)


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def test_that_the_network_and_the_model_folder_know_the_image_alone(started):
    assert started.num_input_channels == 1
    folder = Path(started.output_folder_base)
    saved = json.loads((folder / "dataset.json").read_text())
    assert saved["channel_names"] == {"0": "CT"}
    assert "cases" not in saved["nnunet_mtl"]
    task = json.loads((folder / "plans.json").read_text())["nnunet_mtl"]["tasks"]["dose"]
    assert task["scale"] == started.plans_manager.plans["foreground_intensity_properties_per_channel"]["1"]["std"]
    assert "dose is learnt inside body, divided by" in log_of(started)


def test_that_a_case_is_its_image_and_a_batch_holds_the_dose_behind_it(started):
    dataset, _ = started.get_tr_and_val_datasets()
    image, *_ = dataset.load_case("dose_000")
    assert image.shape[0] == 1
    batch = next(started.dataloader_val)
    assert batch["data"].shape[1] == 3
    assert set(batch["data"][:, 2].unique().tolist()) <= {0.0, 1.0}
    stored = dataset.dataset.load_case(str(batch["keys"][0]))[0][1]
    assert batch["data"][0, 1].max() <= np.max(stored) + 1e-4


def test_that_a_step_teaches_the_dose(started):
    batch = next(started.dataloader_train) | {"keys": np.array(cases_with_dose(started)[:2])}
    network = started.bare_network
    before = copy.deepcopy(network.state_dict())
    numbers = started.train_step(batch)
    assert started.terms.names == ("segmentation/body", "segmentation/organs", "segmentation/target", "regression/dose")
    assert numbers["present/regression/dose"] == 1
    assert 0 < numbers["loss/regression/dose"] < 20
    assert any(not torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("cls", [nnUNetTrainerHPS, nnUNetTrainerMTAN, nnUNetTrainerCTAN])
def test_that_every_trainer_that_regresses_learns_the_dose_of_a_batch(planned, cls):
    trainer = make(planned, cls)
    trainer.on_train_start()
    first, *_, last = taught(trainer)
    assert last < 0.9 * first


def test_that_a_scrambled_dose_of_a_case_without_one_changes_no_weight(started):
    unknown = [case for case in started.cases.tasks.cases if not started.cases.tasks.regressed(case)[0]]
    known = cases_with_dose(started)
    batch = next(started.dataloader_val) | {"keys": np.array([unknown[0], known[0]])}
    state = copy.deepcopy((started.bare_network.state_dict(), started.optimizer.state_dict()))
    after = []
    for sample, junk in ((None, 0.0), (0, float("nan")), (1, 5.0)):
        started.bare_network.load_state_dict(copy.deepcopy(state[0]))
        started.optimizer.load_state_dict(copy.deepcopy(state[1]))
        changed = {**batch, "data": batch["data"].clone()}
        if sample is not None:
            changed["data"][sample, 1] += junk
        started.train_step(changed)
        after.append(copy.deepcopy(started.bare_network.state_dict()))
    stock, scrambled, taught = after
    assert all(torch.equal(stock[name], scrambled[name]) for name in stock)
    assert any(not torch.equal(stock[name], taught[name]) for name in stock)


def test_that_the_error_is_logged_in_the_unit_of_the_dose(started):
    with torch.no_grad():
        output = started.validation_step(
            next(started.dataloader_val) | {"keys": np.array(cases_with_dose(started)[:2])}
        )
    started.on_validation_epoch_end([output])
    (value,) = started.logger.local_logger.my_fantastic_logging["regression/dose/mae"]
    expected = output["regression/error"] / output["regression/voxels"]
    assert value == pytest.approx(expected[0])
    assert 0 < value < 1000


def test_that_predict_writes_floats_on_the_images_grid_and_nnunets_segmentations(planned, started, tmp_path):
    root, _ = planned
    taught(started)
    started.save_checkpoint(f"{started.output_folder}/checkpoint_final.pth")
    raw = root / "raw" / NAME
    options = {"model": Path(started.output_folder_base), "folds": (0,), "device": "cpu", "npp": 0, "nps": 0}
    ours = tmp_path / "ours"
    report = predict(PredictOptions(images=raw / "imagesTs", output=ours, disable_progress_bar=True, **options))
    assert report.done == ["test_000"], report.failed
    written = SimpleITK.ReadImage(str(ours / "regression" / "dose" / "test_000.nii.gz"))
    image = SimpleITK.ReadImage(str(raw / "imagesTs" / "test_000_0000.nii.gz"))
    assert written.GetPixelID() == SimpleITK.sitkFloat32
    assert written.GetSize() == image.GetSize()
    assert written.GetDirection() == image.GetDirection()
    inside = array(raw / "labelsTs" / "test_000.nii.gz") > 0
    values = array(ours / "regression" / "dose" / "test_000.nii.gz")[inside]
    expected = values_exported_as_logits(started, raw / "imagesTs" / "test_000_0000.nii.gz")[inside]
    (dose,) = started.regression.tasks
    assert np.abs(expected).mean() > 0.2  # so neither zeros nor values in units of the scale are near it
    # nnU-Net adds up patches in half precision
    np.testing.assert_allclose(values, dose.scale * expected, atol=0.02 * dose.scale)
    truth = array(raw / "regressionTs" / "dose" / "test_000.nii.gz")[inside]
    scores = mae_of_folder(ours / "regression" / "dose", raw / "regressionTs" / "dose", raw / "labelsTs")
    assert scores.mean == pytest.approx(np.abs(values - truth).mean())
    (tmp_path / "stock").mkdir()
    stock = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(started.output_folder_base), (0,), "checkpoint_final.pth")
    stock.predict_from_files_sequential(str(raw / "imagesTs"), str(tmp_path / "stock"))
    maps = [array(folder / "test_000.nii.gz") for folder in (ours, tmp_path / "stock")]
    assert np.array_equal(*maps)
    again = PredictOptions(
        images=raw / "imagesTs", output=ours, disable_progress_bar=True, continue_prediction=True, **options
    )
    assert predict(again).kept == ["test_000"]
    (ours / "regression" / "dose" / "test_000.nii.gz").unlink()
    assert predict(again).done == ["test_000"]
    assert (ours / "regression" / "dose" / "test_000.nii.gz").is_file()


def test_that_chosen_tasks_choose_the_values_too(planned, started, tmp_path):
    started.save_checkpoint(f"{started.output_folder}/checkpoint_final.pth")
    options = {"model": Path(started.output_folder_base), "folds": (0,), "device": "cpu", "npp": 0, "nps": 0}
    images = planned[0] / "raw" / NAME / "imagesTs"
    for tasks, there in ((("body",), False), (("body", "dose"), True)):
        output = tmp_path / "_".join(tasks)
        predict(PredictOptions(images=images, output=output, tasks=tasks, disable_progress_bar=True, **options))
        assert (output / "regression" / "dose" / "test_000.nii.gz").is_file() == there


def test_that_a_trainer_that_does_not_regress_trains_on_the_image_alone(planned):
    trainer = make(planned, nnUNetTrainerMTLNoAttention)
    trainer.on_train_start()
    assert trainer.num_input_channels == 1
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape[1] == 1
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert "nnUNetTrainerMTLNoAttention predicts no value per voxel: dose is left out" in log_of(trainer)
    assert "dose" not in trainer.plans_manager.plans["nnunet_mtl"]["tasks"]
