"""Reading nnU-Net's `dataset_fingerprint.json`: the properties of the images that experiments are planned by."""

import json
from pathlib import Path
from typing import Any

from nnunet_mtl.common.messages import one_line
from nnunet_mtl.datasets.raw_dataset import RawDatasetError

FINGERPRINT_NAME = "dataset_fingerprint.json"


def read_fingerprint(path: Path) -> dict[str, Any]:
    """Read `dataset_fingerprint.json` without checking the content.

    Raises:
        RawDatasetError: If the file cannot be read or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = one_line(error)
    else:
        if isinstance(content, dict):
            return content
        problem = "it holds no object"
    number = path.parent.name[7:10]
    raise RawDatasetError(
        f"{path}: is no fingerprint ({problem}); delete it and run nnUNetv2_extract_fingerprint -d {number}"
    )
