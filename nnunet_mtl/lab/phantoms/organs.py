"""Places and shapes of the phantom's organs: a template in mm, and how one patient departs from it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import Ellipsoid, Mask, Points, rotation

PANCREAS_RADII_MM = np.array([24.0, 20.0, 18.0, 17.0])
ASCENDING_COLON = np.array([(-104.0, 22.0, -140.0), (-104.0, 18.0, -30.0)])

# Centre and semi-axes.
_LIVER = ((-58.0, -8.0, 30.0), (72.0, 64.0, 62.0))
_LEFT_LOBE = ((0.0, -44.0, 40.0), (56.0, 30.0, 36.0))
_KIDNEY = ((61.0, 40.0, -26.0), (33.0, 30.0, 54.0))
_SPLEEN = ((84.0, 14.0, 42.0), (30.0, 47.0, 46.0))
_STOMACH = ((48.0, -46.0, 36.0), (36.0, 30.0, 40.0))
_PANCREAS = np.array([(-34.0, -6.0, -12.0), (-12.0, -18.0, -6.0), (20.0, -12.0, 0.0), (52.0, 4.0, 8.0)])
# The vessel tree, trunk first, in coordinates of the liver's right lobe, in which its surface has length 1.
_BRANCHES = (
    ((0.62, 0.05, -0.45), (0.3, -0.02, -0.3), (-0.1, 0.02, -0.22)),
    ((-0.1, 0.02, -0.22), (-0.42, -0.2, 0.0), (-0.72, -0.3, 0.25)),
    ((-0.1, 0.02, -0.22), (-0.4, 0.3, -0.3), (-0.7, 0.42, -0.3)),
    ((-0.1, 0.02, -0.22), (-0.2, -0.45, -0.2), (-0.3, -0.75, -0.15)),
    ((-0.1, 0.02, -0.22), (-0.15, 0.2, 0.3), (-0.3, 0.3, 0.7)),
    ((0.3, -0.02, -0.3), (0.5, -0.35, 0.0), (0.85, -0.6, 0.25)),
)


@dataclass(frozen=True)
class Organs:
    """Shapes of one patient's organs, in the patient's own coordinates.

    Attributes:
        loops: Centre lines of bowel loops, (M, 3) each.
        liver: Its right lobe.
        left_lobe: Its left lobe, which overlaps the right one.
        kidney_left: Drawn independently of the right one, from the same distribution.
        kidney_right: Mirrored to its side.
        spleen: An ellipsoid.
        stomach: An ellipsoid.
        pancreas: Centre line, (4, 3).
        branches: Centre lines of the vessels in the liver, trunk first, (3, 3) each.
    """

    loops: tuple[NDArray[np.float64], ...]
    liver: Ellipsoid
    left_lobe: Ellipsoid
    kidney_left: Ellipsoid
    kidney_right: Ellipsoid
    spleen: Ellipsoid
    stomach: Ellipsoid
    pancreas: NDArray[np.float64]
    branches: tuple[NDArray[np.float64], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Organs":
        """Draw a patient's organs."""
        loops = tuple(_draw_loop(rng) for _ in range(5))
        liver = _draw_organ(rng, *_LIVER)
        return cls(
            loops=loops,
            liver=liver,
            left_lobe=_draw_organ(rng, *_LEFT_LOBE),
            kidney_left=_draw_organ(rng, *_KIDNEY),
            kidney_right=_mirrored(_draw_organ(rng, *_KIDNEY)),
            spleen=_draw_organ(rng, *_SPLEEN),
            stomach=_draw_organ(rng, *_STOMACH),
            pancreas=_PANCREAS + rng.normal(0, 6, size=3) + rng.normal(0, 3, size=_PANCREAS.shape),
            branches=tuple(_draw_branch(rng, liver, number) for number in range(len(_BRANCHES))),
        )

    def descending_colon(self) -> NDArray[np.float64]:
        """Return the landmark's two ends in mm, (2, 3): in front of and lateral to the left kidney, all along it."""
        kidney = self.kidney_left
        reach = kidney.semi_axes[0] + 16
        beside = kidney.centre + reach * np.array([0.85, -0.53, 0.0])
        up = np.array([0.0, 0.0, 1.0])
        return np.stack([beside - 1.3 * kidney.semi_axes[2] * up, beside + 0.6 * kidney.semi_axes[2] * up])


def kidney_mask(organ: Ellipsoid, points: Points) -> Mask:
    """Return which points (3, N) lie in a kidney, (N,): an ellipsoid with a notch towards the spine."""
    # Before the mirroring of the right one the spine lies on the side of negative x, for both.
    hilum = organ.at(np.array([-1.0, -0.25, 0.0])).astype(np.float32)[:, None]
    offset = (points - hilum) / np.array([[15.0], [11.0], [18.0]], dtype=np.float32)
    mask: Mask = organ.contains(points) & (np.einsum("in,in->n", offset, offset) > 1)
    return mask


def vessel_radii_mm(number: int) -> NDArray[np.float64]:
    """Return the radii at the corners of a branch, (3,)."""
    return np.array([13.0, 13.0, 11.5]) if number == 0 else np.array([10.5, 10.0, 9.0])


def _draw_organ(
    rng: np.random.Generator, centre: tuple[float, float, float], semi_axes: tuple[float, float, float]
) -> Ellipsoid:
    shift = np.clip(rng.normal(0, 8, size=3), -16, 16)
    sizes = np.array(semi_axes) * rng.uniform(0.84, 1.14, size=3)
    tilt = rotation(np.clip(rng.normal(0, 0.14, size=3), -0.3, 0.3))
    return Ellipsoid(np.array(centre) + shift, sizes, tilt)


def _mirrored(organ: Ellipsoid) -> Ellipsoid:
    mirror = np.array([-1.0, 1.0, 1.0])
    return Ellipsoid(organ.centre * mirror, organ.semi_axes, organ.rotation * mirror[:, None])


def _draw_loop(rng: np.random.Generator) -> NDArray[np.float64]:
    start = rng.uniform((-85, -65, -110), (85, 30, 70))
    steps = rng.normal(size=(4, 3)) * (1, 0.5, 0.6)
    steps *= 32 / np.linalg.norm(steps, axis=1, keepdims=True)
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _draw_branch(rng: np.random.Generator, liver: Ellipsoid, number: int) -> NDArray[np.float64]:
    nodes = np.array(_BRANCHES[number])
    # The others start from the trunk: it stays, and so do their first corners.
    if number > 0:
        nodes[1:] += rng.normal(0, 0.08, size=(len(nodes) - 1, 3))
    return np.stack([liver.at(node) for node in nodes])
