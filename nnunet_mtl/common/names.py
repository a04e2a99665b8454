"""Rules for names that become names of files, folders or columns, so that they are valid on every file system.

The rules are not for names of cases, which are names of files already: what nnU-Net accepts stays valid.
"""

import unicodedata
from collections.abc import Iterable

_MOST_CHARACTERS = 120
_MOST_BYTES = 200  # file systems allow 255, and names get prefixes and endings


def name_problem(name: str) -> str:
    """Return what a name must be and is not, as words that follow "the name"; empty for a valid name."""
    if not name or not name.isprintable():
        return "must consist of printable characters"
    if "/" in name or "\\" in name:
        return "must not contain a slash or a backslash"
    if name in (".", ".."):
        return 'must not be "." or ".."'
    if name != name.strip():
        return "must not start or end with a blank"
    if len(name) > _MOST_CHARACTERS:
        return f"must not be longer than {_MOST_CHARACTERS} characters, and has {len(name)}"
    n_bytes = len(name.encode("utf-8", "surrogatepass"))
    if n_bytes > _MOST_BYTES:
        return f"must not be longer than {_MOST_BYTES} bytes in UTF-8, and has {n_bytes}"
    return ""


def same_on_disk(name: str) -> str:
    """Return a form that is equal for names that differ only in case or Unicode form.

    Some file systems take such names for the same name.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def twins(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that differ only in case or Unicode form; None if there are no such two."""
    known: dict[str, str] = {}
    for name in names:
        first = known.setdefault(same_on_disk(name), name)
        if first != name:
            return first, name
    return None
