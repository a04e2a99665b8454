"""Reading a label map file, with every check that does not depend on the label values."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import one_line
from nnunet_mtl.datasets.file_integrity import file_problem


class LabelFileError(UserError):
    """A file is missing, incomplete or no label map; the message is one line that starts with the path."""


class LabelFile(NamedTuple):
    """A label map as nnU-Net's reader returns it.

    Attributes:
        labels: Label values in the stored data type, (Z, Y, X); one slice for a 2D image.
        properties: Properties of the grid.
    """

    labels: npt.NDArray[Any]
    properties: dict[str, Any]


def read_label_file(path: Path, reader: Any) -> LabelFile:
    """Read a label map.

    nnU-Net's readers take a fourth axis and the colours of a picture for channels, and fill a truncated file with
    zeros. Such files are refused.

    Args:
        path: The file.
        reader: nnU-Net's reader of the data set.

    Raises:
        LabelFileError: If the file is missing or incomplete, cannot be read, or holds more than one map.
    """
    if not path.is_file():
        raise LabelFileError(f"{path}: is not there; write or predict it")
    if problem := file_problem(path):
        raise LabelFileError(f"{path}: cannot be read ({problem}); copy, write or predict it again")
    try:
        stored, properties = reader.read_seg(str(path))
    except Exception as error:  # noqa: BLE001 - readers raise any error, and all other files have to be checked too
        raise LabelFileError(f"{path}: cannot be read ({one_line(error)}); write it again") from None
    if stored.shape[0] != 1:
        raise LabelFileError(
            f"{path}: holds {stored.shape[0]} channels or time points, a label map has one; write the labels alone, "
            "without a fourth axis or colours"
        )
    # A fourth axis of length one shows in SimpleITK's origin, not in the shape of the values.
    axes = len(properties.get("sitk_stuff", {}).get("origin", ()))
    if axes > len(stored[0].shape):
        raise LabelFileError(f"{path}: has {axes} axes, a label map has 3 at most; write it without the fourth")
    return LabelFile(stored[0], properties)
