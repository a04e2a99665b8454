"""The training and test cases of a data set of phantoms, their patients, and their random numbers.

The random numbers of a case depend on its place in the list, so a case is the same however many other cases follow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnunet_mtl.lab.phantoms.files import Contents, WrittenCase, write_cases
from nnunet_mtl.lab.phantoms.options import SharedOptions

OptionsT = TypeVar("OptionsT", bound=SharedOptions)

# Steps of sequences that fill the unit interval evenly; any two sequences fill the unit square evenly. So a few
# consecutive patients have the right share, also among the patients of another share.
_STEPS = (0.6180340, 0.7548777, 0.4142136, 0.8191725, 0.7320508)


@dataclass(frozen=True)
class Visit:
    """One image of one patient.

    Attributes:
        seed: Seed of the data set.
        is_test: Whether it is one of the test cases.
        index: Number of the case among the training or the test cases.
        patient_index: Number of the patient among the patients of these cases.
    """

    seed: int
    is_test: bool
    index: int
    patient_index: int

    @property
    def name(self) -> str:
        """Case identifier."""
        return f"{'test' if self.is_test else 'case'}_{self.index:03d}"

    @property
    def patient(self) -> str:
        """Patient identifier."""
        return f"{'test_' if self.is_test else ''}patient_{self.patient_index:03d}"

    def patient_rng(self) -> np.random.Generator:
        """Return random numbers that all images of the patient share, from their start."""
        return self._rng(1, self.patient_index)

    def image_rng(self) -> np.random.Generator:
        """Return random numbers of this image alone, from their start."""
        return self._rng(2, self.index)

    def is_among(self, share: float, sequence: int) -> bool:
        """Return whether the patient is one of a share of the patients.

        Args:
            share: 0 to 1.
            sequence: 0 to 4. Shares of one sequence are nested, those of two are independent.
        """
        return bool(self.level(sequence) < share)

    def level(self, sequence: int) -> float:
        """Return the patient's place, 0 to 1, in a sequence (0 to 4) that few patients fill evenly."""
        start = self._rng(0, sequence).random()
        return float((start + self.patient_index * _STEPS[sequence]) % 1)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(int(self.is_test), *key)))


def plan_visits(options: SharedOptions) -> Sequence[Visit]:
    """Return the training cases, then the test cases."""
    return [*_visits(options, is_test=False), *_visits(options, is_test=True)]


def write_visits(
    folder: Path,
    contents: Contents,
    options: OptionsT,
    written: Callable[[OptionsT, Visit], WrittenCase],
    progress: Callable[[str], None],
    *,
    overwrite: bool,
) -> None:
    """Write a data set; the same options give the same arrays and the same `dataset.json`.

    Args:
        folder: The data set's folder.
        contents: Content of `dataset.json` without the cases.
        options: Options of the phantoms.
        written: Draws one case.
        progress: Called with one line per case.
        overwrite: Whether an existing data set in the folder is replaced.

    Raises:
        PhantomError: If the folder is not empty and `overwrite` is false.
    """
    visits = plan_visits(options)
    cases = (written(options, visit) for visit in visits)
    write_cases(folder, contents, cases, len(visits), progress, overwrite=overwrite)


def _visits(options: SharedOptions, is_test: bool) -> Iterator[Visit]:
    for index in range(options.test_cases if is_test else options.cases):
        yield Visit(options.seed, is_test, index, index if is_test else index - (index + 1) // 4)
