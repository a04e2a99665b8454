"""Writes content of this package into a checkpoint file, beside nnU-Net's content.

nnU-Net exports, copies and loads checkpoints by name. What belongs to the weights but lies in another file would be
lost or end up beside other weights.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_mtl.inference.model_folder import OUR_CONTENT, ModelFolderError, read_checkpoint


def add_to_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Add content of this package to a checkpoint; a reader finds the old file or the new file, never a part of a file.

    Args:
        path: Path of a checkpoint of nnU-Net or of this package.
        content: Values by name: numbers, strings, booleans, tensors, and lists and dictionaries of them. Content of the
            checkpoint under other names stays.

    Raises:
        ModelFolderError: If the file is not a checkpoint, or cannot be written. The old file is then unchanged, and
            nothing is left beside it.
    """
    checkpoint = read_checkpoint(path)
    checkpoint[OUR_CONTENT] = {**checkpoint.get(OUR_CONTENT, {}), **content}
    target = path.resolve()  # a link keeps its place
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        problem = " ".join(str(error).split())
        raise ModelFolderError(f"{path}: cannot be written anew ({problem}); free some space, then validate") from None
    finally:
        aside.unlink(missing_ok=True)
