"""The folder of a trained model, found by the names of its parts."""

from pathlib import Path

from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed


class ModelLocationError(UserError):
    """Data set, trainer, plans and configuration name no trained model."""


def results_folder(dataset: str, trainer: str, plans: str, configuration: str) -> Path:
    """Return `$nnUNet_results/DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION`.

    Args:
        dataset: Id or name of the data set.
        trainer: Class name of the trainer.
        plans: Name of the plans.
        configuration: Name of the configuration, such as `3d_fullres`.

    Raises:
        ModelLocationError: If the variable is not set or there is no such folder; the message names existing folders.
    """
    if not nnUNet_results.is_set():
        raise ModelLocationError(
            "nnUNet_results is not set; set it to the folder of the trained models, or give -m FOLDER"
        )
    root = Path(nnUNet_results)
    datasets = sorted(path.name for path in root.glob("Dataset*"))
    try:
        of_dataset = root / str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError):  # nnU-Net's message has many lines
        similar = did_you_mean(dataset, datasets)
        raise ModelLocationError(
            f"-d {dataset}: is not the id of one data set in {root}{similar}; there are {listed(datasets) or 'none'}"
        ) from None
    if not of_dataset.is_dir():
        similar = did_you_mean(of_dataset.name, datasets)
        raise ModelLocationError(f"{of_dataset}: no such folder{similar}; train a model of -d {dataset} first")
    folder = of_dataset / f"{trainer}__{plans}__{configuration}"
    if not folder.is_dir():
        known = sorted(path.name for path in of_dataset.glob("*__*__*"))
        similar = did_you_mean(folder.name, known)
        raise ModelLocationError(
            f"{folder}: no such model{similar}; see -tr, -p and -c: {of_dataset.name} has {listed(known) or 'none'}"
        )
    return folder
