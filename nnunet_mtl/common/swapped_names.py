"""Swapping a name in one of nnU-Net's modules for one call, where nnU-Net offers no other seam.

This is the only place of the package that assigns into a foreign module; every use of it is listed in
`nnunet_mtl.training.overrides`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def swapped(module: ModuleType, name: str, replacement: Any) -> Iterator[Any]:
    """Let `module.name` be `replacement` inside the `with` block; the original comes back at its end, errors included.

    Yields:
        The original.

    Raises:
        AttributeError: If the module has no such name: upstream has changed.
    """
    original = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield original
    finally:
        setattr(module, name, original)


class UntilCalled:
    """Stands for a function of a module until the function is called, or `put_back` is.

    nnU-Net calls some functions right after a method of this package has returned, where no `with` block reaches.

    Args:
        module: The module of nnU-Net.
        name: Name of the function.
        replacement: Called once, with the original function and then the arguments of the call.

    Raises:
        AttributeError: If the module has no such name: upstream has changed.
    """

    def __init__(self, module: ModuleType, name: str, replacement: Callable[..., Any]) -> None:
        present = getattr(module, name)
        self._module, self._name, self._replacement = module, name, replacement
        # the original is never another UntilCalled, which would then come back after its time
        self._original: Any = present._original if isinstance(present, UntilCalled) else present
        setattr(module, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Put the original back and call the replacement."""
        self.put_back()
        return self._replacement(self._original, *args, **kwargs)

    def put_back(self) -> None:
        """Put the original back, unless the module holds the original or something newer already."""
        if getattr(self._module, self._name) is self:
            setattr(self._module, self._name, self._original)
