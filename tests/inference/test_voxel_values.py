"""Values per voxel in prediction, with a network that is a formula, so that every number is known beforehand."""

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.inference.voxel_values import (
    RegressionExportError,
    ValueWindow,
    beside_logits,
    on_original_grid,
    refuse_unwritable,
    regressions_of,
    write_values,
)
from nnunet_mtl.networks.multitask_output import MultiTaskOutput
from nnunet_mtl.tasks import RegressionTask

SCALE = 20.0
BLOCK = {
    "version": 1,
    "tasks": {
        "body": {"regions": ["body"]},
        "dose": {"type": "regression", "channel": 1, "inside": "body", "scale": SCALE},
    },
}
DATASET = {
    "channel_names": {"0": "noNorm"},
    "labels": {"background": 0, "body": [1, 1]},
    "regions_class_order": [1],
    "file_ending": ".nii.gz",
    "nnunet_mtl": {**BLOCK, "tasks": {**BLOCK["tasks"], "dose": {"type": "regression", "channel": 1}}},
}
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": False}
LINEAR = {"resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": RESAMPLING}


def plans_of(patch_size=(8, 8, 8), spacing=(1.0, 1.0, 1.0), transpose=(0, 1, 2)):
    configuration = {
        "patch_size": list(patch_size),
        "spacing": list(spacing),
        "normalization_schemes": ["NoNormalization", "NoNormalization"],
        "use_mask_for_norm": [False, False],
        **LINEAR,
        **{key.replace("data", "probabilities"): value for key, value in LINEAR.items()},
        **{key.replace("data", "seg"): value for key, value in LINEAR.items()},
        "architecture": {
            "network_class_name": "x",
            "arch_kwargs": {"regressions": ["dose"]},
            "_kw_requires_import": [],
        },
    }
    return {
        "dataset_name": "Dataset903_Dose",
        "plans_name": "p",
        "configurations": {"c": configuration},
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": np.argsort(transpose).tolist(),
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
        "nnunet_mtl": BLOCK,
    }


class Formula(nn.Module):
    """The logit is the image plus a weight, the value is the image times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, *, full_output=False):
        logits = x + self.weight
        return MultiTaskOutput(logits, regression={"dose": x * self.weight}) if full_output else logits


def predictor_of(cls=MultiTaskPredictor, weights=(1.0,), mirror=True, **plans):
    predictor = cls(
        use_mirroring=mirror, device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False
    )
    manager = PlansManager(plans_of(**plans))
    folds = [{"weight": torch.tensor(weight)} for weight in weights]
    predictor.manual_initialization(
        Formula(), manager, manager.get_configuration("c"), folds, DATASET, "T", (0, 1, 2) if mirror else None
    )
    return predictor


@pytest.fixture
def image():
    return torch.rand(1, 12, 11, 13, generator=torch.Generator().manual_seed(0))


def test_that_values_are_the_networks_in_the_targets_unit(image):
    predictor = predictor_of()
    logits = predictor.predict_logits_from_preprocessed_data(image)
    assert logits.shape == (1, 12, 11, 13)
    assert list(predictor.values) == ["dose"]
    values = predictor.values["dose"]
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, SCALE * image[0])


def test_that_logits_are_those_of_nnunet_bit_by_bit(image):
    ours, theirs = (predictor_of(cls, (1.0, 0.25)) for cls in (MultiTaskPredictor, nnUNetPredictor))
    logits = [each.predict_logits_from_preprocessed_data(image) for each in (ours, theirs)]
    assert torch.equal(*logits)
    assert logits[0].dtype == logits[1].dtype


def test_that_folds_are_averaged_and_the_last_case_alone_is_kept(image):
    predictor = predictor_of(weights=(1.0, 0.5, 0.0))
    predictor.predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(predictor.values["dose"], 0.5 * SCALE * image[0])
    predictor.predict_logits_from_preprocessed_data(image * 0)
    assert (predictor.values["dose"] == 0).all()


def test_that_a_failed_case_leaves_no_values(image):
    predictor = predictor_of()
    predictor.predict_logits_from_preprocessed_data(image)
    with pytest.raises(AssertionError):
        predictor.predict_logits_from_preprocessed_data(image[0])
    assert not predictor.values


def test_that_a_single_network_has_values_too_and_mirrors_are_averaged(image):
    class Ramp(Formula):
        def forward(self, x, *, full_output=False):
            output = super().forward(x, full_output=full_output)
            rows = torch.linspace(0, 1, x.shape[2]).view(1, 1, -1, 1, 1).expand_as(x)
            return MultiTaskOutput(output.segmentation, regression={"dose": rows.clone()}) if full_output else output

    for mirror, expected in ((True, 0.5), (False, None)):
        predictor = predictor_of(mirror=mirror)
        predictor.network = Ramp()
        predictor.predict_sliding_window_return_logits(image[:, :8, :8, :8])
        values = predictor.values["dose"]
        if expected is not None:  # a ramp and its mirror image
            torch.testing.assert_close(values, torch.full_like(values, expected * SCALE), rtol=1e-3, atol=0)
        else:
            torch.testing.assert_close(values[0], torch.zeros(8, 8), rtol=0, atol=1e-3)


def test_that_a_second_try_counts_once(image, monkeypatch):
    predictor = predictor_of()
    original = nnUNetPredictor._internal_maybe_mirror_and_predict
    tries = []

    def failing_once(self, x):
        tries.append(x)
        if len(tries) == 3:
            raise RuntimeError("out of memory")
        return original(self, x)

    monkeypatch.setattr(nnUNetPredictor, "_internal_maybe_mirror_and_predict", failing_once)
    predictor.perform_everything_on_device = True
    predictor.predict_logits_from_preprocessed_data(image)
    assert len(tries) > 10
    torch.testing.assert_close(predictor.values["dose"], SCALE * image[0])


def test_that_half_precision_would_have_lost_the_corners(image):
    """Why the values have sums of their own: nnU-Net's, of the same patches, are whole numbers in the corners."""
    stock = predictor_of(nnUNetPredictor).predict_logits_from_preprocessed_data(image).float() - 1
    assert (stock[0, 0, 0] - image[0, 0, 0]).abs().max() > 0.1
    predictor = predictor_of()
    predictor.predict_logits_from_preprocessed_data(image)
    assert (predictor.values["dose"][0, 0] / SCALE - image[0, 0, 0]).abs().max() < 1e-5


def test_that_patches_weigh_as_in_nnunet_in_two_dimensions_too():
    slicers = [(slice(None), 0, slice(0, 5), slice(0, 5)), (slice(None), 0, slice(0, 5), slice(3, 8))]
    values = [torch.full((1, 5, 5), value) for value in (1.0, 3.0)]
    for gaussian, between in ((False, 2.0), (True, None)):
        window = ValueWindow(1, (1, 5, 8), slicers, (5, 5), gaussian=gaussian, device=torch.device("cpu"))
        for each in values:
            window.add(each)
        row = window.mean((1, 5, 8))[0, 0, 0]
        torch.testing.assert_close(row[[0, 1, 2, 5, 6, 7]], torch.tensor([1.0, 1.0, 1.0, 3.0, 3.0, 3.0]))
        if between is not None:
            assert row[3] == row[4] == between
        else:
            assert 1 < row[3] < 2 < row[4] < 3  # the nearer patch decides


def test_that_an_image_smaller_than_a_patch_comes_back_in_its_own_size(image):
    predictor = predictor_of(patch_size=(16, 12, 20))
    logits = predictor.predict_logits_from_preprocessed_data(image)
    assert logits.shape[1:] == predictor.values["dose"].shape == image.shape[1:]
    torch.testing.assert_close(predictor.values["dose"], SCALE * image[0])


def test_that_values_take_the_dtype_of_the_logits():
    output = MultiTaskOutput(torch.zeros(1, 2, 3, 3, dtype=torch.half), regression={"dose": torch.ones(1, 1, 3, 3)})
    both = beside_logits(output, [RegressionTask("dose", 1)])
    assert both.dtype == torch.half
    assert both.shape == (1, 3, 3, 3)
    assert (both[:, 2] == 1).all()
    assert both.is_contiguous()


def test_that_only_what_the_network_predicts_counts():
    assert regressions_of({"regressions": ["dose"]}, BLOCK) == (RegressionTask("dose", 1, "body", SCALE),)
    assert regressions_of({}, BLOCK) == ()


def write(path, values, spacing, direction=None):
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(spacing)
    if direction is not None:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path))


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_that_the_grid_of_the_file_comes_back_whatever_preprocessing_did(tmp_path, transpose):
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (10, 12, 14)), indexing="ij")
    field = 100 + 3 * z + 2 * y + x
    field[:3], field[:, :, 12:] = 0, 0  # cropped away
    write(tmp_path / "a_0000.nii.gz", field, (2.0, 1.0, 1.0), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    manager = PlansManager(plans_of(spacing=(1.5, 1.5, 1.5), transpose=transpose))
    configuration = manager.get_configuration("c")
    data, _, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(tmp_path / "a_0000.nii.gz")], None, manager, configuration, DATASET
    )
    assert data.shape[1:] != field.shape
    (values,) = on_original_grid(data, manager, configuration, properties)
    assert values.shape == field.shape
    assert values.dtype == np.float32
    assert (values[:3] == 0).all()
    assert (values[:, :, 12:] == 0).all()
    inner = (slice(4, 9), slice(2, 10), slice(2, 10))
    np.testing.assert_allclose(values[inner], field[inner], atol=0.75)  # linear, and a ramp: no more than half a voxel
    SimpleITKIO().write_seg(np.zeros(field.shape, np.uint8), str(tmp_path / "a.nii.gz"), properties)
    write_values(values, tmp_path / "values.nii.gz", tmp_path / "a.nii.gz")
    written = SimpleITK.ReadImage(str(tmp_path / "values.nii.gz"))
    source = SimpleITK.ReadImage(str(tmp_path / "a_0000.nii.gz"))
    assert written.GetPixelID() == SimpleITK.sitkFloat32
    assert written.GetDirection() == source.GetDirection()
    assert written.GetSpacing() == source.GetSpacing()
    assert np.array_equal(SimpleITK.GetArrayFromImage(written), values)


def test_that_a_slice_of_two_dimensions_is_written_as_one(tmp_path):
    write(tmp_path / "a.nii.gz", np.zeros((5, 6), np.uint8), (2.0, 3.0))
    values = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    write_values(values, tmp_path / "v.nii.gz", tmp_path / "a.nii.gz")
    written = SimpleITK.ReadImage(str(tmp_path / "v.nii.gz"))
    assert written.GetSpacing() == (2.0, 3.0)
    assert np.array_equal(SimpleITK.GetArrayFromImage(written), values[0])


@pytest.mark.parametrize("reader", [NaturalImage2DIO, SimpleITKIOWithReorient])
def test_that_formats_that_cannot_hold_values_are_refused(reader):
    with pytest.raises(RegressionExportError, match=f"{reader.__name__} cannot write the values of 'dose'"):
        refuse_unwritable(reader, [RegressionTask("dose", 1)])
    refuse_unwritable(reader, [])
    refuse_unwritable(SimpleITKIO, [RegressionTask("dose", 1)])
