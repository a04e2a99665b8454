"""Rules that keep or drop connected components of a region: the post-processing of DoDNet and TGNet, and others.

Voxels are connected if they differ by one in at most two coordinates: 18 neighbours in a volume, 8 in a slice.

`PUBLISHED` has the rules of DoDNet's released code (Zhang, Xie, Xia, Shen, CVPR 2021), implemented anew from their
effect; TGNet's paper (Wu, Pang, Sowmya, ISBI 2022) says that connected regions were kept. DoDNet counts voxels of
1.5 x 0.8 x 0.8 mm; here voxels are counted on the grid of the label maps.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import generate_binary_structure, label

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import did_you_mean, listed, shown

Mask = npt.NDArray[np.bool_]


class ComponentRuleError(UserError):
    """A rule has an unknown attribute, a wrong value, or a region that the data set lacks."""


@dataclass(frozen=True, kw_only=True)
class ComponentRule:
    """Steps for one region, carried out in the order of the attributes; a default value changes nothing.

    Attributes:
        inside: Name of another region; only voxels inside that region, after that region's rule, are kept.
        drop_voxels: If there are several components, those with at most this number of voxels are dropped, even if none
            is left; a single component stays.
        smallest: Components with less than this share of the voxels of the largest component are dropped; 0 to 1.
        keep_largest: Number of the largest components to keep; 0 keeps all.
    """

    inside: str = ""
    drop_voxels: int = 0
    smallest: float = 0.0
    keep_largest: int = 0


PUBLISHED: Mapping[str, ComponentRule] = {
    "liver": ComponentRule(keep_largest=1),
    "liver_tumour": ComponentRule(inside="liver", drop_voxels=50),
    "kidney": ComponentRule(keep_largest=2),
    "kidney_tumour": ComponentRule(inside="kidney", keep_largest=1),
    "hepatic_vessel": ComponentRule(),
    "hepatic_vessel_tumour": ComponentRule(drop_voxels=50),
    "pancreas": ComponentRule(keep_largest=1),
    "pancreas_tumour": ComponentRule(inside="pancreas", drop_voxels=50),
    "colon_tumour": ComponentRule(keep_largest=1),
    "lung_tumour": ComponentRule(keep_largest=1),
    "spleen": ComponentRule(keep_largest=1),
}


def published_rules(regions: Sequence[str]) -> dict[str, ComponentRule]:
    """Return the published rule of every region that has one.

    Args:
        regions: Names of the data set's regions. Upper case, spaces, hyphens, underscores and the spelling of tumour do
            not matter.
    """
    named = {_plain(region): region for region in regions}
    rules: dict[str, ComponentRule] = {}
    for name, rule in PUBLISHED.items():
        region = named.get(_plain(name))
        inside = named.get(_plain(rule.inside), "")
        if region is not None:
            rules[region] = ComponentRule(inside=inside, drop_voxels=rule.drop_voxels, keep_largest=rule.keep_largest)
    return rules


def share_rules(region_labels: Mapping[str, Sequence[int]], smallest: float) -> dict[str, ComponentRule]:
    """Return the same rule for every region: components below a share of the largest component are dropped.

    A region inside a dropped component is dropped too: every region is kept inside the smallest region that has all of
    its labels. With a share of 0.1 this is the first of OM-Net's two rules (Zhou et al., IEEE TIP 2020).

    Args:
        region_labels: Label values by region.
        smallest: The share, 0 to 1.

    Raises:
        ComponentRuleError: If the share is not between 0 and 1.
    """
    if not 0 <= smallest <= 1:
        raise ComponentRuleError(f"--smallest {smallest}: must be between 0 and 1, such as 0.1")
    rules = {}
    for region, labels in region_labels.items():
        around = [other for other, values in region_labels.items() if set(labels) < set(values)]
        inside = min(around, key=lambda other: len(set(region_labels[other])), default="")
        rules[region] = ComponentRule(inside=inside, smallest=smallest)
    return rules


def read_rules(content: Any, regions: Sequence[str], source: str) -> dict[str, ComponentRule]:
    """Check rules from a JSON file.

    Args:
        content: Rules by region: objects with attributes of `ComponentRule`.
        regions: Names of the data set's regions.
        source: Path of the file, for messages.

    Raises:
        ComponentRuleError: If a region or an attribute is unknown, or a value is wrong.
    """
    if not isinstance(content, Mapping):
        raise ComponentRuleError(f"{source}: must be an object of regions and rules, not {shown(content)}")
    known = {field.name: field.default for field in fields(ComponentRule)}
    rules: dict[str, ComponentRule] = {}
    for region, values in content.items():
        _require_region(region, regions, source)
        if not isinstance(values, Mapping):
            raise ComponentRuleError(f"{source}: {region}: must be an object such as {{}}, not {shown(values)}")
        for name, value in values.items():
            if name not in known:
                wrong = f"{shown(name)}{did_you_mean(name, known)}"
                raise ComponentRuleError(f"{source}: {region}: unknown {wrong}; known are {listed(known)}")
            if not _fits(value, known[name]):
                expected = _EXPECTED[type(known[name])]
                raise ComponentRuleError(f"{source}: {region}: {name}={shown(value)} must be {expected}")
        rules[region] = ComponentRule(**values)
        if rules[region].inside:
            _require_region(rules[region].inside, regions, source)
    in_order(rules, source)
    return rules


def in_order(rules: Mapping[str, ComponentRule], source: str = "rules") -> list[str]:
    """Return the regions that have a rule, every region after the region that it is kept inside.

    Raises:
        ComponentRuleError: If rules keep two regions inside each other.
    """
    ordered: list[str] = []
    for first in rules:
        region = first
        chain: list[str] = []
        while region in rules and region not in ordered:
            if region in chain:
                raise ComponentRuleError(f"{source}: {listed([*chain, region])}: regions inside each other; drop one")
            chain.append(region)
            region = rules[region].inside
        ordered += reversed(chain)
    return ordered


def apply_rules(masks: Mapping[str, Mask], rules: Mapping[str, ComponentRule]) -> dict[str, Mask]:
    """Return the masks of all regions after the rules.

    Args:
        masks: Masks by region, all of one shape, (Y, X) or (Z, Y, X); not changed. The rule of a missing region is not
            applied, and `inside` is ignored if it names a missing region.
        rules: Rules by region.
    """
    result = dict(masks)
    for region in in_order(rules):
        if region not in result:
            continue
        rule = rules[region]
        mask = result[region]
        if rule.inside in result:
            mask = mask & result[rule.inside]
        result[region] = _kept(mask, rule)
    return result


_EXPECTED = {str: "the name of a region", int: "a whole number of at least 0", float: "a number between 0 and 1"}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return type(value) is type(default) and (isinstance(value, str) or value >= 0)


def _kept(mask: Mask, rule: ComponentRule) -> Mask:
    if not (rule.drop_voxels or rule.smallest or rule.keep_largest):
        return mask
    numbers, count = label(mask, generate_binary_structure(mask.ndim, 2))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    kept = np.ones(count, np.bool_) if count < 2 else sizes > rule.drop_voxels
    # Division, because 7 voxels are fewer than 0.07 * 100 in floating point, but 7 / 100 is 0.07.
    kept &= sizes / sizes.max(initial=1) >= rule.smallest
    if rule.keep_largest:
        # Of equally large components the first in memory is kept.
        largest = np.argsort(-np.where(kept, sizes, 0), kind="stable")[: rule.keep_largest]
        kept &= np.isin(np.arange(count), largest)
    kept_voxels: Mask = np.concatenate(([False], kept))[numbers]
    return kept_voxels


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower()).replace("tumor", "tumour")


def _require_region(name: str, regions: Sequence[str], source: str) -> None:
    if name not in regions:
        wrong = f"{shown(name)}{did_you_mean(name, regions)}"
        raise ComponentRuleError(f"{source}: no region {wrong} in the data set, which has {listed(regions)}")
