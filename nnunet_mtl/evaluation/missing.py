"""Means, ranks and JSON of numbers of which some are not available (NaN): never averaged in, never written."""

import math
from collections.abc import Iterable, Mapping


def mean_of_present(values: Iterable[float]) -> float:
    """Return the mean of the values that are there, NaN where none is."""
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def ranked(values: Mapping[str, float]) -> list[str]:
    """Return the keys that have a value, from the lowest to the highest; equal ones by name."""
    present = [key for key, value in values.items() if not math.isnan(value)]
    return sorted(present, key=lambda key: (values[key], key))


def json_number(value: float) -> float | None:
    """Return a number as JSON has it: null where it is not available."""
    return None if math.isnan(value) else value
