"""Reads nnU-Net's `labels` and `regions_class_order`, and refuses what nnU-Net would misread as regions."""

from dataclasses import dataclass
from functools import reduce
from operator import or_

from nnunet_mtl.common.messages import quoted, shown
from nnunet_mtl.tasks.json_nodes import Node, require_file_names


@dataclass(frozen=True)
class Labels:
    """The output channels of a data set, in nnU-Net's order.

    Attributes:
        regions: Names of the channels.
        region_labels: Label values of every channel, ascending.
        regions_class_order: The value that nnU-Net paints for every region; empty without regions.
        ignore_label: nnU-Net's ignore label, or None.
        has_regions: Whether nnU-Net trains regions (sigmoid); otherwise the channels are softmax classes.
    """

    regions: tuple[str, ...]
    region_labels: tuple[tuple[int, ...], ...]
    regions_class_order: tuple[int, ...]
    ignore_label: int | None
    has_regions: bool


def parse_labels(dataset: Node, has_block: bool) -> Labels:
    """Read the labels of a `dataset.json`.

    Args:
        dataset: The whole file, an object.
        has_block: Whether the file holds our block, which needs regions.

    Raises:
        TaskSetError: If nnU-Net would refuse the labels, or train regions (or classes) other than those written.
    """
    node = dataset.members("nnU-Net's names").get("labels")
    if node is None:
        raise dataset.error('"labels" is missing; add nnU-Net\'s labels')
    children = node.members("label names")
    if has_block:  # without a block no file is named after a label
        require_file_names(children, "a label")
    written = {key: _values(child) for key, child in children.items() if key not in ("background", "ignore")}
    _check_background(node, children)
    if not written:
        raise node.error('names nothing but background; add a label such as "liver": [1, 1]')
    _check_repeats(written, children)
    n_values = _check_gaps(node, written)
    ignore_label = _ignore_label(children, n_values)
    if not any(len(values) > 1 for values in written.values()):
        if has_block:
            name = next(iter(written))
            raise node.error(
                "no label is a list of more than one integer, so nnU-Net would not train regions; write "
                f'{quoted(name)}: [{written[name][0]}, {written[name][0]}] and add "regions_class_order"'
            )
        classes = sorted(written, key=lambda name: written[name])
        region_labels = ((0,), *(written[name] for name in classes))
        return Labels(("background", *classes), region_labels, (), ignore_label, has_regions=False)
    region_labels = tuple(tuple(sorted(set(values))) for values in written.values())
    order = _regions_class_order(dataset, tuple(written), region_labels)
    return Labels(tuple(written), region_labels, order, ignore_label, has_regions=True)


def _values(node: Node) -> tuple[int, ...]:
    """Return the label values as written; two equal values are nnU-Net's way to write a region of one value."""
    if isinstance(node.value, list | tuple):
        integers = all(type(value) is int for value in node.value)  # the fast way: without a Node per value
        values = tuple(node.value) if integers else tuple(item.integer() for item in node.items("integers"))
    else:
        values = (node.integer("an integer or a list of integers"),)
    if not values:
        raise node.error("is an empty list; give the label values of this region")
    if min(values) < 1:
        raise node.error(f"contains {shown(min(values))}; use values of 1 and above, 0 is the background's alone")
    if len(set(values)) < len(values) and len(values) != 2:
        raise node.error("contains a value twice; write each once (only a region of one value is written [1, 1])")
    return values


def _check_background(node: Node, children: dict[str, Node]) -> None:
    if "background" not in children:
        raise node.error('"background" is missing; add "background": 0')
    if children["background"].integer("the integer 0") != 0:
        raise children["background"].error(f"must be 0, is {shown(children['background'].value)}; renumber the labels")


def _check_repeats(written: dict[str, tuple[int, ...]], children: dict[str, Node]) -> None:
    names: dict[frozenset[int], str] = {}
    for name, values in written.items():
        first = names.setdefault(frozenset(values), name)
        if first != name:
            raise children[name].error(
                f"has the same label values as {shown(first)}, so the two are one structure; "
                "give one its own value or remove it"
            )


def _check_gaps(node: Node, written: dict[str, tuple[int, ...]]) -> int:
    """Return the number of label values with background; refuse values that are not 0, 1, 2, and so on."""
    values = sorted({0}.union(*written.values()))
    for expected, value in enumerate(values):
        if value != expected:
            raise node.error(
                f"the value {expected} is in no label, but {shown(value)} is; renumber the labels without gaps"
            )
    return len(values)


def _ignore_label(children: dict[str, Node], n_values: int) -> int | None:
    if "ignore" not in children:
        return None
    value = children["ignore"].integer()
    if value != n_values:
        raise children["ignore"].error(
            f"is {shown(value)}; write {n_values}, nnU-Net wants it one above the highest label value"
        )
    return value


def _regions_class_order(
    dataset: Node, regions: tuple[str, ...], region_labels: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """Return the value painted for every region; nnU-Net paints in this order, and a later region overwrites."""
    node = dataset.members("nnU-Net's names").get("regions_class_order")
    if node is None:
        raise dataset.error(
            '"regions_class_order" is missing; add one label value per region, in the order of "labels"'
        )
    items = node.items("integers")
    if len(items) != len(regions):
        raise node.error(f"has {len(items)} entries for {len(regions)} regions; give one per region, in their order")
    for item, name, values in zip(items, regions, region_labels, strict=True):
        if item.integer() not in values:
            raise item.error(
                f"{shown(item.value)} is not a label value of region {shown(name)}; write one of {_enumerated(values)}"
            )
    bits = [sum(1 << value for value in values) for values in region_labels]  # sets as integers, fast to compare
    for i, within in enumerate(_inside(region_labels, bits)):
        first = min(within, default=i)
        if first < i:
            raise items[first].error(
                f"region {shown(regions[first])} is painted before {shown(regions[i])}, which contains and so "
                f'overwrites it; move {shown(regions[i])} before it in "labels" and in "regions_class_order"'
            )
        outside_inner = bits[i] & ~reduce(or_, (bits[j] for j in within), 0)
        if outside_inner and not outside_inner >> items[i].value & 1:
            allowed = tuple(value for value in region_labels[i] if outside_inner >> value & 1)
            raise items[i].error(
                f"{shown(items[i].value)} belongs to a region inside {shown(regions[i])} too; "
                f"write {_enumerated(allowed)}, so that the two can be told apart"
            )
    return tuple(item.value for item in items)


def _inside(region_labels: tuple[tuple[int, ...], ...], bits: list[int]) -> list[list[int]]:
    """Return for every region the indices of the regions that are proper subsets of the region.

    Args:
        region_labels: Label values of every region, ascending.
        bits: The same sets as integers: bit v is set if the region has the value v.
    """
    starting: dict[int, list[int]] = {}
    for j, values in enumerate(region_labels):
        starting.setdefault(values[0], []).append(j)
    return [
        [j for value in values for j in starting.get(value, ()) if bits[j] != bits[i] and not bits[j] & ~bits[i]]
        for i, values in enumerate(region_labels)
    ]


def _enumerated(values: tuple[int, ...]) -> str:
    return ", ".join(str(value) for value in values[:12])
