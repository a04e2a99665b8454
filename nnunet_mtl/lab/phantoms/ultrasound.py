"""Phantoms like breast ultrasound: a lesion in speckle, and whether it is malignant.

The data set has one region, `lesion`, and one question, `malignancy`, whose evidence region is `lesion`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnunet_mtl.lab.phantoms.breast import FIELD_MM, MASS_CUES, Breast, Mass, MassCue, draw_breast
from nnunet_mtl.lab.phantoms.files import Contents, Geometry, WrittenCase
from nnunet_mtl.lab.phantoms.options import SharedOptions, require, require_range
from nnunet_mtl.lab.phantoms.patients import Visit, write_visits
from nnunet_mtl.lab.phantoms.speckle import PROBES, attenuated, displayed, speckle

CLASSES = ("benign", "malignant")

_CONTENTS = Contents(
    channel_names=("ultrasound",),
    labels={"lesion": (1,)},
    block={
        "tasks": {"lesion": {"regions": ["lesion"], "slots": ["tumour"]}},
        "classification": {"malignancy": {"kind": "nominal", "classes": list(CLASSES), "evidence": "lesion"}},
    },
)
# Sequences of `Visit.is_among`.
_LESION, _MALIGNANT, _CYST, _LABELLED = range(4)


@dataclass(frozen=True, kw_only=True)
class UltrasoundOptions(SharedOptions):
    """Options of ultrasound phantoms; the same options give the same data set.

    Attributes:
        lesion_prevalence: Share of the patients who have a lesion; the others have no class.
        malignant_share: Share of malignant lesions.
        cyst_share: Share of cysts among the benign ones.
        malignant_cue: Features of malignant lesions: form and margin, with or without the shadow behind the lesion.
        lesion_radius_mm: Smallest and largest radius of a disc of the lesion's area, the same for both classes.
        contrast_db: Least and largest darkness of a lesion that is no cyst, below that of glandular tissue.
        mimics: Mean number of fat lobules inside the gland; there are half as many shadows without a lesion.
        labelled_share: Share of the training patients with a lesion whose class is known.
    """

    default_sizes: ClassVar[dict[int, tuple[int, ...]]] = {2: (128, 128)}

    cases: int = 40
    test_cases: int = 20
    lesion_prevalence: float = 1.0
    malignant_share: float = 0.5
    cyst_share: float = 0.25
    malignant_cue: MassCue = "margin_and_shadow"
    lesion_radius_mm: tuple[float, float] = (3.0, 6.5)
    contrast_db: tuple[float, float] = (8.0, 12.0)
    mimics: float = 4.0
    labelled_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Rows and columns are equally far apart.
        require(self.matrix[0] == self.matrix[1], "image_size", self.image_size, "square")
        self.require_shares("lesion_prevalence", "malignant_share", "cyst_share", "labelled_share")
        require(self.malignant_cue in MASS_CUES, "malignant_cue", self.malignant_cue, f"one of {', '.join(MASS_CUES)}")
        require_range("lesion_radius_mm", self.lesion_radius_mm, 2, 9, "lengths")
        require_range("contrast_db", self.contrast_db, 0, 30, "levels")
        require(0 <= self.mimics <= 20, "mimics", self.mimics, "between 0 and 20")

    @property
    def spacing_mm(self) -> float:
        """Distance of voxels along both axes."""
        return FIELD_MM / self.matrix[0]


@dataclass(frozen=True)
class UltrasoundScan:
    """One image and the truth about it.

    Attributes:
        image: 0 to 255, (Y, X), depth first, uint8.
        lesion: Which voxels are the lesion, (Y, X).
        malignant: Whether the lesion is malignant; None without a lesion.
        source: Name of the probe.
    """

    image: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    malignant: bool | None
    source: str


def render(options: UltrasoundOptions, visit: Visit) -> UltrasoundScan:
    """Return the image of a case with the mask of its lesion."""
    size, spacing_mm = options.matrix[0], options.spacing_mm
    patient, scan = visit.patient_rng(), visit.image_rng()
    depth, x = np.meshgrid((np.arange(size) + 0.5) * spacing_mm, (np.arange(size) + 0.5) * spacing_mm, indexing="ij")
    # The probe is never held twice at the same place.
    x = x - FIELD_MM / 2 + scan.uniform(-3, 3)
    breast, malignant = _draw(options, visit, patient, x, depth)
    # The probe is not drawn from the patient, so that it says nothing about the class.
    probe = PROBES[int(scan.integers(len(PROBES)))]
    level_db = attenuated(breast.level_db, breast.excess_db_per_mm, spacing_mm, beam_mm=0.5)
    level_db = level_db + scan.uniform(-0.12, 0.12) * (depth - FIELD_MM / 2)
    envelope = speckle(level_db, (probe.axial_mm / spacing_mm, probe.lateral_mm / spacing_mm), scan)
    image = displayed(envelope, probe, float(scan.normal(0, 2)), scan)
    return UltrasoundScan(image, breast.lesion, malignant, probe.name)


def write_ultrasound_dataset(
    folder: Path, options: UltrasoundOptions, progress: Callable[[str], None], *, overwrite: bool = False
) -> None:
    """Write a data set of these phantoms; arguments and errors as of `write_visits`."""
    write_visits(folder, _CONTENTS, options, _written, progress, overwrite=overwrite)


def _draw(
    options: UltrasoundOptions,
    visit: Visit,
    patient: np.random.Generator,
    x: NDArray[np.float64],
    depth: NDArray[np.float64],
) -> tuple[Breast, bool | None]:
    centre_mm = np.array([patient.uniform(-10, 10), patient.uniform(11, 24)])
    radius_mm = float(patient.uniform(*options.lesion_radius_mm))
    contrast_db = float(patient.uniform(*options.contrast_db))
    entropy = int(patient.integers(2**32))
    breast = draw_breast(patient, options.mimics, x, depth)
    if not visit.is_among(options.lesion_prevalence, _LESION):
        return breast, None
    malignant = visit.is_among(options.malignant_share, _MALIGNANT)
    cyst = not malignant and visit.is_among(options.cyst_share, _CYST)
    mass = Mass(centre_mm, radius_mm, malignant, cyst, contrast_db, options.malignant_cue, entropy)
    return mass.add(breast, x, depth), malignant


def _written(options: UltrasoundOptions, visit: Visit) -> WrittenCase:
    scan = render(options, visit)
    known = visit.is_test or visit.is_among(options.labelled_share, _LABELLED)
    entry: dict[str, Any] = {"annotated": ["lesion"]}
    if scan.malignant is not None and known:
        entry["classes"] = {"malignancy": CLASSES[scan.malignant]}
    return WrittenCase(
        name=visit.name,
        is_test=visit.is_test,
        channels=scan.image[None],
        labels=scan.lesion.astype(np.uint8),
        geometry=Geometry((options.spacing_mm, options.spacing_mm)),
        entry=entry | {"patient": visit.patient, "source": scan.source},
    )
