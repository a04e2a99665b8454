"""A phantom with a radiation dose: the scanners and bodies of the other phantoms, a target to treat, organs to spare.

The dose is a formula of what can be seen in the image, so that a network can learn it, and no simulation of radiation.
With d the distance in mm from the target, o that from the nearest organ at risk, and P the prescription in Gy:

    falling = 1 / (1 + (d / FALLOFF_MM)^2)                        1 in the target, one half at FALLOFF_MM
    dose    = P * falling * (1 - SPARING * (1 - falling) * exp(-(o / GUARD_MM)^2))      and 0 outside the body
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from nnunet_mtl.lab.phantoms.anatomy import Anatomy, Body, Leaf, Tissue
from nnunet_mtl.lab.phantoms.geometry import Points
from nnunet_mtl.lab.phantoms.lesions import Disease
from nnunet_mtl.lab.phantoms.organs_cases import PhantomError
from nnunet_mtl.lab.phantoms.scanner import SCANNERS, Pose, Scan, scan

FALLOFF_MM = 30.0
GUARD_MM = 20.0
SPARING = 0.6
_DEFAULT_SIZE = {2: (96, 96), 3: (40, 64, 64)}


class DoseLeaf(IntEnum):
    """Label values; a voxel has one value."""

    OUTSIDE = 0
    BODY = 1
    STOMACH = 2
    KIDNEYS = 3
    TARGET = 4


ORGANS_AT_RISK = (DoseLeaf.STOMACH, DoseLeaf.KIDNEYS)


@dataclass(frozen=True, kw_only=True)
class DoseOptions:
    """Options of dose phantoms; the same options give the same data set.

    Attributes:
        seed: Start of all random numbers.
        dimension: 3 for volumes, 2 for transversal slices of the same anatomy.
        image_size: Reference size in voxels, (Y, X) or (Z, Y, X); None takes the default of the dimension.
        cases: Training cases.
        test_cases: Fully annotated test cases.
        prescription_gy: Dose in the target in Gy.
        without_dose: Share of the training cases whose dose is not known.
        without_organs: Share of the training cases whose organs at risk are not annotated.
        target_radius_mm: Smallest and largest radius of the target in mm.
        contrast_to_noise: Contrast of the target to its surroundings over the standard deviation of the noise.
    """

    seed: int = 0
    dimension: Literal[2, 3] = 3
    image_size: tuple[int, ...] | None = None
    cases: int = 20
    test_cases: int = 8
    prescription_gy: float = 60.0
    without_dose: float = 0.25
    without_organs: float = 0.25
    target_radius_mm: tuple[float, float] = (20.0, 32.0)
    contrast_to_noise: float = 6.0

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(self.dimension in (2, 3), "dimension", self.dimension, "2 or 3")
        _require(len(self.matrix) == self.dimension, "image_size", self.image_size, f"{self.dimension} numbers")
        _require(min(self.matrix) >= 16, "image_size", self.image_size, "at least 16 along each axis")
        _require(self.cases >= 1, "cases", self.cases, "at least 1")
        _require(self.test_cases >= 0, "test_cases", self.test_cases, "at least 0")
        _require(0 < self.prescription_gy <= 1000, "prescription_gy", self.prescription_gy, "positive, at most 1000")
        for name in ("without_dose", "without_organs"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "at least 0 and less than 1")
        radii = self.target_radius_mm
        _require(len(radii) == 2 and 0 < radii[0] <= radii[-1] <= 60, "target_radius_mm", radii, "two lengths up to 60")
        _require(self.contrast_to_noise > 0, "contrast_to_noise", self.contrast_to_noise, "positive")

    @property
    def matrix(self) -> tuple[int, ...]:
        """Reference image size, with the default filled in."""
        return _DEFAULT_SIZE[self.dimension] if self.image_size is None else tuple(self.image_size)


@dataclass(frozen=True)
class DoseCase:
    """One scan of one patient.

    Attributes:
        name: Case identifier.
        index: Number of the case among those of its part.
        is_test: Whether it is one of the fully annotated test cases.
        has_dose: Whether its dose is known.
        has_organs: Whether its organs at risk are annotated.
    """

    name: str
    index: int
    is_test: bool
    has_dose: bool
    has_organs: bool


def plan_dose_cases(options: DoseOptions) -> list[DoseCase]:
    """Return the training cases, then the test cases; what is missing is spread evenly over the training cases."""
    training = [
        DoseCase(
            f"dose_{index:03d}",
            index,
            False,
            not _is_chosen(index, options.without_dose, 0.0),
            # shifted by half a step, so that the first case without organs is not the first case without dose
            not _is_chosen(index, options.without_organs, 0.5),
        )
        for index in range(options.cases)
    ]
    return training + [DoseCase(f"test_{index:03d}", index, True, True, True) for index in range(options.test_cases)]


def _is_chosen(index: int, share: float, start: float) -> bool:
    return int((index + 1) * share + start) > int(index * share + start)


class _Patient(Body):
    """A body with the label values of this phantom."""

    def sample(self, points: Points) -> Anatomy:
        anatomy = super().sample(points)
        leaves = np.full(anatomy.leaves.shape, DoseLeaf.BODY, dtype=np.uint8)
        leaves[anatomy.tissue == Tissue.AIR] = DoseLeaf.OUTSIDE
        leaves[anatomy.tissue == Tissue.STOMACH] = DoseLeaf.STOMACH
        leaves[anatomy.tissue == Tissue.KIDNEY] = DoseLeaf.KIDNEYS
        leaves[anatomy.leaves == Leaf.LIVER_TUMOUR] = DoseLeaf.TARGET
        return Anatomy(anatomy.tissue, leaves, anatomy.detail_hu)


def render_dose_case(options: DoseOptions, case: DoseCase) -> tuple[Scan, NDArray[np.float32]]:
    """Return the scan of a case with every structure labelled, and its dose in Gy, same shape, whatever is known."""
    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(case.is_test, case.index)))
    height = float(rng.uniform(4, 14)) if options.dimension == 2 else None
    disease = Disease({"liver": 1}, malignant=False, radius_mm=options.target_radius_mm, mimics=0)
    body = _Patient(rng, disease, height)
    pose = Pose(np.zeros(3), np.clip(rng.normal(0, 9, size=3), -16, 16), np.full(3, rng.uniform(0.9, 1.05)))
    if height is not None:
        pose.shift_mm[2] = -(height + body.shift_mm[2]) * pose.scale[2]
    scanner = SCANNERS[case.index % len(SCANNERS)]
    image = scan(body, pose, scanner, options.matrix, options.contrast_to_noise, rng)
    return image, dose_of(image.leaves, image.spacing_mm, options.prescription_gy)


def dose_of(leaves: NDArray[np.uint8], spacing_mm: tuple[float, ...], prescription_gy: float) -> NDArray[np.float32]:
    """Return the dose of the module's formula in Gy, same shape; zero everywhere without a target.

    Args:
        leaves: `DoseLeaf` of each voxel, (Y, X) or (Z, Y, X).
        spacing_mm: Per axis in the order of SimpleITK (x first).
        prescription_gy: P.
    """
    target = leaves == DoseLeaf.TARGET
    if not target.any():
        return np.zeros(leaves.shape, dtype=np.float32)
    steps = spacing_mm[::-1]
    falling = 1 / (1 + (distance_transform_edt(~target, steps) / FALLOFF_MM) ** 2)
    organs = np.isin(leaves, ORGANS_AT_RISK)
    near = np.exp(-((distance_transform_edt(~organs, steps) / GUARD_MM) ** 2)) if organs.any() else 0.0
    dose = prescription_gy * falling * (1 - SPARING * (1 - falling) * near)
    inside: NDArray[np.float32] = np.where(leaves == DoseLeaf.OUTSIDE, 0, dose).astype(np.float32)
    return inside


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise PhantomError(f"phantom option {name}={value!r} must be {expected}")
