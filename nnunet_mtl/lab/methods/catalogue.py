"""Finds the trainers that are methods, and reads their papers from their docstrings."""

import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.discovery.leaves import announced_trainers, leaves
from nnunet_mtl.training.trainer import MultiTaskTrainer

# Matches an author, the text after the name, and the last year of the same part of the sentence with its venue.
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
        source: The rest of the docstring, on one line; this text names the papers.
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
        citations = [_short(match) for match in _CITATION.finditer(self.source)]
        if self.source.startswith("Own ") or not citations:
            return ", after ".join(["own", *citations])
        return "; ".join(citations)

    @property
    def is_multi_task(self) -> bool:
        """Whether the trainer learns to segment several tasks.

        Two controls do not: nnU-Net's own trainer with the schedule of this package knows no task, and the control
        without a segmentation learns the image-level questions only.
        """
        return issubclass(self.trainer, MultiTaskTrainer) and self.trainer.segments


def package_trainers() -> tuple[Method, ...]:
    """Return every trainer of this package, including the controls, sorted by name."""
    return _described(leaves("nnunet_mtl.trainers").values())


def package_methods() -> tuple[Method, ...]:
    """Return every trainer of this package that learns to segment several tasks, sorted by name."""
    return tuple(method for method in package_trainers() if method.is_multi_task)


def methods() -> tuple[Method, ...]:
    """Return the methods of this package, followed by the methods that `nnUNet_extTrainer` announces.

    Raises:
        DiscoveryError: If a file in a folder of `nnUNet_extTrainer` cannot be imported.
    """
    known = package_methods()
    names = {method.name for method in known}
    others = [method for method in _described(announced_trainers().values()) if method.is_multi_task]
    return (*known, *(method for method in others if method.name not in names))


def _described(trainers: Iterable[type[Any]]) -> tuple[Method, ...]:
    described = []
    for trainer in trainers:
        leaf = sys.modules.get(trainer.__module__)
        # a module in a folder of `nnUNet_extTrainer` that defines its class is not kept in sys.modules
        text = (leaf.__doc__ if leaf else trainer.__doc__) or ""
        title, *rest = inspect.cleandoc(text).split("\n\n")
        described.append(Method(trainer, " ".join(title.split()), " ".join(" ".join(rest).split())))
    return tuple(sorted(described, key=lambda method: method.name))


def _short(match: re.Match[str]) -> str:
    authors = match["first"] + (match["more"] if " and " in match["more"] else " et al.")
    return f"{authors}, {match['venue'] or ''}{match['year']}"
