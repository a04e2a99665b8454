"""Differences of two plans in the keys that training or prediction reads, inheritance resolved.

All keys are compared but those that nnU-Net writes and never reads again. A key that a later nnU-Net adds is compared
too: a refusal is safer than a mixture of two models.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_mtl.common.messages import key_path

# The name of the results folder has data set and plans; the other keys describe the data that the planner saw.
_UNREAD = {
    "configurations",
    "continue_training",
    "dataset_name",
    "experiment_planner_used",
    "nnunet_mtl",
    "original_median_shape_after_transp",
    "original_median_spacing_after_transp",
    "plans_name",
}
_UNREAD_OF_CONFIGURATION = {"inherits_from", "median_image_size_in_voxels"}
# Prediction reads neither batches nor preprocessed files; the next stage of a cascade matters to that stage only.
_OF_TRAINING = {"batch_dice", "batch_size", "data_identifier", "next_stage"}
_LABELS = ("labels", "regions_class_order", "channel_names")
_MOST = 4
_LONGEST = 60
_MISSING = "missing"


class Difference(NamedTuple):
    """A key with different values, and the two values as text."""

    key: str
    first: str
    second: str


def plan_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], configuration: str, *, training: bool
) -> list[Difference]:
    """Compare two plans in one configuration, the compact `nnunet_mtl` block included.

    Args:
        first: Plans, as in `plans.json` or in a checkpoint.
        second: Plans of the same form.
        configuration: Name of the configuration.
        training: Whether keys count that only training reads: batches, preprocessed files and settings. The
            architecture, which contains the settings of the network, always counts.
    """
    first, second = _jsonable(first), _jsonable(second)
    unread = set() if training else {"settings"}
    block = _compared("nnunet_mtl", *(_without(plans.get("nnunet_mtl") or {}, unread) for plans in (first, second)))
    rest = _compared("", *(_without(plans, _UNREAD) for plans in (first, second)))
    unread = _UNREAD_OF_CONFIGURATION | (set() if training else _OF_TRAINING)
    resolved = [_without(_resolved(plans, configuration), unread) for plans in (first, second)]
    return [*block, *_compared(configuration, *resolved), *rest]


def label_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Compare the labels and channels of two `dataset.json`, their order included."""
    first, second = _jsonable(first), _jsonable(second)
    return list(_compared("", *({key: content.get(key) for key in _LABELS} for content in (first, second))))


def described(differences: Sequence[Difference], first: str, second: str) -> str:
    """Describe differences in one line: the first four, and the number of the others.

    Args:
        differences: At least one difference.
        first: Place of the first values, such as "in the checkpoint".
        second: Place of the second values, such as "in plans.json".
    """
    texts = [f"{item.key} is {item.first} {first} and {item.second} {second}" for item in differences[:_MOST]]
    more = len(differences) - _MOST
    return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")


def _resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    if configuration not in plans.get("configurations", {}):
        return {}
    resolved: dict[str, Any] = PlansManager(dict(plans)).get_configuration(configuration).configuration
    return resolved


def _jsonable(value: Any) -> Any:
    """Return the value as JSON returns it after writing and reading: tuples become lists."""
    return json.loads(json.dumps(value, default=repr))


def _without(content: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _compared(path: str, first: Any, second: Any) -> Iterator[Difference]:
    """Yield the differences of two JSON values, or of the values inside two containers."""
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() == second.keys() and list(first) != list(second) and _order_counts(path):
            yield Difference(f"the order of {path}", _short(list(first)), _short(list(second)))
        for name in [*first, *(name for name in second if name not in first)]:
            yield from _compared(key_path(path, name), first.get(name, ...), second.get(name, ...))
    elif _are_long_lists(first, second):
        for number, items in enumerate(zip(first, second, strict=True)):
            yield from _compared(f"{path}[{number}]", *items)
    elif first != second and json.dumps(first, default=repr) != json.dumps(second, default=repr):  # NaN is not itself
        yield Difference(path, _short(first), _short(second))


def _order_counts(path: str) -> bool:
    """Return whether the order of an object's keys has a meaning."""
    return path in ("labels", "nnunet_mtl.tasks", "nnunet_mtl.classification")


def _are_long_lists(first: Any, second: Any) -> bool:
    both = isinstance(first, list) and isinstance(second, list) and len(first) == len(second)
    return both and max(len(repr(first)), len(repr(second))) > _LONGEST


def _short(value: Any) -> str:
    text = _MISSING if value is ... else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]}...{text[-1]}"
