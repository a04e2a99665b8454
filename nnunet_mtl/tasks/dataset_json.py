"""Reads and writes `dataset.json` without changing the order of keys, because `labels` orders nnU-Net's regions."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_mtl.common.messages import key_path, shown
from nnunet_mtl.tasks.json_nodes import Node


def read_dataset_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a `dataset.json` as JSON, without a check of labels or block.

    Raises:
        TaskSetError: If the file cannot be read, is no JSON object, or an object in the file has a key twice.
    """
    root = Node(str(path), "", None)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_object)
    except OSError as error:
        raise root.error(f"cannot be read ({error.strerror}); check the path") from None
    except RecursionError:
        raise root.error("is nested too deeply to be read; correct it") from None
    except ValueError as error:
        raise root.error(f"is not valid JSON ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(content, dict):
        raise root.error(f"must hold a JSON object, holds {shown(content)}; write nnU-Net's dataset.json")
    _refuse_repeated_keys(root, content)
    return content


def write_dataset_json(path: str | os.PathLike[str], dataset_json: Mapping[str, Any]) -> None:
    """Write a `dataset.json` with the keys in the given order.

    Raises:
        TaskSetError: If the file cannot be written.
    """
    text = json.dumps(dataset_json, indent=4) + "\n"
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Node(str(path), "", None).error(f"cannot be written ({error.strerror}); check the folder") from None


class _WithRepeatedKey(dict[str, Any]):
    """A JSON object in which a key occurs twice; `repeated` is the first such key."""

    repeated: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    marked = _WithRepeatedKey(content)
    marked.repeated = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return marked


def _refuse_repeated_keys(root: Node, content: dict[str, Any]) -> None:
    places = [Node(root.source, "", content)]
    while places:
        place = places.pop()
        if isinstance(place.value, _WithRepeatedKey):
            path = key_path(place.path, place.value.repeated)
            raise Node(root.source, path, None).error("this key is in its object twice; remove one")
        if isinstance(place.value, dict):
            places += [Node(root.source, key_path(place.path, key), value) for key, value in place.value.items()]
        elif isinstance(place.value, list):
            places += [Node(root.source, f"{place.path}[{i}]", value) for i, value in enumerate(place.value)]
