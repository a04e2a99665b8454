"""What becomes of a regression target between nnU-Net's files and the batch, through nnU-Net's own transforms."""

import blosc2
import numpy as np
import pytest
import torch
from batchgeneratorsv2.helpers.scalar_type import RandomScalar
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_mtl.training.target_channels import (
    BesideImage,
    Channels,
    ImageDataset,
    ImageDatasets,
    TargetChannelError,
    TargetDataset,
)

ROTATION: RandomScalar = (-0.5, 0.5)


class Stored:
    """Stands for nnU-Net's data set: one case of one image channel and a target behind it, 2 image + 1 below."""

    identifiers, source_folder = ["case"], "folder"
    get_identifiers = staticmethod(lambda folder: ["case"])
    unpack_dataset = staticmethod(lambda *args, **kwargs: "unpacked")

    def __init__(self, array, folder_with_segs_from_previous_stage=None):
        self.array = array

    def load_case(self, identifier):
        segmentation = np.zeros((1, *self.array.shape[1:]), np.int16)
        return self.array, segmentation, None, {"class_locations": {1: []}}


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 1


def pipeline(patch_size, *, dummy_2d=False, p=None, mirror_axes=(0, 1), scales=None):
    """nnU-Net's training transforms; with `p` every random transform is done with that probability."""
    transforms = nnUNetTrainer.get_training_transforms(
        patch_size, ROTATION, scales, mirror_axes, dummy_2d, use_mask_for_norm=[False] * 2, regions=[(1, 2), 2]
    )
    for transform in transforms.transforms:
        if p is not None and isinstance(transform, RandomTransform):
            transform.apply_probability = p
    return transforms


def spatial(transforms):
    return next(each for each in transforms.transforms if isinstance(each, SpatialTransform))


@pytest.mark.parametrize("make", [np.asarray, blosc2.asarray], ids=["numpy", "blosc2"])
def test_that_a_case_is_its_image_alone_and_for_the_loader_everything(make):
    array = numbers(3, 4, 5, 6)
    images = ImageDataset(Stored(make(array)), 2, 1)
    image, _, previous, properties = images.load_case("case")
    assert image.shape == (2, 4, 5, 6)
    assert np.array_equal(image[:], array[:2])
    assert np.array_equal(image[:, 1:3, :, 2:], array[:2, 1:3, :, 2:])
    assert previous is None
    assert "class_locations" in properties
    behind, *_ = TargetDataset(images).load_case("case")
    assert behind.shape == (4, 4, 5, 6)
    assert behind.ndim == 4
    assert behind.dtype == np.float32
    assert np.array_equal(behind[:, 1:3], np.concatenate([array[:, 1:3], np.ones((1, 2, 5, 6))]))


def test_that_channels_are_not_read_one_by_one():
    with pytest.raises(IndexError, match="together"):
        Channels(numbers(3, 4, 5, 6), slice(2))[0]


def test_that_a_case_preprocessed_before_it_had_a_target_is_refused():
    images = ImageDataset(Stored(numbers(1, 4, 4, 4)), 1, 1)
    with pytest.raises(TargetChannelError, match=r"case case has 1 channels, dataset\.json 2; run nnUNetv2_plan"):
        images.load_case("case")


def test_that_it_stands_in_for_the_class_of_nnunets_data_sets():
    makes = ImageDatasets(Stored, 2, 1)
    assert makes.get_identifiers("folder") == ["case"]
    assert makes.unpack_dataset("folder") == "unpacked"
    dataset = makes(numbers(3, 4, 4, 4), folder_with_segs_from_previous_stage=None)
    assert dataset.identifiers == ["case"]
    assert dataset.load_case("case")[0].shape == (2, 4, 4, 4)


@pytest.mark.parametrize("shape", [(12, 12), (6, 12, 12)], ids=["2d", "3d"])
def test_that_intensity_transforms_change_the_image_and_no_bit_of_the_target(shape):
    transforms = pipeline(shape, p=1.0, mirror_axes=None)
    assert sum(isinstance(each, RandomTransform) for each in transforms.transforms) >= 7
    spatial(transforms).p_rotation = spatial(transforms).p_scaling = 0
    torch.manual_seed(0)
    sample = torch.rand(3, *shape) * 60
    before = sample.clone()
    segmentation = torch.zeros(1, *shape, dtype=torch.int16)
    result = BesideImage(transforms, 2)(image=sample, segmentation=segmentation)
    assert torch.equal(result["image"][1:], before[1:])
    assert not torch.allclose(result["image"][:1], before[:1])
    assert "regression_target" not in result
    # the control: a target that goes as an image channel does not survive
    as_image = pipeline(shape, p=1.0, mirror_axes=None)
    spatial(as_image).p_rotation = spatial(as_image).p_scaling = 0
    harmed = as_image(image=before.clone(), segmentation=segmentation.clone())["image"]
    assert not torch.allclose(harmed[1:], before[1:])


@pytest.mark.parametrize(
    ("shape", "dummy_2d"), [((16, 16), False), ((8, 16, 16), False), ((8, 16, 16), True)], ids=["2d", "3d", "dummy 2d"]
)
def test_that_image_and_target_move_together_and_so_does_the_segmentation(shape, dummy_2d):
    transforms = pipeline(shape, dummy_2d=dummy_2d, p=0.0, mirror_axes=tuple(range(len(shape))))
    moving = spatial(transforms)
    moving.p_rotation = moving.p_scaling = 1
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - batchgeneratorsv2 draws from it
    smooth = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, n) for n in shape), indexing="ij")).sum(0)
    sample = torch.stack([smooth, 3 * smooth, torch.ones_like(smooth)])
    segmentation = (smooth > smooth.mean()).to(torch.int16)[None]
    moved = BesideImage(transforms, 2)(image=sample, segmentation=segmentation)
    image, target, ones = moved["image"]
    assert moved["image"].shape == (3, *shape)
    torch.testing.assert_close(target, 3 * image, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(image, smooth, atol=0.05)
    whole = ones > 0.999
    assert 0.2 < whole.float().mean() < 1  # the corners of a turned patch are outside
    agrees = (image > smooth.mean()) == moved["segmentation"][0]
    assert agrees[whole].float().mean() > 0.95


def test_that_the_targets_behind_a_cascades_label_maps_are_still_the_last():
    transforms = nnUNetTrainer.get_validation_transforms(
        None, is_cascaded=True, foreground_labels=[1, 2], regions=[(1, 2)]
    )
    sample = torch.rand(3, 4, 4, 4)
    segmentation = torch.zeros(2, 4, 4, 4, dtype=torch.int16)
    result = BesideImage(transforms, 2)(image=sample, segmentation=segmentation)
    assert result["image"].shape == (5, 4, 4, 4)
    assert torch.equal(result["image"][-2:], sample[-2:])


class Labels:
    def __init__(self):
        self.all_labels, self.has_ignore_label = [0, 1], False


@pytest.mark.parametrize("patch_size", [(16, 16), (4, 16, 16)], ids=["2d", "3d"])
def test_that_the_loaders_padding_is_no_part_of_the_case(patch_size):
    array = numbers(2, 4, 8, 8)
    transforms = nnUNetTrainer.get_validation_transforms(None, regions=[(1, 2)])
    dataset = TargetDataset(ImageDataset(Stored(array), 1, 1))
    loader = nnUNetDataLoader(dataset, 2, patch_size, patch_size, Labels(), transforms=BesideImage(transforms, 2))
    batch = loader.generate_train_batch()
    assert batch["data"].shape == (2, 3, *patch_size)
    image, target, ones = batch["data"].unbind(1)
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    assert ones.mean() == 0.25  # 8 x 8 of 16 x 16
    assert (target[ones == 0] == 0).all()
    torch.testing.assert_close(target[ones == 1], image[ones == 1] + array[0].size)


def test_that_what_a_transform_does_in_place_does_not_reach_the_callers_tensor():
    def doubling(*, image, regression_target, segmentation):
        return {"image": image.mul_(2), "regression_target": regression_target.neg_(), "segmentation": segmentation}

    sample = torch.ones(3, 2, 2)
    result = BesideImage(doubling, 1)(image=sample, segmentation=None)
    assert (sample == 1).all()
    assert torch.equal(result["image"].unique(), torch.tensor([-1.0, 2.0]))
