"""The list of phantom cases: patient, disease, scanner and annotated task follow from the options alone.

The random numbers of a case depend on its place in the list, so a case is the same however many other cases follow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nnunet_mtl.common.messages import did_you_mean
from nnunet_mtl.lab.phantoms.anatomy import Body
from nnunet_mtl.lab.phantoms.lesions import CUES, TEXTURE_CONTRAST, Cue, Disease
from nnunet_mtl.lab.phantoms.options import PhantomError, require
from nnunet_mtl.lab.phantoms.scanner import SCANNERS, Pose, Scan, scan

__all__ = [
    "CLASSES",
    "TASKS",
    "PhantomCase",
    "PhantomError",
    "PhantomOptions",
    "class_of",
    "disease_of",
    "plan_cases",
    "render",
]

TASKS = ("liver", "vessel", "kidney", "spleen", "pancreas")
CLASSES = ("benign", "malignant")

_DEFAULT_SIZE = {2: (96, 96), 3: (40, 64, 64)}
# Steps of sequences that fill the unit interval evenly: a share of prevalence p is met by any few cases in a row.
_STEPS = {
    "liver": 0.6180340,
    "pancreas": 0.7548777,
    "malignant": 0.4142136,
    "second": 0.8191725,
    # Even together with "malignant" too: the share of labels is met in either class.
    "labelled": 0.7320508,
}


_SHARES = (
    "domain_task_coupling",
    "tumour_prevalence",
    "malignant_share",
    "test_malignant_share",
    "class_domain_coupling",
    "labelled_share",
)


@dataclass(frozen=True, kw_only=True)
class PhantomOptions:
    """Options of organ phantoms; the same options give the same data set.

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
        test_malignant_share: The same share among the test cases; None takes that of the training cases.
        malignant_cue: What tells malignant from benign: margin and texture, or the fineness of the texture alone, with
            shape, mean and spread of the intensities alike.
        texture_contrast: Standard deviation of a tumour's texture over its contrast to the organ; with 0 and "texture"
            nothing tells the classes.
        class_domain_coupling: Probability that a training case with a liver tumour comes from the scanner of its class:
            the first one if malignant, else the others in turns. Test cases are never coupled.
        tasks: Tasks that are annotated and written, of `TASKS`; the cases of a task are the same without the others.
        labelled_share: Share of the training patients whose class is known, among those whose class may be known.
        label_all_tasks: Whether the class may be known of every training case with a liver tumour, not only of those
            annotated for the liver.
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
    test_malignant_share: float | None = None
    malignant_cue: Cue = "margin_and_texture"
    texture_contrast: float = TEXTURE_CONTRAST
    class_domain_coupling: float = 0.0
    tasks: tuple[str, ...] = TASKS
    labelled_share: float = 1.0
    label_all_tasks: bool = False

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(self.dimension in (2, 3), "dimension", self.dimension, "2 or 3")
        require(len(self.matrix) == self.dimension, "image_size", self.image_size, f"{self.dimension} numbers")
        require(min(self.matrix) >= 16, "image_size", self.image_size, "at least 16 along each axis")
        require(self.cases_per_task >= 1, "cases_per_task", self.cases_per_task, "at least 1")
        require(self.test_cases >= 0, "test_cases", self.test_cases, "at least 0")
        for name in _SHARES:
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, name, value, "between 0 and 1")
        radii = self.tumour_radius_mm
        require(len(radii) == 2 and 0 < radii[0] <= radii[-1] <= 60, "tumour_radius_mm", radii, "two lengths up to 60")
        require(self.contrast_to_noise > 0, "contrast_to_noise", self.contrast_to_noise, "positive")
        require(0 <= self.mimics <= 20, "mimics", self.mimics, "between 0 and 20")
        require(self.malignant_cue in CUES, "malignant_cue", self.malignant_cue, f"one of {', '.join(CUES)}")
        require(0 <= self.texture_contrast <= 1, "texture_contrast", self.texture_contrast, "between 0 and 1")
        known = bool(self.tasks) and set(self.tasks) <= set(TASKS) and len(set(self.tasks)) == len(self.tasks)
        similar = next((did_you_mean(task, TASKS) for task in self.tasks if task not in TASKS), "")
        require(known, "tasks", self.tasks, f"different ones of {', '.join(TASKS)}{similar}")

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
        if not is_test and task not in options.tasks:
            continue
        for index in range(options.test_cases if is_test else options.cases_per_task):
            # Every fourth training case is the second scan of the patient before it.
            patient = index if is_test else index - (index + 1) // 4
            coupled = _rng(options, 2, group, index).random() < options.domain_task_coupling
            home, turn = group % len(SCANNERS), (group + index) % len(SCANNERS)
            domain = home if coupled and not is_test else turn
            case = PhantomCase(f"{task}_{index:03d}", group, index, patient, domain)
            yield replace(case, domain=_domain_of_class(options, case))


def disease_of(options: PhantomOptions, case: PhantomCase) -> Disease:
    """Return the disease of the patient of a case."""
    level = _levels(options, case)
    tumours = {organ: 1 for organ in ("liver", "pancreas") if level[organ] < options.tumour_prevalence}
    if "liver" in tumours and level["second"] < 0.3:
        tumours["liver"] = 2
    share = options.malignant_share
    if case.is_test and options.test_malignant_share is not None:
        share = options.test_malignant_share
    malignant = bool(level["malignant"] < share)
    cue, texture_contrast = options.malignant_cue, options.texture_contrast
    return Disease(tumours, malignant, options.tumour_radius_mm, options.mimics, cue, texture_contrast)


def class_of(options: PhantomOptions, case: PhantomCase) -> str | None:
    """Return the class in the table of a case with a liver tumour; None if the class is unknown."""
    may_be_known = case.is_test or case.group == TASKS.index("liver") or options.label_all_tasks
    is_known = case.is_test or _levels(options, case)["labelled"] < options.labelled_share
    return CLASSES[disease_of(options, case).malignant] if may_be_known and is_known else None


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


def _levels(options: PhantomOptions, case: PhantomCase) -> dict[str, float]:
    """Return the patient's place in each sequence; a share of p holds those whose place is below p."""
    starts = _rng(options, 0, case.group).random(len(_STEPS))
    return {
        name: float((start + case.patient_index * step) % 1)
        for (name, step), start in zip(_STEPS.items(), starts, strict=True)
    }


def _domain_of_class(options: PhantomOptions, case: PhantomCase) -> int:
    """Return the scanner that follows from the class of a case, or the planned scanner if none does."""
    coupled = _rng(options, 4, case.group, case.index).random() < options.class_domain_coupling
    disease = disease_of(options, case)
    if case.is_test or not coupled or "liver" not in disease.tumours:
        return case.domain
    return 0 if disease.malignant else 1 + (case.group + case.index) % (len(SCANNERS) - 1)


def _rng(options: PhantomOptions, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=key))
