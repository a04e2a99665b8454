"""Which phantom cases there are: patient, disease, scanner and annotated task of each, from the options alone.

Every case has its own random numbers, keyed by its place: it is the same however many others there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnunet_mtl.datasets.phantom_anatomy import Body
from nnunet_mtl.datasets.phantom_lesions import Disease
from nnunet_mtl.datasets.phantom_scanner import SCANNERS, Pose, Scan, scan
from nnunet_mtl.errors import UserError

TASKS = ("liver", "vessel", "kidney", "spleen", "pancreas")
CLASSES = ("benign", "malignant")

_DEFAULT_SIZE = {2: (96, 96), 3: (40, 64, 64)}
# Steps of sequences that fill the unit interval evenly: a share of prevalence p is met by any few cases in a row.
_STEPS = {"liver": 0.6180340, "pancreas": 0.7548777, "malignant": 0.4142136, "second": 0.8191725}


class PhantomError(UserError):
    """An option of the phantoms is out of range, or the target folder cannot be written."""


@dataclass(frozen=True, kw_only=True)
class PhantomOptions:
    """What the phantoms are like; the same options give the same data set.

    Attributes:
        seed: Start of all random numbers.
        dimension: 3 for volumes, 2 for transversal slices of the same anatomy.
        image_size: Reference size in voxels, (Y, X) or (Z, Y, X); None takes the default of the dimension. The field
            of view is fixed in mm, and scanners with thicker slices have fewer of them.
        cases_per_task: Training cases annotated for each task.
        test_cases: Fully annotated test cases.
        domain_task_coupling: Probability that a training case comes from its task's own scanner; else, and in all
            test cases, the scanners take turns.
        tumour_prevalence: Share of patients that have a liver tumour, and share that have a pancreas tumour.
        tumour_radius_mm: Smallest and largest tumour radius; 5 mm are about a voxel of the default size. Pancreas
            tumours have 0.8 times as much.
        contrast_to_noise: Contrast of a tumour to its organ over the standard deviation of the noise.
        mimics: Mean number per patient of spots that are no tumours: dark cysts, bright calcifications.
        malignant_share: Share of the patients whose tumours are malignant.
    """

    seed: int = 0
    dimension: Literal[2, 3] = 3
    image_size: tuple[int, ...] | None = None
    cases_per_task: int = 8
    test_cases: int = 12
    domain_task_coupling: float = 0.5
    tumour_prevalence: float = 0.75
    tumour_radius_mm: tuple[float, float] = (20.0, 32.0)
    contrast_to_noise: float = 3.5
    mimics: float = 1.0
    malignant_share: float = 0.5

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(self.dimension in (2, 3), "dimension", self.dimension, "2 or 3")
        _require(len(self.matrix) == self.dimension, "image_size", self.image_size, f"{self.dimension} numbers")
        _require(min(self.matrix) >= 16, "image_size", self.image_size, "at least 16 along each axis")
        _require(self.cases_per_task >= 1, "cases_per_task", self.cases_per_task, "at least 1")
        _require(self.test_cases >= 0, "test_cases", self.test_cases, "at least 0")
        for name in ("domain_task_coupling", "tumour_prevalence", "malignant_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        radii = self.tumour_radius_mm
        _require(len(radii) == 2 and 0 < radii[0] <= radii[-1] <= 60, "tumour_radius_mm", radii, "two lengths up to 60")
        _require(self.contrast_to_noise > 0, "contrast_to_noise", self.contrast_to_noise, "positive")
        _require(0 <= self.mimics <= 20, "mimics", self.mimics, "between 0 and 20")

    @property
    def matrix(self) -> tuple[int, ...]:
        """Reference image size, with the default filled in."""
        return _DEFAULT_SIZE[self.dimension] if self.image_size is None else tuple(self.image_size)


@dataclass(frozen=True)
class PhantomCase:
    """One scan of one patient.

    Attributes:
        name: Case identifier.
        group: Index of the annotated task in `TASKS`; the number of tasks for a test case.
        index: Number of the case in its group.
        patient_index: Number of its patient in the group; some patients have two scans.
        domain: Index of the scanner in `SCANNERS`.
    """

    name: str
    group: int
    index: int
    patient_index: int
    domain: int

    @property
    def is_test(self) -> bool:
        """Whether the case is one of the fully annotated test cases."""
        return self.group == len(TASKS)

    @property
    def patient(self) -> str:
        """Patient identifier."""
        return f"{'test' if self.is_test else TASKS[self.group]}_patient_{self.patient_index:03d}"

    @property
    def annotated(self) -> tuple[str, ...]:
        """Names of the annotated tasks."""
        return TASKS if self.is_test else (TASKS[self.group],)


def plan_cases(options: PhantomOptions) -> Iterator[PhantomCase]:
    """Yield the training cases task by task, then the test cases."""
    for group, task in enumerate((*TASKS, "test")):
        is_test = group == len(TASKS)
        for index in range(options.test_cases if is_test else options.cases_per_task):
            # Every fourth training case is the second scan of the patient before it.
            patient = index if is_test else index - (index + 1) // 4
            coupled = _rng(options, 2, group, index).random() < options.domain_task_coupling
            home, turn = group % len(SCANNERS), (group + index) % len(SCANNERS)
            domain = home if coupled and not is_test else turn
            yield PhantomCase(f"{task}_{index:03d}", group, index, patient, domain)


def disease_of(options: PhantomOptions, case: PhantomCase) -> Disease:
    """Return what the patient of a case has."""
    starts = _rng(options, 0, case.group).random(len(_STEPS))
    level = {
        name: (start + case.patient_index * step) % 1
        for (name, step), start in zip(_STEPS.items(), starts, strict=True)
    }
    tumours = {organ: 1 for organ in ("liver", "pancreas") if level[organ] < options.tumour_prevalence}
    if "liver" in tumours and level["second"] < 0.3:
        tumours["liver"] = 2
    malignant = bool(level["malignant"] < options.malignant_share)
    return Disease(tumours, malignant, options.tumour_radius_mm, options.mimics)


def render(options: PhantomOptions, case: PhantomCase) -> Scan:
    """Return the image of a case and its whole anatomy, whatever is annotated of it."""
    patient = _rng(options, 1, case.group, case.patient_index)
    scale = np.exp(np.clip(patient.normal(-0.05, (0.08, 0.08, 0.08)), -0.2, 0.1))
    visit = _rng(options, 3, case.group, case.index)
    angles = np.clip(visit.normal(0, (0.07, 0.07, 0.15)), (-0.14, -0.14, -0.3), (0.14, 0.14, 0.3))
    shift = np.clip(visit.normal(0, (12, 9, 12)), (-22, -16, -22), (22, 16, 22))
    # A height at which every organ can be met; drawn for volumes too, whose anatomy is to be the same.
    height = float(patient.uniform(4, 14))
    body = Body(patient, disease_of(options, case), height if options.dimension == 2 else None)
    if options.dimension == 2:
        shift[2] = -(height + body.shift_mm[2]) * scale[2]
    return scan(
        body, Pose(angles, shift, scale), SCANNERS[case.domain], options.matrix, options.contrast_to_noise, visit
    )


def _rng(options: PhantomOptions, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=key))


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise PhantomError(f"phantom option {name}={value!r} must be {expected}")
