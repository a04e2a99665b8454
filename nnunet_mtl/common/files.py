"""JSON files that are replaced as a whole while other processes read them, and the place of `labelsTs.json`."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, key order kept; a reader finds the old file or the new file, never a part of a file.

    Raises:
        OSError: If the folder cannot be written to; the old file is then unchanged and nothing is left beside it.
        TypeError: If `value` is not JSON-able; the old file is then unchanged too.
    """
    # A link keeps its place: what it points at is replaced. The temporary file is opened by name and not by tempfile,
    # whose files only their owner can read.
    target = path.resolve()
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=4)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def references_table(references: Path) -> Path:
    """Return the file that describes the cases of a folder of reference maps, such as `labelsTs.json` for `labelsTs`.

    The file has the form of `dataset.json`. It lies beside the folder, because nnU-Net takes every file inside the
    folder for a label map.
    """
    folder = Path(os.path.abspath(references))  # a name also for "."
    return folder.with_name(f"{folder.name}.json")
