"""The kinds of phantoms: their arguments on the command line, and the places of their options and writers.

The module needs the standard library alone, so that the command line lists the kinds without importing NumPy. A kind is
one entry of `KINDS` and one module with a frozen dataclass of options and a function `write(folder, options, progress,
*, overwrite)`; its arguments have the names of the fields of the options.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from nnunet_mtl.common.messages import did_you_mean, listed
from nnunet_mtl.lab.phantoms.options import PhantomError

Write = Callable[..., None]


@dataclass(frozen=True)
class Argument:
    """An option on the command line.

    Attributes:
        type: Type of one value; bool for a switch without a value.
        help: Help text.
        number: Number of values, as `nargs` of argparse; None for one.
    """

    type: Any
    help: str
    number: int | str | None = None


@dataclass(frozen=True)
class PhantomKind:
    """One kind of phantoms.

    Attributes:
        summary: What the images show, and the methods that they are made for.
        dataset: Default name of the data set.
        options: Dotted path of the dataclass of the options.
        writer: Dotted path of the function that writes a data set.
        arguments: Arguments by name of the option.
    """

    summary: str
    dataset: str
    options: str
    writer: str
    arguments: Mapping[str, Argument]

    def write(
        self, folder: Path, given: Mapping[str, Any], progress: Callable[[str], None], *, overwrite: bool
    ) -> None:
        """Write a data set of this kind.

        Args:
            folder: Folder of the data set.
            given: Values by option, lists for tuples; other options have their defaults.
            progress: Called with one line per case.
            overwrite: Whether an existing data set in the folder is replaced.

        Raises:
            PhantomError: If this kind has no such option, a value is out of range, or the folder cannot be written.
        """
        strange = [name for name in given if name not in self.arguments]
        if strange:
            raise PhantomError(
                f"phantom option {strange[0]}: {self.dataset} phantoms have none of this name"
                f"{did_you_mean(strange[0], self.arguments)}, but {', '.join(self.arguments)}; see --kind"
            )
        chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        _located(self.writer)(folder, _located(self.options)(**chosen), progress, overwrite=overwrite)


def phantom_kind(name: str) -> PhantomKind:
    """Return a kind by its name.

    Raises:
        PhantomError: If there is no kind of that name.
    """
    if name not in KINDS:
        raise PhantomError(f"phantom kind {name!r}: must be one of {listed(KINDS)}{did_you_mean(name, KINDS)}")
    return KINDS[name]


def all_arguments() -> dict[str, tuple[Argument, tuple[str, ...]]]:
    """Return by name every argument, as the first kind with this argument describes it, and the kinds that have it."""
    first: dict[str, Argument] = {}
    for kind in KINDS.values():
        first |= {name: argument for name, argument in kind.arguments.items() if name not in first}
    return {
        name: (argument, tuple(kind for kind, of in KINDS.items() if name in of.arguments))
        for name, argument in first.items()
    }


def _located(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


_SEED = {"seed": Argument(int, "start of all random numbers")}
_DIMENSION = {"dimension": Argument(int, "3 for volumes, 2 for slices")}
_IMAGE_SIZE = {"image_size": Argument(int, "voxels, (Z) Y X", "+")}
_TEST_CASES = {"test_cases": Argument(int, "fully annotated test cases")}
_CASES = {"cases": Argument(int, "training cases")} | _TEST_CASES

_ORGANS = {
    **_SEED,
    **_DIMENSION,
    **_IMAGE_SIZE,
    "cases_per_task": Argument(int, "training cases annotated for each task"),
    **_TEST_CASES,
    "domain_task_coupling": Argument(float, "how strongly scanner and task go together, 0 to 1"),
    "tumour_prevalence": Argument(float, "share of patients with a tumour"),
    "tumour_radius_mm": Argument(float, "smallest and largest radius in mm", 2),
    "contrast_to_noise": Argument(float, "of tumours, or of the target"),
    "mimics": Argument(float, "mean number of spots that are no tumours"),
    "malignant_share": Argument(float, "share of malignant tumours or lesions"),
    "test_malignant_share": Argument(float, "share of malignant tumours among the test cases, if it differs"),
    "malignant_cue": Argument(
        str, "what tells malignant from benign: margin_and_texture or texture; margin_and_shadow or margin"
    ),
    "texture_contrast": Argument(float, "standard deviation of a tumour's texture over its contrast"),
    "class_domain_coupling": Argument(float, "how strongly class and scanner go together in training, 0 to 1"),
    "tasks": Argument(str, "tasks that are annotated and written, all by default", "+"),
    "labelled_share": Argument(float, "share of the training patients whose class is known"),
    "label_all_tasks": Argument(bool, "the class may be known in cases that are not annotated for the liver too"),
}

_ULTRASOUND = {
    **_SEED,
    **_IMAGE_SIZE,
    **_CASES,
    "lesion_prevalence": Argument(float, "share of patients with a lesion"),
    "malignant_share": Argument(float, "share of malignant lesions"),
    "cyst_share": Argument(float, "share of cysts among the benign lesions"),
    "malignant_cue": Argument(str, "what tells malignant from benign: margin_and_shadow, or margin alone"),
    "lesion_radius_mm": Argument(float, "smallest and largest radius in mm", 2),
    "contrast_db": Argument(float, "least and largest darkness of lesions in dB", 2),
    "mimics": Argument(float, "mean number of spots that are no lesions"),
    "labelled_share": Argument(float, "share of the training patients whose class is known"),
}

_NESTED = {
    **_SEED,
    **_DIMENSION,
    **_IMAGE_SIZE,
    **_CASES,
    "tumour_radius_mm": Argument(float, "smallest and largest radius in mm", 2),
    "enhancing_prevalence": Argument(float, "share of the tumours that enhance"),
    "mimics": Argument(float, "mean number of old lesions, and of vessels, that look like parts of a tumour"),
    "noise": Argument(float, "standard deviation of the noise over the intensity of white matter"),
    "bias": Argument(float, "standard deviation of the logarithm of the bias field"),
    "whole_only_share": Argument(float, "share of the training patients in whom only the whole tumour is annotated"),
    "without_block": Argument(bool, "leave the nnunet_mtl block out: a region data set of stock nnU-Net"),
}

_GASTRIC = {
    **_SEED,
    **_DIMENSION,
    **_IMAGE_SIZE,
    **_CASES,
    "tumour_radius_mm": Argument(float, "smallest and largest radius in mm", 2),
    "positive_share": Argument(float, "share of the patients whose lymph nodes are positive"),
    "node_cue": Argument(str, "what of the nodes tells: all, size or number"),
    "noise_hu": Argument(float, "standard deviation of the noise in HU"),
    "labelled_share": Argument(float, "share of the training patients whose class is known"),
    "segmented_share": Argument(float, "share of the training patients whose tumour is annotated"),
}

_DOSE = {
    **_SEED,
    **_DIMENSION,
    **_IMAGE_SIZE,
    **_CASES,
    "prescription_gy": Argument(float, "dose in the target in Gy"),
    "without_dose": Argument(float, "share of the training cases whose dose is not known"),
    "without_organs": Argument(float, "share of the training cases whose organs at risk are not annotated"),
    "target_radius_mm": Argument(float, "smallest and largest radius of the target in mm", 2),
    "contrast_to_noise": Argument(float, "of the target"),
}

_HERE = "nnunet_mtl.lab.phantoms"

KINDS: Mapping[str, PhantomKind] = {
    "organs": PhantomKind(
        summary="CT-like abdomen, each case annotated for one of five tasks: the partially labelled methods",
        dataset="Phantom",
        options=f"{_HERE}.organs_cases.PhantomOptions",
        writer=f"{_HERE}.organs_dataset.write_phantom_dataset",
        arguments=_ORGANS,
    ),
    "gastric": PhantomKind(
        summary="CT of a gastric tumour, and a node status that only the lymph nodes tell: MA-MTLN",
        dataset="PhantomGastric",
        options=f"{_HERE}.gastric.GastricOptions",
        writer=f"{_HERE}.gastric.write_gastric_dataset",
        arguments=_GASTRIC,
    ),
    "ultrasound": PhantomKind(
        summary="breast ultrasound in 2D, a lesion and its malignancy: ACSNet",
        dataset="PhantomUltrasound",
        options=f"{_HERE}.ultrasound.UltrasoundOptions",
        writer=f"{_HERE}.ultrasound.write_ultrasound_dataset",
        arguments=_ULTRASOUND,
    ),
    "nested": PhantomKind(
        summary="brain MR in four sequences, whole tumour around core around enhancing: OM-Net",
        dataset="PhantomNested",
        options=f"{_HERE}.nested.NestedOptions",
        writer=f"{_HERE}.nested.write_nested_dataset",
        arguments=_NESTED,
    ),
    "dose": PhantomKind(
        summary="CT with a radiation dose to predict voxel by voxel: CTAN, MTAN, HPS",
        dataset="PhantomDose",
        options=f"{_HERE}.dose.DoseOptions",
        writer=f"{_HERE}.dose_dataset.write_dose_dataset",
        arguments=_DOSE,
    ),
}
