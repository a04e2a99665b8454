"""The numbers of the demonstrations: what is generated, how large the network is, how long it trains."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One demonstration.

    Attributes:
        dataset: Name of the data set.
        patch_size: Voxels, in the axis order of the plans.
        features: Channels of every stage, full resolution first.
        batch_size: Patches in a batch.
        settings: What differs from the default settings.
        fold: What nnU-Net trains: a fold or "all".
        folds: Number of folds; the more, the fewer cases are left out of training.
        phantom: Words for `nnunet_mtl phantom`.
        planning: Words for `nnUNetv2_plan_and_preprocess`.
        parts: The test images are segmented as nnU-Net's `-num_parts` divides them, and only the first part is.
        answering: Words for `nnunet_mtl predict`, which answers the question for every test image; empty without one.
    """

    dataset: str
    patch_size: tuple[int, ...]
    features: tuple[int, ...]
    batch_size: int
    settings: Mapping[str, object]
    fold: str = "0"
    folds: int = 5
    phantom: tuple[str, ...] = ()
    planning: tuple[str, ...] = ()
    parts: int = 1
    answering: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """Number of epochs, for the progress line."""
        return int(str(self.settings["epochs"]))


# nnU-Net's learning rate and momentum are made for 250,000 iterations; in about a thousand they learn little.
_SHORT = {"initial_lr": 0.05, "momentum": 0.9, "test_time_mirroring": False}

# The liver's pass alone, without overlap: a class needs no sharp border.
_ANSWERING = ("--tasks", "liver", "-step_size", "1")

PHANTOM = Recipe(
    dataset="Phantom",
    patch_size=(24, 32, 48),  # as wide as the body: what lies left and right of it is in one patch
    features=(16, 32, 64, 96),
    batch_size=2,
    # Without mirroring: mirrored bodies are a harder task than these minutes allow.
    settings={
        **_SHORT,
        "epochs": 20,
        "iterations": 125,
        "val_iterations": 6,
        "mirroring": False,
    },
    folds=9,
    phantom=(
        *("--cases_per_task", "12", "--domain_task_coupling", "0", "--contrast_to_noise", "5"),
        *("--tumour_prevalence", "1", "--tumour_radius_mm", "24", "34"),
        # The class is known of every patient, outlined or not; two dozen test patients of each.
        *("--label_all_tasks", "--test_cases", "44"),
    ),
    parts=4,
    answering=_ANSWERING,
)
PHANTOM_QUICK = Recipe(
    dataset="Phantom",
    patch_size=(16, 24, 24),
    features=(4, 8, 8),
    batch_size=2,
    settings={**_SHORT, "epochs": 2, "iterations": 3, "val_iterations": 2},
    folds=2,
    phantom=("--cases_per_task", "3", "--test_cases", "2", "--image_size", "20", "32", "32"),
    answering=_ANSWERING,
)
# Half of the resolution nnU-Net would choose: a chest of 512 x 512 x 61 voxels is then predicted in a minute on a CPU.
_COARSE = ("-overwrite_target_spacing", "6", "1.5", "1.5")

REAL = Recipe(
    dataset="RealScans",
    patch_size=(16, 96, 96),
    features=(8, 16, 32, 48),
    batch_size=2,
    settings={**_SHORT, "epochs": 5, "iterations": 60, "val_iterations": 4},
    fold="all",
    planning=_COARSE,
)
REAL_QUICK = Recipe(
    dataset="RealScans",
    patch_size=(16, 96, 96),
    features=(4, 8, 8),
    batch_size=2,
    settings={**_SHORT, "epochs": 1, "iterations": 3, "val_iterations": 2},
    fold="all",
    planning=_COARSE,
)
