"""What this package keeps inside a checkpoint file, beside what nnU-Net writes there.

A checkpoint is what nnU-Net exports, copies and loads by name; what belongs to its weights and lies in another file is
lost on that way, or ends up beside other weights.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_mtl.inference.model_folder import OUR_CONTENT, ModelFolderError, read_checkpoint


def add_to_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint file anew with more of our content, so that a reader finds the old file or the new one.

    Args:
        path: The checkpoint, as nnU-Net or this package wrote it.
        content: By name: numbers, strings, booleans, tensors, and lists and dictionaries of them. What the checkpoint
            holds under other names stays.

    Raises:
        ModelFolderError: If the file is no checkpoint, or cannot be written; the old file is then unchanged and nothing
            is left beside it.
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
    except (OSError, RuntimeError) as error:  # torch has its own for a full disk
        problem = " ".join(str(error).split())
        raise ModelFolderError(f"{path}: cannot be written anew ({problem}); free some space, then validate") from None
    finally:
        aside.unlink(missing_ok=True)
