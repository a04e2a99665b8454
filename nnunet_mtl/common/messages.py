"""Values and names as they appear in error messages: short, on one line, whatever the value is."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST = 60
_MOST_NAMES = 12


def shown(value: Any) -> str:
    """Describe any JSON value in one short line. Containers are described by kind and length, whatever they hold."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)} keys" if value else "an empty object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print integers of thousands of digits
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]}...{text[-1]}"


def listed(names: Iterable[str]) -> str:
    """Join names with commas. After the first twelve names only the number of the others follows."""
    spelt_names = [spelt(name) for name in names]
    n_more = len(spelt_names) - _MOST_NAMES
    return ", ".join(spelt_names[:_MOST_NAMES]) + (f" and {n_more} more" if n_more > 0 else "")


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return ` (did you mean NAME?)` with the known name that is most like a wrong name; empty if none is like it.

    If no known name is similar as a whole, a known name that contains the wrong name counts: 3d_fullres for 3d.
    """
    if not isinstance(name, str):  # from a JSON file
        return ""
    folded: dict[str, str] = {}
    for other in known:
        folded.setdefault(other.casefold(), other)
    word = name.casefold()
    close = difflib.get_close_matches(word, folded, n=1) or [name for name in folded if len(word) > 1 and word in name]
    return f" (did you mean {spelt(folded[close[0]])}?)" if close else ""


def spelt(name: str) -> str:
    """Return a plain name unchanged, and any other name quoted, escaped and cut to one short line."""
    if re.fullmatch(r"[\w-]{1,60}", name):
        return name
    return quoted(name)


def quoted(name: str) -> str:
    """Return a name as it is written in JSON, cut to one short line."""
    short = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
    return json.dumps(short, ensure_ascii=not short.isprintable())


def key_path(path: str, key: str) -> str:
    """Append a key to a path such as `nnunet_mtl.tasks`. A key that is not a plain name stands in brackets."""
    name = spelt(key)
    if name != key:
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type where it has none.

    SimpleITK's messages begin with places in its source, which are left out.
    """
    text = " ".join(str(error).split())
    return re.sub(r".*(ITK ERROR|sitk::ERROR): ", "", text) or type(error).__name__
