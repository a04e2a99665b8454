"""Phantoms like the BraTS data: four MR sequences of a brain with a tumour whose regions lie in each other.

Label values 1 (swelling), 2 (core that does not enhance) and 3 (enhancing) make the nested regions `whole_tumour`
[1, 2, 3], `tumour_core` [2, 3] and `enhancing_tumour` [3], each of them a task whose parent is the next larger region.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.brain import Brain, BrainTissue, Glioma
from nnunet_mtl.lab.phantoms.files import Contents, Geometry, WrittenCase
from nnunet_mtl.lab.phantoms.geometry import voxel_places
from nnunet_mtl.lab.phantoms.mr import SEQUENCES, mr_image
from nnunet_mtl.lab.phantoms.options import SharedOptions, require, require_range
from nnunet_mtl.lab.phantoms.patients import Visit, write_visits

LABELS: Mapping[BrainTissue, int] = {BrainTissue.OEDEMA: 1, BrainTissue.NECROSIS: 2, BrainTissue.ENHANCING: 3}

_REGIONS = {"whole_tumour": (1, 2, 3), "tumour_core": (2, 3), "enhancing_tumour": (3,)}
_TASKS: dict[str, dict[str, Any]] = {
    "whole": {"regions": ["whole_tumour"], "slots": ["tumour"]},
    "core": {"regions": ["tumour_core"], "slots": ["tumour"], "parent": "whole"},
    "enhancing": {"regions": ["enhancing_tumour"], "slots": ["tumour"], "parent": "core"},
}
_EXTENT_MM = (144.0, 173.0, 173.0)
# Sequences of `Visit.is_among`.
_ENHANCES, _WHOLE_ONLY = range(2)


@dataclass(frozen=True, kw_only=True)
class NestedOptions(SharedOptions):
    """Options of brain phantoms; the same options give the same data set.

    Attributes:
        dimension: 3 for volumes, 2 for transversal slices through the middle of the tumour.
        tumour_radius_mm: Smallest and largest radius of the whole tumour; its core has about 0.6 times as much, the
            part of it that does not enhance half of that.
        enhancing_prevalence: Share of the tumours that enhance.
        mimics: Mean number of old lesions that look like swelling, and of vessels that look like enhancing tumour.
        noise: Standard deviation of the noise over the intensity of white matter.
        bias: Standard deviation of the logarithm of the bias field.
        whole_only_share: Share of the training patients in whom only the whole tumour is annotated.
        without_block: Whether to leave the `nnunet_mtl` block out: a region data set of stock nnU-Net.
    """

    default_sizes: ClassVar[dict[int, tuple[int, ...]]] = {2: (64, 64), 3: (40, 48, 48)}

    dimension: Literal[2, 3] = 3
    tumour_radius_mm: tuple[float, float] = (24.0, 36.0)
    enhancing_prevalence: float = 0.85
    mimics: float = 2.0
    noise: float = 0.07
    bias: float = 0.2
    whole_only_share: float = 0.0
    without_block: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_shares("enhancing_prevalence", "whole_only_share")
        require_range("tumour_radius_mm", self.tumour_radius_mm, 5, 50, "lengths")
        require(0 <= self.mimics <= 20, "mimics", self.mimics, "between 0 and 20")
        require(0 <= self.noise <= 1, "noise", self.noise, "between 0 and 1")
        require(0 <= self.bias <= 1, "bias", self.bias, "between 0 and 1")
        partial = self.whole_only_share > 0
        require(not (self.without_block and partial), "whole_only_share", self.whole_only_share, "0 with without_block")

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of voxels along each axis of the arrays, slices first."""
        extent = _EXTENT_MM[-self.dimension :]
        return tuple(length / size for length, size in zip(extent, self.matrix, strict=True))


@dataclass(frozen=True)
class NestedScan:
    """One examination and the truth about it.

    Attributes:
        image: The sequences, (4, *spatial), int16.
        tissue: `BrainTissue` of each voxel, (*spatial).
        labels: Label values of the data set, (*spatial).
    """

    image: NDArray[np.int16]
    tissue: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def render(options: NestedOptions, visit: Visit) -> NestedScan:
    """Return the image of a case with the labels of all structures."""
    patient, scan = visit.patient_rng(), visit.image_rng()
    radius_mm = float(patient.uniform(*options.tumour_radius_mm))
    enhances = visit.is_among(options.enhancing_prevalence, _ENHANCES)
    brain = Brain(patient, Glioma(radius_mm, enhances, int(patient.integers(2**32))), options.mimics)
    # The head never lies twice at the same place.
    shift_mm = scan.uniform(-5, 5, size=3)
    points = voxel_places(options.matrix, options.spacing_mm, shift_mm, brain.focus_mm[2])
    tissue = brain.sample(points).reshape(options.matrix)
    image = mr_image(tissue, points, noise=options.noise, bias=options.bias, rng=scan)
    values = np.zeros(len(BrainTissue), dtype=np.uint8)
    for kind, value in LABELS.items():
        values[kind] = value
    return NestedScan(image, tissue, values[tissue])


def write_nested_dataset(
    folder: Path, options: NestedOptions, progress: Callable[[str], None], *, overwrite: bool = False
) -> None:
    """Write a data set of these phantoms; arguments and errors as of `write_visits`."""
    contents = Contents(SEQUENCES, _REGIONS, None if options.without_block else {"tasks": _TASKS})
    write_visits(folder, contents, options, _written, progress, overwrite=overwrite)


def _written(options: NestedOptions, visit: Visit) -> WrittenCase:
    scan = render(options, visit)
    whole_only = not visit.is_test and visit.is_among(options.whole_only_share, _WHOLE_ONLY)
    return WrittenCase(
        name=visit.name,
        is_test=visit.is_test,
        channels=scan.image,
        # Who outlines the whole tumour says nothing of what is in it.
        labels=(scan.labels > 0).astype(np.uint8) if whole_only else scan.labels,
        geometry=Geometry(options.spacing_mm[::-1]),
        entry={"annotated": ["whole"] if whole_only else list(_TASKS), "patient": visit.patient},
    )
