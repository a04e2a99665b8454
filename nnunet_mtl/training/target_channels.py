"""Regression targets on their way from nnU-Net's preprocessed files to the training batch.

Preprocessing stores a target as the last image channels. Whoever asks a data set for a case gets the image alone; the
training loader alone gets the targets too, and hands them to nnU-Net's transforms as what they are, under the name
`regression_target`: batchgeneratorsv2 moves it with the image and never changes its values. They leave the transforms
behind the image in one tensor, because nnU-Net's loader has no place for anything else.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunet_mtl.common.errors import UserError


class TargetChannelError(UserError):
    """A preprocessed case has other channels than the data set."""


class Channels:
    """Some channels of a preprocessed case, (C, *spatial), read when it is indexed, as far as it is indexed.

    Args:
        array: The file's: NumPy or blosc2.
        channels: Which of them.
        with_ones: Whether a channel of ones comes last: padded with zeros it says where the case ends.
    """

    def __init__(self, array: Any, channels: slice, *, with_ones: bool = False) -> None:
        self._array, self._channels, self._with_ones = array, channels, with_ones
        count = len(range(*channels.indices(array.shape[0])))
        self.shape: tuple[int, ...] = (count + with_ones, *array.shape[1:])
        self.ndim: int = array.ndim
        self.dtype = array.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if first != slice(None):
            raise IndexError(f"all channels are read together, not {first!r}")
        values = np.asarray(self._array[(self._channels, *rest)])
        return np.concatenate([values, np.ones_like(values[:1])]) if self._with_ones else values


class ImageDataset:
    """nnU-Net's data set, of which every case is its image, without the target channels.

    Args:
        dataset: nnU-Net's.
        n_images: Number of image channels.
        n_targets: Number of target channels behind them.
    """

    def __init__(self, dataset: Any, n_images: int, n_targets: int) -> None:
        self.dataset = dataset
        self.identifiers: list[str] = dataset.identifiers
        self.source_folder: str = dataset.source_folder
        self._n_images, self._n_targets = n_images, n_targets

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return image, segmentation, the previous stage's segmentation, and properties of a case, as nnU-Net does."""
        stored, *rest = self._load(identifier)
        return (Channels(stored, slice(self._n_images)), *rest)

    def _load(self, identifier: str) -> Any:
        case = self.dataset.load_case(identifier)
        expected = self._n_images + self._n_targets
        if case[0].shape[0] != expected:
            raise TargetChannelError(
                f"{self.source_folder}: case {identifier} has {case[0].shape[0]} channels, dataset.json {expected}; "
                "run nnUNetv2_plan_and_preprocess again"
            )
        return case


class TargetDataset(ImageDataset):
    """The same for the training loader: behind the image the targets, and ones where the case has voxels.

    Args:
        images: The data set without them.
    """

    def __init__(self, images: ImageDataset) -> None:
        super().__init__(images.dataset, images._n_images, images._n_targets)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return a case as `ImageDataset.load_case` does, with targets and ones as last channels of the image."""
        stored, *rest = self._load(identifier)
        return (Channels(stored, slice(None), with_ones=True), *rest)


class ImageDatasets:
    """Stands in for nnU-Net's class of data sets in a trainer, and makes `ImageDataset`s.

    Args:
        dataset_class: nnU-Net's.
        n_images: Number of image channels.
        n_targets: Number of target channels behind them.
    """

    def __init__(self, dataset_class: Any, n_images: int, n_targets: int) -> None:
        self._class, self._n_images, self._n_targets = dataset_class, n_images, n_targets
        self.get_identifiers: Callable[..., list[str]] = dataset_class.get_identifiers
        self.unpack_dataset: Callable[..., Any] = dataset_class.unpack_dataset

    def __call__(self, *args: Any, **kwargs: Any) -> ImageDataset:
        """Make a data set with nnU-Net's arguments."""
        return ImageDataset(self._class(*args, **kwargs), self._n_images, self._n_targets)


class BesideImage:
    """nnU-Net's transforms, given the last channels of the image as regression targets.

    Intensities are changed of the image only. What moves, moves together: interpolated linearly, zero outside the case.

    Args:
        transforms: nnU-Net's, of training or validation.
        n_last: Number of last channels that are no image.
    """

    def __init__(self, transforms: Callable[..., Mapping[str, Any]], n_last: int) -> None:
        self._transforms, self._n_last = transforms, n_last

    def __call__(self, *, image: Tensor, **others: Any) -> dict[str, Any]:
        """Transform a sample, (C, *spatial) with the targets last, and return it in the same form."""
        # copies: a transform that works in place on the image must not reach the target through shared memory
        parts = {"image": image[: -self._n_last].clone(), "regression_target": image[-self._n_last :].clone()}
        transformed = dict(self._transforms(**parts, **others))
        transformed["image"] = torch.cat([transformed["image"], transformed.pop("regression_target")])
        return transformed
