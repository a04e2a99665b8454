"""The trainers that are methods, found by listing their folder; what they are after is read from their docstrings."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass

import nnunet_mtl.trainers
from nnunet_mtl.training.trainer import MultiTaskTrainer

# An author, what follows the name, and the last year of the same sentence part with the venue before it.
_CITATION = re.compile(
    r"(?:[Aa]fter |\()(?P<first>[A-Z][a-z]+)(?P<more> et al\.| and [A-Z][a-z]+|, )"
    r"[^()]*?(?P<venue>[A-Z]{2,} )?(?P<year>(?:19|20)\d\d)\b"
)


@dataclass(frozen=True)
class Method:
    """A trainer and what its file says of itself.

    Attributes:
        trainer: The leaf.
        title: First sentence of its module.
        source: The rest of the module's docstring, on one line: whom it follows.
    """

    trainer: type[MultiTaskTrainer]
    title: str
    source: str

    @property
    def name(self) -> str:
        """The trainer's name, as given to `-tr`."""
        return self.trainer.__name__

    @property
    def paper(self) -> str:
        """Author, venue and year of each work that `source` names, or that there is none."""
        found = [_short(match) for match in _CITATION.finditer(self.source)]
        if self.source.startswith("Own ") or not found:
            return ", after ".join(["own", *found])
        return "; ".join(found)


def methods() -> tuple[Method, ...]:
    """Return every trainer that learns to segment several tasks, by name.

    Not among them are nnU-Net's own trainer with our schedule, which knows no task, and the one that learns the
    image-level questions alone.
    """
    found = []
    for module in pkgutil.iter_modules(nnunet_mtl.trainers.__path__):
        leaf = importlib.import_module(f"nnunet_mtl.trainers.{module.name}")
        trainer = getattr(leaf, module.name)
        if issubclass(trainer, MultiTaskTrainer) and trainer.segments:
            title, *rest = inspect.cleandoc(leaf.__doc__ or "").split("\n\n")
            found.append(Method(trainer, " ".join(title.split()), " ".join(" ".join(rest).split())))
    return tuple(sorted(found, key=lambda method: method.name))


def _short(match: re.Match[str]) -> str:
    authors = match["first"] + (match["more"] if " and " in match["more"] else " et al.")
    return f"{authors}, {match['venue'] or ''}{match['year']}"
