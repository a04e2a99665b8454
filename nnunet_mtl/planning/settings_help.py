"""The list of settings for `nnunet_mtl plan --set help`, made from the docstring and the types of `Settings`."""

import dataclasses
import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nnunet_mtl.tasks.settings import Settings


def settings_help() -> str:
    """Return two lines for every setting: `NAME=DEFAULT (allowed values)`, and the meaning."""
    kinds, meanings = get_type_hints(Settings), _meanings()
    defaults = {setting.name: setting.default for setting in dataclasses.fields(Settings)}
    lines = []
    for name in dict.fromkeys([*meanings, *defaults]):
        default = str(defaults[name]).lower() if isinstance(defaults[name], bool) else defaults[name]
        lines.append(f"{name}={default} ({_kind(kinds[name])})")
        lines += [f"    {meanings[name]}"] if name in meanings else []
    return "\n".join(lines)


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]


def _meanings() -> dict[str, str]:
    """Return the meaning of every setting from the docstring of `Settings`; empty if Python drops docstrings (-OO)."""
    text = (Settings.__doc__ or "").partition("Attributes:")[2]
    items = re.findall(r"^ {8}(\w+): (.*(?:\n {12,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in items}
