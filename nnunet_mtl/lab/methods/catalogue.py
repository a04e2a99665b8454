"""The trainers that are methods, found in their folders; the papers they follow are read from their docstrings."""

import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.discovery.leaves import announced_trainers, leaves
from nnunet_mtl.training.trainer import MultiTaskTrainer

# An author, what follows the name, and the last year of the same sentence part with the venue before it.
_CITATION = re.compile(
    r"(?:[Aa]fter |\()(?P<first>[A-Z][a-z]+)(?P<more> et al\.| and [A-Z][a-z]+|, )"
    r"[^()]*?(?P<venue>[A-Z]{2,} )?(?P<year>(?:19|20)\d\d)\b"
)


@dataclass(frozen=True)
class Method:
    """A trainer and what the docstring of its file says.

    Attributes:
        trainer: The class.
        title: First paragraph of the docstring, on one line.
        source: The rest of the docstring, on one line; names the papers.
    """

    trainer: type[Any]
    title: str
    source: str

    @property
    def name(self) -> str:
        """The trainer's name, as given to `-tr`."""
        return self.trainer.__name__

    @property
    def paper(self) -> str:
        """Author, venue and year of each work that `source` names; "own" if the method follows none."""
        found = [_short(match) for match in _CITATION.finditer(self.source)]
        if self.source.startswith("Own ") or not found:
            return ", after ".join(["own", *found])
        return "; ".join(found)

    @property
    def is_multi_task(self) -> bool:
        """Whether the trainer learns to segment several tasks.

        The controls do not: nnU-Net's own trainer with our schedule knows no task, another one learns the image-level
        questions alone.
        """
        return issubclass(self.trainer, MultiTaskTrainer) and self.trainer.segments


def package_trainers() -> tuple[Method, ...]:
    """Return every trainer of this package, the controls too, by name."""
    return _described(leaves("nnunet_mtl.trainers").values())


def package_methods() -> tuple[Method, ...]:
    """Return every trainer of this package that learns to segment several tasks, by name."""
    return tuple(method for method in package_trainers() if method.is_multi_task)


def methods() -> tuple[Method, ...]:
    """Return the package's methods, and behind them those that `nnUNet_extTrainer` announces.

    Raises:
        DiscoveryError: If a file in a folder of `nnUNet_extTrainer` cannot be imported.
    """
    known = package_methods()
    names = {method.name for method in known}
    others = [method for method in _described(announced_trainers().values()) if method.is_multi_task]
    return (*known, *(method for method in others if method.name not in names))


def _described(trainers: Iterable[type[Any]]) -> tuple[Method, ...]:
    found = []
    for trainer in trainers:
        leaf = sys.modules.get(trainer.__module__)
        # nnU-Net forgets a class that a folder of `nnUNet_extTrainer` defines, instead of re-exporting it
        text = (leaf.__doc__ if leaf else trainer.__doc__) or ""
        title, *rest = inspect.cleandoc(text).split("\n\n")
        found.append(Method(trainer, " ".join(title.split()), " ".join(" ".join(rest).split())))
    return tuple(sorted(found, key=lambda method: method.name))


def _short(match: re.Match[str]) -> str:
    authors = match["first"] + (match["more"] if " and " in match["more"] else " et al.")
    return f"{authors}, {match['venue'] or ''}{match['year']}"
