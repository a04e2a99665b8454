"""Means, ranks and JSON of numbers where NaN stands for a missing value: left out of means, null in JSON."""

import math
from collections.abc import Iterable, Mapping


def mean_of_present(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def ranked(values: Mapping[str, float]) -> list[str]:
    """Return the keys whose value is not NaN, from the lowest to the highest value; keys of equal values by name."""
    present = [key for key, value in values.items() if not math.isnan(value)]
    return sorted(present, key=lambda key: (values[key], key))


def json_number(value: float) -> float | None:
    """Return None, which JSON writes as null, in place of NaN; any other number unchanged."""
    return None if math.isnan(value) else value
