"""Reads the embeddings of regions, such as encoded names, from a file."""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_mtl.common.messages import listed, shown, spelt
from nnunet_mtl.networks.clip_driven.region_embedding_head import EmbeddingError
from nnunet_mtl.tasks.settings import Settings


def read_region_embedding(path: str | Path, regions: Sequence[str]) -> Tensor:
    """Read the embeddings of regions from a file.

    Args:
        path: `.npz` file with an array (E,), or `.json` file with a list of E numbers, for the name of every region in
            `dataset.json`. Other names are ignored.
        regions: Names of the regions, in the order of the network's output channels.

    Returns:
        The embeddings as in the file, (R, E) float32.

    Raises:
        EmbeddingError: If the file cannot be read, a region is missing, is no list of numbers, is not finite or all
            zero, or the lengths differ.
    """
    source = Path(path)
    content = _read(source, regions)
    missing = [region for region in regions if region not in content]
    if missing:
        raise EmbeddingError(f"{source}: no embedding of {listed(missing)}; add it under the name of dataset.json")
    rows = [_row(source, region, content[region]) for region in regions]
    for region, row in zip(regions, rows, strict=True):
        if len(row) != len(rows[0]):
            raise EmbeddingError(
                f"{source}: the embedding of {spelt(region)} has {len(row)} numbers, that of {spelt(regions[0])} "
                f"{len(rows[0])}; embed all regions with one model"
            )
    return torch.stack(rows)


def embedding_options(settings: Settings, regions: Sequence[str]) -> dict[str, Any]:
    """Return the options of `RegionEmbeddingHead` that the settings ask for, JSON-able.

    Raises:
        EmbeddingError: If a file with embeddings is set, but is invalid or lacks a region.
    """
    kind, size = settings.region_embedding, settings.region_embedding_size
    if kind == "file":
        size = read_region_embedding(settings.region_embedding_file, regions).shape[1]
    return {"embedding": kind, "embedding_size": size}


def _read(path: Path, regions: Sequence[str]) -> Mapping[str, Any]:
    kind = path.suffix.lower()
    if kind not in (".npz", ".json"):
        raise EmbeddingError(f"{path}: must be a .npz or .json file; write one embedding per region into such a file")
    try:
        content = _read_npz(path, regions) if kind == ".npz" else json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EmbeddingError(f"{path}: cannot be read ({error.strerror or 'damaged'}); check the path") from None
    except (ValueError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error):
        raise EmbeddingError(f"{path}: is no valid {kind} file of numbers; write it again") from None
    if not isinstance(content, Mapping):
        raise EmbeddingError(f"{path}: must hold an object of lists by region, holds {shown(content)}; write it so")
    return content


def _read_npz(path: Path, regions: Sequence[str]) -> dict[str, Any]:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("no archive")  # numpy would try other formats
        with np.load(file, allow_pickle=False) as arrays:
            return {region: arrays[region] for region in regions if region in arrays}


def _row(path: Path, region: str, value: Any) -> Tensor:
    try:
        array = np.asarray(value)
    except ValueError:  # nested lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        raise EmbeddingError(f"{path}: the embedding of {spelt(region)} must be a list of numbers; write it so")
    row = torch.from_numpy(array.astype(np.float64)).float()
    if not bool(row.isfinite().all()) or not bool(row.any()):
        raise EmbeddingError(
            f"{path}: the embedding of {spelt(region)} is all zero or has numbers that are not finite; compute it again"
        )
    return row
