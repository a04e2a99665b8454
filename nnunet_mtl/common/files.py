"""JSON files: written whole while other processes read them, and where the one about references lies."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, key order kept, so that a reader finds the old file or the new one and never a part of it.

    Raises:
        OSError: If the folder cannot be written to; the old file is then unchanged and nothing is left beside it.
        TypeError: If `value` is not JSON-able; likewise.
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
    """Return where the `dataset.json` with the cases of a folder of references is kept: `labelsTs.json` of `labelsTs`.

    It lies beside the folder: nnU-Net takes every file inside one for a label map.
    """
    folder = Path(os.path.abspath(references))  # a name also for "."
    return folder.with_name(f"{folder.name}.json")
