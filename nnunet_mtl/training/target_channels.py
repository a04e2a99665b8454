"""Brings regression targets from nnU-Net's preprocessed files to the training batch.

Preprocessing stores targets as the last image channels. A data set returns the image channels only, except to the
training loader. The loader gives the targets to nnU-Net's transforms under the name `regression_target`, which
batchgeneratorsv2 moves with the image without changing values. The transformed targets are appended to the image
channels again, because nnU-Net's loader has no place for another tensor.
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
    """Some channels of a preprocessed case, (C, *spatial), of which indexing reads the indexed part only.

    Args:
        array: Array of the preprocessed file, NumPy or blosc2.
        channels: Slice of the channels.
        with_ones: Whether a last channel of ones is added, which shows the border of the case after padding with zeros.
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
    """Wraps nnU-Net's data set and returns cases without the target channels.

    Args:
        dataset: nnU-Net's data set.
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
    """A data set for the training loader, whose cases have target channels and a channel of ones behind the image.

    Args:
        images: The data set without target channels.
    """

    def __init__(self, images: ImageDataset) -> None:
        super().__init__(images.dataset, images._n_images, images._n_targets)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return a case as `ImageDataset.load_case` does, with targets and ones as last channels of the image."""
        stored, *rest = self._load(identifier)
        return (Channels(stored, slice(None), with_ones=True), *rest)


class ImageDatasets:
    """Replaces nnU-Net's class of data sets in a trainer, and makes `ImageDataset`s.

    Args:
        dataset_class: nnU-Net's class of data sets.
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
    """Wraps nnU-Net's transforms, and gives them the last channels of the image as regression targets.

    Intensity transforms change the image only. Spatial transforms move image and targets together; targets are
    interpolated linearly and zero outside the case.

    Args:
        transforms: nnU-Net's transforms for training or validation.
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
