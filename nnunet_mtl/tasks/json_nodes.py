"""A JSON value with its file and key path, so that every error message names both."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, key_path, listed, shown
from nnunet_mtl.common.names import name_problem, twins


class TaskSetError(UserError):
    """`dataset.json` or its `nnunet_mtl` block is invalid, or the block lacks a case."""


@dataclass(frozen=True)
class Node:
    """A JSON value of any type with its place; every method checks the value and raises TaskSetError.

    Attributes:
        source: Name of the file, for messages.
        path: Key path in the file, such as `nnunet_mtl.tasks.liver.regions[1]`.
        value: The value itself, of any type.
    """

    source: str
    path: str
    value: Any

    def error(self, problem: str) -> TaskSetError:
        """Return an error that names the place; `problem` says what is wrong and what to do."""
        place = f"{self.source}: {self.path}" if self.path else self.source
        return TaskSetError(f"{place}: {problem}")

    def members(self, keys: str) -> dict[str, "Node"]:
        """Return the values of an object with any keys; `keys` describes the keys in the message."""
        if not isinstance(self.value, Mapping):
            raise self.error(f"must be an object with {keys} as keys, is {shown(self.value)}")
        children = {}
        for key, value in self.value.items():
            Node(self.source, self.path, key)._require_name("every key")
            children[key] = Node(self.source, key_path(self.path, key), value)
        return children

    def fields(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, "Node"]:
        """Return the values of an object with fixed keys; unknown and missing keys are refused."""
        known = (*required, *optional)
        children = self.members(" and ".join(f'"{key}"' for key in required))
        for key, child in children.items():
            if key not in known:
                raise child.error(f"unknown key{did_you_mean(key, known)}; remove it or write one of {listed(known)}")
        for key in required:
            if key not in children:
                raise self.error(f'"{key}" is missing; add it')
        return children

    def items(self, content: str) -> list["Node"]:
        """Return the entries of a list; `content` describes the entries in the message."""
        if not isinstance(self.value, list | tuple):
            raise self.error(f"must be a list of {content}, is {shown(self.value)}")
        return [Node(self.source, f"{self.path}[{i}]", value) for i, value in enumerate(self.value)]

    def name(self) -> str:
        """Return a non-empty string of printable characters."""
        self._require_name("the value")
        return str(self.value)

    def names(self, content: str) -> dict[str, "Node"]:
        """Return a list of different strings as a dictionary from string to its place."""
        places: dict[str, Node] = {}
        for item in self.items(content):
            name = item.name()
            if name in places:
                raise item.error(f"{shown(name)} is listed twice; remove one")
            places[name] = item
        return places

    def known_name(self, known: Collection[str], what: str) -> str:
        """Return a string that is in `known`; `what` is the kind of name in the message, in the singular."""
        name = self.name()
        if name not in known:
            remedy = f"write one of {listed(known)}" if known else f"there is no {what} here, so remove it"
            raise self.error(f"unknown {what} {shown(name)}{did_you_mean(name, known)}; {remedy}")
        return name

    def integer(self, expected: str = "an integer") -> int:
        """Return an integer; booleans and floats such as 1.0 are refused."""
        if type(self.value) is not int:
            raise self.error(f"must be {expected}, is {shown(self.value)}; write it without quotes or decimal point")
        return self.value

    def _require_name(self, what: str) -> None:
        if not isinstance(self.value, str):
            raise self.error(f"{what} must be a string, is {shown(self.value)}; write a name in quotes")
        if not self.value or not self.value.isprintable():
            raise self.error(f"{what} must be a name of printable characters, is {shown(self.value)}; rename it")


def require_file_names(places: Mapping[str, Node], what: str) -> None:
    """Refuse names that are no valid file names, or differ only in case or Unicode form.

    Args:
        places: Names with their places.
        what: What the names are names of, in the singular with its article, for the message.

    Raises:
        TaskSetError: For the first such name.
    """
    for name, place in places.items():
        if problem := name_problem(name):
            raise place.error(f"the name of {what} {problem}; rename it")
    if pair := twins(places):
        raise places[pair[1]].error(
            f"differs from {shown(pair[0])} only in case or Unicode form, which some file systems do not tell apart; "
            "rename one of them"
        )
