"""Where nnU-Net keeps a trained model, refused in one line where it cannot be said."""

from pathlib import Path

from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_mtl._messages import listed
from nnunet_mtl.errors import UserError


class ModelLocationError(UserError):
    """The words given name no trained model."""


def results_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Return `$nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION`.

    Args:
        dataset: Id or name.
        trainer: Class name of the trainer.
        plans: Name of the plans.
        configuration: Such as `3d_fullres`.

    Raises:
        ModelLocationError: If the variable is not set or there is no such folder; what there is instead is named.
    """
    if not nnUNet_results.is_set():
        raise ModelLocationError(
            "nnUNet_results is not set; set it to the folder of the trained models, or give -m FOLDER"
        )
    root = Path(nnUNet_results)
    try:
        of_dataset = root / str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError):  # nnU-Net's message has many lines
        known = listed(sorted(path.name for path in root.glob("Dataset*"))) or "none"
        raise ModelLocationError(f"-d {dataset}: is not the id of one data set in {root}; there are {known}") from None
    folder = of_dataset / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        known = listed(sorted(path.name for path in of_dataset.glob("*__*__*"))) or "none"
        raise ModelLocationError(f"{folder}: no such model; see -tr, -p and -c: {of_dataset.name} has {known}")
    return folder
