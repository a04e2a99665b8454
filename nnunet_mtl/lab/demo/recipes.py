"""The numbers of the demonstrations: options of the data, size of the network, length of the training."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one demonstration.

    Attributes:
        dataset: Name of the data set.
        patch_size: In voxels, in the axis order of the plans.
        features: Channels of every stage, full resolution first.
        settings: Settings that differ from the defaults.
        fold: The fold that nnU-Net trains, or "all".
        folds: Number of folds; the more folds, the fewer cases are left out of training.
        phantom: Arguments of `nnunet_mtl phantom`.
        planning: Arguments of `nnUNetv2_plan_and_preprocess`.
        parts: nnU-Net's `-num_parts` divides the test images into so many parts; only the first part is segmented.
        answering: Arguments of `nnunet_mtl predict`, which answers the question for every test image; empty if the data
            set has no question.
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

# Only the liver is decoded, and patches do not overlap: a class needs no sharp border.
_ANSWERING = ("--tasks", "liver", "-step_size", "1")

PHANTOM = Recipe(
    dataset="Phantom",
    patch_size=(24, 32, 48),  # as wide as the body, so that its left and right side are in one patch
    features=(16, 32, 64, 96),
    batch_size=2,
    # No mirroring: a network needs more than these minutes to learn mirrored bodies.
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
        # Every patient has a class, with or without a segmentation; each class has two dozen test patients.
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
