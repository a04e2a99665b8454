"""The scanners of the organ phantoms; a scanner is a domain.

Domains differ in noise spectrum, blur, slice thickness, contrast phase, table, field of view and orientation. No
affine change of the intensities turns one into another, so a network's normalisation does not undo the difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_mtl.lab.phantoms.anatomy import Body, Tissue
from nnunet_mtl.lab.phantoms.geometry import rotation
from nnunet_mtl.lab.phantoms.lesions import TUMOUR_CONTRAST_HU

# Extent covered by the reference image in mm: slices, rows, columns. At the default size slices lie farther apart than
# rows and columns: nnU-Net plans with the coarsest axis first, and that is to be the first one.
REFERENCE_EXTENT_MM = (232.0, 340.0, 340.0)
TABLE_HU = 120.0
AIR_HU = -1000.0


@dataclass(frozen=True)
class Scanner:
    """One domain.

    Attributes:
        name: Written as the `source` of its cases.
        phase_hu: Intensity of each tissue under its contrast protocol; the order of the organs differs by scanner.
        field_of_view: In-plane extent relative to the reference, at the same matrix size.
        slice_spacing: Distance of slices relative to the reference; their number makes up for it.
        slice_thickness_mm: Full width at half maximum of the slice profile.
        blur_mm: Standard deviation of the in-plane point spread.
        noise_mm: Correlation length (standard deviation of the filter) of its noise.
        edge_kernel: Whether the noise lacks low frequencies, as after a sharp reconstruction kernel.
        table: Form of the patient table.
        flips: Whether columns, rows and slices are stored against the patient's left, back and head direction.
    """

    name: str
    phase_hu: Mapping[Tissue, float]
    field_of_view: float
    slice_spacing: float
    slice_thickness_mm: float
    blur_mm: float
    noise_mm: float
    edge_kernel: bool
    table: Literal["flat", "curved", "double"]
    flips: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Scan:
    """One image with every structure labelled.

    Attributes:
        image: HU, (Y, X) or (Z, Y, X), int16.
        leaves: Label values, same shape, uint8.
        spacing_mm: Per axis in the order of SimpleITK (x first).
        origin_mm: Place of the first voxel; x towards the patient's left, y back, z head.
        direction: Direction cosines, row-major as SimpleITK takes them.
    """

    image: NDArray[np.int16]
    leaves: NDArray[np.uint8]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Pose:
    """How the patient lies in the scanner.

    Attributes:
        angles: Rotation about x, y and the long axis in radians, (3,).
        shift_mm: Displacement of the body's centre from the centre of the image, (3,).
        scale: Size of the patient relative to the reference body, (3,).
    """

    angles: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    scale: NDArray[np.float64]

    def to_body(self, world: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the patient's own coordinates of points (3, N) in mm."""
        turn = rotation(self.angles).T / self.scale[:, None]
        moved = world - self.shift_mm.astype(np.float32)[:, None]
        body: NDArray[np.float32] = turn.astype(np.float32) @ moved
        return body


def _phase(*hu: float) -> dict[Tissue, float]:
    enhancing = (
        Tissue.LIVER,
        Tissue.VESSEL,
        Tissue.KIDNEY,
        Tissue.SPLEEN,
        Tissue.PANCREAS,
        Tissue.BOWEL,
        Tissue.STOMACH,
        Tissue.AORTA,
        Tissue.CAVA,
    )
    fixed = {Tissue.AIR: AIR_HU, Tissue.FAT: -60.0, Tissue.MUSCLE: 62.0, Tissue.BONE: 260.0, Tissue.FILLED_BOWEL: 300.0}
    return fixed | dict(zip(enhancing, hu, strict=True))


SCANNERS = (
    Scanner(
        "scanner_a", _phase(106, 178, 128, 116, 94, 86, 76, 170, 158), 1.0, 0.8, 4.5, 2.0, 1.0, True, "flat",
        (False, False, False),
    ),
    Scanner(
        "scanner_b", _phase(88, 22, 130, 118, 108, 96, 84, 270, 58), 0.93, 1.0, 6.5, 2.8, 3.4, False, "curved",
        (False, False, True),
    ),
    Scanner(
        "scanner_c", _phase(98, 165, 104, 90, 84, 92, 70, 140, 136), 1.08, 1.2, 7.5, 2.4, 2.8, False, "double",
        (True, True, False),
    ),
)  # fmt: skip


def scan(
    body: Body,
    pose: Pose,
    scanner: Scanner,
    matrix: tuple[int, ...],
    contrast_to_noise: float,
    rng: np.random.Generator,
) -> Scan:
    """Return the image that a scanner takes of a body.

    Args:
        body: The patient.
        pose: How the patient lies.
        scanner: The domain.
        matrix: Reference image size, (Y, X) or (Z, Y, X); two axes give one transversal slice at height 0.
        contrast_to_noise: Contrast of a tumour over the standard deviation of the noise.
        rng: Random numbers of the noise and of the spread of intensities.
    """
    shape, spacing = _grid(matrix, scanner, rng)
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    world = np.stack([x, y, z]).reshape(3, -1).astype(np.float32)
    anatomy = body.sample(pose.to_body(world))
    levels = np.array([scanner.phase_hu[tissue] for tissue in Tissue]) + rng.normal(0, 6, size=len(Tissue))
    signal = levels.astype(np.float32)[anatomy.tissue] + anatomy.detail_hu
    signal[anatomy.tissue == Tissue.AIR] = AIR_HU
    signal[_table(world, body, pose, scanner) & (anatomy.tissue == Tissue.AIR)] = TABLE_HU
    profile_mm = (scanner.slice_thickness_mm / 2.355, scanner.blur_mm, scanner.blur_mm)
    signal = gaussian_filter(signal.reshape(shape), np.divide(profile_mm, spacing))
    noise = _noise(shape, spacing, scanner, rng) * np.float32(TUMOUR_CONTRAST_HU / contrast_to_noise)
    image = np.clip(np.rint(signal + noise), -1024, 3071).astype(np.int16)
    return _stored(image, anatomy.leaves.reshape(shape), spacing, scanner, len(matrix))


def _grid(
    matrix: tuple[int, ...], scanner: Scanner, rng: np.random.Generator
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return size and spacing in mm, slices first; a single slice comes as a slab, so that its thickness blurs it."""
    jitter = rng.uniform(0.97, 1.03, size=2)
    extent_z, extent_y, extent_x = REFERENCE_EXTENT_MM
    rows, columns = matrix[-2:]
    in_plane = scanner.field_of_view * jitter[0]
    step_y, step_x = extent_y * in_plane / rows, extent_x * in_plane / columns
    if len(matrix) == 2:
        return (7, rows, columns), (scanner.slice_thickness_mm / 3, step_y, step_x)
    step_z = extent_z / matrix[0] * scanner.slice_spacing * jitter[1]
    return (round(matrix[0] / scanner.slice_spacing), rows, columns), (step_z, step_y, step_x)


def _table(world: NDArray[np.float32], body: Body, pose: Pose, scanner: Scanner) -> NDArray[np.bool_]:
    x, y, _ = world
    turn = rotation(pose.angles)[1, :2] * pose.scale[:2]
    back = pose.shift_mm[1] + turn @ body.skin_centre_mm + np.linalg.norm(turn * body.skin_semi_axes_mm)
    depth = y - np.float32(back + 5)
    if scanner.table == "curved":
        depth = depth + np.float32(1 / 500) * x**2
    sheet = (depth > 0) & (depth < 9)
    if scanner.table == "double":
        sheet |= (depth > 22) & (depth < 28)
    table: NDArray[np.bool_] = sheet & (np.abs(x) < 150)
    return table


def _noise(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], scanner: Scanner, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return noise of mean about 0 and standard deviation 1 with the scanner's spectrum, (Z, Y, X)."""
    white = rng.standard_normal(shape, dtype=np.float32)
    noise = gaussian_filter(white, np.divide(scanner.noise_mm, spacing), mode="wrap")
    if scanner.edge_kernel:
        noise = noise - gaussian_filter(white, np.divide(8.0, spacing), mode="wrap")
    normalised: NDArray[np.float32] = noise / noise.std()
    return normalised


def _stored(
    image: NDArray[np.int16],
    leaves: NDArray[np.uint8],
    spacing: tuple[float, float, float],
    scanner: Scanner,
    dimension: int,
) -> Scan:
    """Put the arrays into the scanner's orientation: the same places in the patient, other array axes."""
    if dimension == 2:
        middle = image.shape[0] // 2
        image, leaves = image[middle], leaves[middle]
    steps = spacing[::-1][:dimension]
    flips = scanner.flips[:dimension]
    sizes = image.shape[::-1]
    ends = [(size - 1) / 2 * step for size, step in zip(sizes, steps, strict=True)]
    origin = tuple(float(end if flip else -end) for end, flip in zip(ends, flips, strict=True))
    flipped_axes = tuple(dimension - 1 - axis for axis in range(dimension) if flips[axis])
    direction = np.diag([-1.0 if flip else 1.0 for flip in flips])
    return Scan(
        image=np.ascontiguousarray(np.flip(image, flipped_axes)),
        leaves=np.ascontiguousarray(np.flip(leaves, flipped_axes)),
        spacing_mm=tuple(float(step) for step in steps),
        origin_mm=origin,
        direction=tuple(float(value) for value in direction.ravel()),
    )
