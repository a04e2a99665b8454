"""Swapping a name in one of nnU-Net's modules for the length of one call, where nnU-Net offers no other seam.

This is the only place of the package that assigns into a foreign module; every use of it is listed in
`nnunet_mtl.training.overrides`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def swapped(module: ModuleType, name: str, replacement: Any) -> Iterator[Any]:
    """Let `module.name` be `replacement` inside the `with` block, and what it was afterwards, errors included.

    Yields:
        What the name stood for before.

    Raises:
        AttributeError: If the module has no such name: upstream has changed.
    """
    original = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield original
    finally:
        setattr(module, name, original)
