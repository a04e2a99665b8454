"""Lymph nodes near a tumour, and how their number, size, form and inside tell whether they are metastatic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.geometry import Ellipsoid, Mask, Points, rotation

NodeCue = Literal["all", "size", "number"]
NODE_CUES: tuple[NodeCue, ...] = get_args(NodeCue)

MOST_NODES = 6
LARGEST_MM = 9.0

_NEGATIVE_MM, _POSITIVE_MM = (3.8, 5.0), (6.8, LARGEST_MM)
_NEGATIVE_NUMBER, _POSITIVE_NUMBER = (2, 4), (5, MOST_NODES + 1)
# Where only one of them is the cue.
_SAME_NUMBER, _SAME_MM = 4, (5.2, 6.2)
_GAP_MM = 2.0
_TRIES = 2000
# As bright as the tumour: nnU-Net clips CT to the range of what is segmented.
_NODE_HU, _NECROSIS_HU, _HILUM_HU = 112.0, 45.0, -20.0


@dataclass(frozen=True)
class Node:
    """One lymph node.

    Attributes:
        shape: Its surface.
        inside: Part with another intensity: fat at the hilum of a normal node, necrosis in a metastatic node.
        inside_hu: Intensity of that part in HU.
    """

    shape: Ellipsoid
    inside: Ellipsoid
    inside_hu: float

    def contains(self, points: Points) -> Mask:
        """Return which points (3, N) in mm lie in the node, (N,)."""
        return self.shape.contains(points)

    def intensity_hu(self, points: Points) -> NDArray[np.float32]:
        """Return the intensity at points inside the node, (N,), in HU."""
        intensity: NDArray[np.float32] = np.where(self.inside.contains(points), self.inside_hu, _NODE_HU)
        return intensity.astype(np.float32)


def draw_nodes(rng: np.random.Generator, places: NDArray[np.float64], positive: bool, cue: NodeCue) -> tuple[Node, ...]:
    """Return a patient's nodes.

    Args:
        rng: What number, size and form are drawn from; the same numbers are used up whatever the status and the cue.
        places: Centres in mm, (MOST_NODES, 3), of which the first ones are used.
        positive: Whether they are metastatic.
        cue: What tells: number, size, form and inside ("all"), or one of the first two alone.
    """
    sizes, numbers = rng.random(MOST_NODES), rng.random()
    turns, forms = rng.uniform(-np.pi, np.pi, size=(MOST_NODES, 3)), rng.uniform(0.5, 0.65, size=(MOST_NODES, 2))
    low, high = _POSITIVE_NUMBER if positive else _NEGATIVE_NUMBER
    number = _SAME_NUMBER if cue == "size" else low + int(numbers * (high - low))
    smallest, largest = _SAME_MM if cue == "number" else (_POSITIVE_MM if positive else _NEGATIVE_MM)
    nodes = []
    for place, size, turn, form in list(zip(places, sizes, turns, forms, strict=True))[:number]:
        radius = smallest + size * (largest - smallest)
        flat = np.ones(2) if positive or cue != "all" else form / form.mean() * 0.8
        shape = Ellipsoid(place, radius * np.array([1.0, *flat]), rotation(turn))
        share, inside_hu = (0.5, _NECROSIS_HU) if positive else (0.4, _HILUM_HU)
        if cue != "all":
            inside_hu = _NODE_HU
        nodes.append(Node(shape, Ellipsoid(place, share * shape.semi_axes, shape.rotation), inside_hu))
    return tuple(nodes)


def draw_places(
    rng: np.random.Generator,
    near_mm: NDArray[np.float64],
    clearance_mm: Callable[[Points], NDArray[np.float32]],
    flat: bool,
) -> NDArray[np.float64]:
    """Return where nodes can be, (MOST_NODES, 3): in free fat, and none nearer to another than two large nodes are.

    The places are the same for every status, so that no place shows the status.

    Args:
        rng: The patient's generator.
        near_mm: Centre of the tumour whose nodes they are, (3,).
        clearance_mm: Gives the distance of points (3, N) to the nearest thing that is not fat, (N,), negative inside.
        flat: Whether all of them are to lie in a transversal slice through the tumour's centre.
    """
    towards = rng.normal(size=(_TRIES, 3))
    if flat:
        towards[:, 2] = 0
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    # From near to far.
    candidates = near_mm + towards * np.sort(rng.uniform(15, 80, size=_TRIES))[:, None]
    free = candidates[clearance_mm(candidates.T.astype(np.float32)) > LARGEST_MM + _GAP_MM]
    chosen: list[NDArray[np.float64]] = []
    while len(free) and len(chosen) < MOST_NODES:
        chosen.append(free[0])
        free = free[np.linalg.norm(free - free[0], axis=1) > 2 * LARGEST_MM + _GAP_MM]
    if len(chosen) < MOST_NODES:
        raise RuntimeError(f"the phantom's fat has room for {len(chosen)} of {MOST_NODES} nodes; it needs more")
    return np.stack(chosen)
