"""Voxel-wise regression tasks of the `nnunet_mtl` block: `"dose": {"type": "regression", "channel": 1, ...}`.

A label file holds integers, so a continuous target is stored as an image channel. Target channels are the last of
`channel_names`; training and prediction cut them off and keep the image.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.common.messages import listed, shown
from nnunet_mtl.tasks.json_nodes import Node

TYPE = "regression"
CHANNEL_NAME = "noNorm"  # nnU-Net's name, in any case, of a channel that it does not normalise
_LARGEST = 1e30  # a margin below the largest value of single precision, 3.4e38


@dataclass(frozen=True)
class RegressionTask:
    """A task that predicts a continuous value in every voxel.

    Attributes:
        name: Key of the task in `tasks`.
        channel: Number of the image channel that holds the target; a case without target has zeros in the channel.
        inside: The region in which the value is learnt, in cases with that region annotated; None for everywhere.
        scale: The value, in the target's unit, that the network's output 1 stands for; None to take it from the plans.
    """

    name: str
    channel: int
    inside: str | None = None
    scale: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the value of this task's key."""
        inside = {} if self.inside is None else {"inside": self.inside}
        scale = {} if self.scale is None else {"scale": self.scale}
        return {"type": TYPE, "channel": self.channel, **inside, **scale}


def is_regression(node: Node) -> bool:
    """Return whether a task has the type "regression"; other keys are not checked."""
    return isinstance(node.value, Mapping) and node.value.get("type") == TYPE


def parse_regressions(
    tasks: Mapping[str, Node], regions: Collection[str], dataset: Node, *, may_be_cut: bool
) -> tuple[RegressionTask, ...]:
    """Read the regression tasks of `tasks`, in the order of the file.

    Args:
        tasks: All tasks by name.
        regions: Names of the data set's regions.
        dataset: The whole file, whose `channel_names` must hold the target channels.
        may_be_cut: Whether `channel_names` may lack the target channels, as in the copies saved with trained models.

    Raises:
        TaskSetError: If a regression task or its channel is invalid.
    """
    places = {name: node for name, node in tasks.items() if is_regression(node)}
    regressions = tuple(_parse(name, node, regions) for name, node in places.items())
    if regressions:
        _check_channels(regressions, places, _channel_names(dataset), may_be_cut=may_be_cut)
    return regressions


def _parse(name: str, node: Node, regions: Collection[str]) -> RegressionTask:
    for key in ("regions", "slots", "parent", "overlaps"):
        if key in node.value:
            place = Node(node.source, f"{node.path}.{key}", None)
            raise place.error('a task of type "regression" has no such key; remove it, or write "type": "segmentation"')
    fields = node.fields(("type", "channel"), ("inside", "scale"))
    inside = fields["inside"].known_name(regions, "region") if "inside" in fields else None
    scale = _positive(fields["scale"]) if "scale" in fields else None
    return RegressionTask(name, fields["channel"].integer("the number of an image channel"), inside, scale)


def _positive(node: Node) -> float:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST:
        raise node.error(f"must be a positive number, is {shown(value)}; write a typical large value of the target")
    return float(value)


def _channel_names(dataset: Node) -> dict[str, Node]:
    content = dataset.members("nnU-Net's names")
    for key in ("channel_names", "modality"):
        if key in content:
            return content[key].members("channel numbers")
    raise dataset.error('"channel_names" is missing; add nnU-Net\'s channel names')


def _channel(node: Node) -> Node:
    return Node(node.source, f"{node.path}.channel", node.value["channel"])


def _check_channels(
    tasks: Sequence[RegressionTask], places: Mapping[str, Node], names: Mapping[str, Node], *, may_be_cut: bool
) -> None:
    owner: dict[int, str] = {}
    for task in tasks:
        place = _channel(places[task.name])
        if task.channel in owner:
            raise place.error(f"channel {task.channel} is that of {shown(owner[task.channel])} too; give each its own")
        owner[task.channel] = task.name
    channels = sorted(owner)
    if may_be_cut and channels == list(range(len(names), len(names) + len(tasks))):
        return
    last = list(range(len(names) - len(tasks), len(names)))
    for task in tasks:
        place = _channel(places[task.name])
        if str(task.channel) not in names:
            raise place.error(f"there is no channel {task.channel}; channel_names has {listed(names)}")
        if task.channel not in last or last[0] < 1:
            raise place.error(
                f"channel {task.channel} is not among the last ones; targets come after all images, renumber the files"
            )
        name = names[str(task.channel)]
        if not isinstance(name.value, str) or name.value.casefold() != CHANNEL_NAME.casefold():
            raise name.error(
                f'is {shown(name.value)}, but a target must not be normalised; name it "{CHANNEL_NAME}" and plan again'
            )
