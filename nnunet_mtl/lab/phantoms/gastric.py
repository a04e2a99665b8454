"""Phantoms like CT of gastric cancer: a tumour that is segmented, and a node status that the tumour does not show.

One region, `tumour`, and one question, `node_status`, without evidence region: the status shows in lymph nodes in the
fat around the stomach, which are not segmented. The same patient with the other status has the same tumour, voxel by
voxel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from nnunet_mtl.lab.phantoms.files import Contents, Geometry, WrittenCase
from nnunet_mtl.lab.phantoms.geometry import voxel_places
from nnunet_mtl.lab.phantoms.nodes import NODE_CUES, NodeCue
from nnunet_mtl.lab.phantoms.options import SharedOptions, require, require_range
from nnunet_mtl.lab.phantoms.patients import Visit, write_visits
from nnunet_mtl.lab.phantoms.stomach import EXTENT_MM, SHIFT_MM, Stomach

CLASSES = ("negative", "positive")

_CONTENTS = Contents(
    channel_names=("CT",),
    labels={"tumour": (1,)},
    block={
        "tasks": {"gastric": {"regions": ["tumour"], "slots": ["tumour"]}},
        "classification": {"node_status": {"kind": "nominal", "classes": list(CLASSES)}},
    },
)
_BLUR_MM = (2.0, 1.2, 1.2)
# Sequences of `Visit.is_among`.
_POSITIVE, _LABELLED, _SEGMENTED = range(3)


@dataclass(frozen=True, kw_only=True)
class GastricOptions(SharedOptions):
    """Options of gastric phantoms; the same options give the same data set.

    Attributes:
        dimension: 3 for volumes, 2 for transversal slices through the middle of the tumour and the nodes.
        tumour_radius_mm: Smallest and largest half of a tumour's largest extent.
        positive_share: Share of the patients whose nodes are positive.
        node_cue: Cue of the status: number, size, form and inside of the nodes ("all"), or "size" or "number" alone.
        noise_hu: Standard deviation of the noise in HU.
        labelled_share: Share of the training patients whose status is known.
        segmented_share: Share of the training patients whose tumour is annotated.
    """

    default_sizes: ClassVar[dict[int, tuple[int, ...]]] = {2: (64, 64), 3: (32, 64, 64)}

    cases: int = 40
    test_cases: int = 20
    dimension: Literal[2, 3] = 3
    tumour_radius_mm: tuple[float, float] = (14.0, 22.0)
    positive_share: float = 0.5
    node_cue: NodeCue = "all"
    noise_hu: float = 18.0
    labelled_share: float = 1.0
    segmented_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("tumour_radius_mm", self.tumour_radius_mm, 5, 30, "lengths")
        self.require_shares("positive_share", "labelled_share", "segmented_share")
        require(self.node_cue in NODE_CUES, "node_cue", self.node_cue, f"one of {', '.join(NODE_CUES)}")
        require(0 <= self.noise_hu <= 200, "noise_hu", self.noise_hu, "between 0 and 200")

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of voxels along each axis of the arrays, slices first."""
        extent = EXTENT_MM[-self.dimension :]
        return tuple(length / size for length, size in zip(extent, self.matrix, strict=True))


@dataclass(frozen=True)
class GastricScan:
    """One image and the truth about it.

    Attributes:
        image: HU, (*spatial), int16.
        tumour: Which voxels are tumour, (*spatial).
        nodes: Which voxels are lymph node, (*spatial); not written into any file.
        positive: Whether the nodes are metastatic.
    """

    image: NDArray[np.int16]
    tumour: NDArray[np.bool_]
    nodes: NDArray[np.bool_]
    positive: bool


def render(options: GastricOptions, visit: Visit) -> GastricScan:
    """Return the image of a case with the masks of tumour and nodes."""
    patient, scan = visit.patient_rng(), visit.image_rng()
    radius_mm = float(patient.uniform(*options.tumour_radius_mm))
    positive = visit.is_among(options.positive_share, _POSITIVE)
    stomach = Stomach(patient, positive, options.node_cue, radius_mm, flat=options.dimension == 2)
    # The patient never lies twice at the same place.
    shift_mm = scan.uniform(-SHIFT_MM, SHIFT_MM, size=3)
    body = stomach.sample(voxel_places(options.matrix, options.spacing_mm, shift_mm, stomach.focus_mm[2]))
    shape, spacing_mm = options.matrix, options.spacing_mm
    blur = np.divide(_BLUR_MM[-options.dimension :], spacing_mm)
    signal = gaussian_filter(body.intensity_hu.reshape(shape), blur)
    noise = gaussian_filter(scan.standard_normal(shape), 0.6)
    noise *= options.noise_hu / noise.std()
    image = np.clip(np.rint(signal + scan.normal(0, 4) + noise), -1024, 3071).astype(np.int16)
    return GastricScan(image, body.tumour.reshape(shape), body.nodes.reshape(shape), positive)


def write_gastric_dataset(
    folder: Path, options: GastricOptions, progress: Callable[[str], None], *, overwrite: bool = False
) -> None:
    """Write a data set of these phantoms; arguments and errors as of `write_visits`."""
    write_visits(folder, _CONTENTS, options, _written, progress, overwrite=overwrite)


def _written(options: GastricOptions, visit: Visit) -> WrittenCase:
    scan = render(options, visit)
    segmented = visit.is_test or visit.is_among(options.segmented_share, _SEGMENTED)
    known = visit.is_test or visit.is_among(options.labelled_share, _LABELLED)
    classes: dict[str, Any] = {"classes": {"node_status": CLASSES[scan.positive]}} if known else {}
    return WrittenCase(
        name=visit.name,
        is_test=visit.is_test,
        channels=scan.image[None],
        # nnU-Net wants a file where nothing was drawn, too.
        labels=(scan.tumour & segmented).astype(np.uint8),
        geometry=Geometry(options.spacing_mm[::-1]),
        entry={"annotated": ["gastric"] if segmented else [], **classes, "patient": visit.patient},
    )
