import dataclasses
import json

import numpy as np
import pytest

from nnunet_mtl.datasets.component_rules import (
    PUBLISHED,
    ComponentRule,
    ComponentRuleError,
    apply_rules,
    in_order,
    published_rules,
    read_rules,
    share_rules,
)

REGIONS = ("liver", "liver_tumour", "spleen")


def rows(*texts):
    return np.array([[character != "." for character in text] for text in texts])


def kept(mask, **rule):
    return apply_rules({"a": mask}, {"a": ComponentRule(**rule)})["a"]


def test_the_largest_components_stay():
    mask = rows("##..#.###", "##..#....")  # 4, 2 and 3
    assert np.array_equal(kept(mask, keep_largest=1), rows("##.......", "##......."))
    assert np.array_equal(kept(mask, keep_largest=2), rows("##....###", "##......."))
    for n in (0, 3, 4):
        assert np.array_equal(kept(mask, keep_largest=n), mask)


def test_of_equally_large_components_the_first_stays():
    assert np.array_equal(kept(rows("#.#.#"), keep_largest=2), rows("#.#.."))


def test_small_components_are_dropped_only_if_there_are_several():
    assert np.array_equal(kept(rows("###.##.#"), drop_voxels=2), rows("###....."))
    assert np.array_equal(kept(rows("##.#"), drop_voxels=2), rows("...."))
    assert np.array_equal(kept(rows("##.."), drop_voxels=2), rows("##.."))
    assert np.array_equal(kept(rows("####.###.##"), drop_voxels=2, keep_largest=1), rows("####......."))


def test_nothing_has_no_components():
    assert not kept(rows("..."), drop_voxels=1, keep_largest=1).any()


def test_in_a_slice_corners_connect():
    mask = rows("#..", ".#.", "..#")
    assert np.array_equal(kept(mask, keep_largest=1), mask)


@pytest.mark.parametrize(
    ("other", "connected"), [((0, 0, 1), True), ((0, 1, 1), True), ((1, 1, 0), True), ((1, 1, 1), False)]
)
def test_in_a_volume_edges_connect_and_corners_do_not(other, connected):
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[other] = True
    assert kept(mask, keep_largest=1).sum() == (2 if connected else 1)


def test_a_region_is_restricted_to_what_the_rule_of_the_outer_one_left():
    organ, tumour = rows("####..##"), rows(".##...##")
    rules = {"tumour": ComponentRule(inside="organ"), "organ": ComponentRule(keep_largest=1)}
    result = apply_rules({"organ": organ, "tumour": tumour, "other": tumour}, rules)
    assert np.array_equal(result["organ"], rows("####...."))
    assert np.array_equal(result["tumour"], rows(".##....."))
    assert np.array_equal(result["other"], tumour)
    assert np.array_equal(organ, rows("####..##"))


def test_components_are_looked_at_after_the_restriction():
    organ, tumour = rows("##.###.."), rows("##.#####")
    rules = {"tumour": ComponentRule(inside="organ", drop_voxels=2)}
    assert np.array_equal(apply_rules({"organ": organ, "tumour": tumour}, rules)["tumour"], rows("...###.."))


def test_components_of_less_than_a_share_of_the_largest_are_dropped():
    """30 voxels, 3 and 2: exactly a tenth stays."""
    mask = rows("#" * 30 + ".###.##")
    assert np.array_equal(kept(mask, smallest=0.1), rows("#" * 30 + ".###..."))
    assert np.array_equal(kept(mask, smallest=0.11), rows("#" * 30 + "......."))
    assert np.array_equal(kept(mask, smallest=0.05), mask)
    assert np.array_equal(kept(mask, smallest=0.0), mask)
    assert not kept(rows("..."), smallest=0.1).any()
    # 0.07 x 100 is more than 7 in floating point
    assert kept(rows("#" * 100 + "." + "#" * 7), smallest=0.07).sum() == 107
    # the largest is that of the region, before other rules drop it
    assert np.array_equal(kept(mask, smallest=0.1, drop_voxels=3), rows("#" * 30 + "......."))


def test_a_share_for_every_region_drops_what_lies_in_a_dropped_component():
    labels = {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,), "other": (4,)}
    rules = share_rules(labels, 0.5)
    assert {name: rule.inside for name, rule in rules.items()} == {
        "whole": "",
        "core": "whole",
        "enhancing": "core",
        "other": "",
    }
    assert {rule.smallest for rule in rules.values()} == {0.5}
    whole, core = rows("######.##"), rows(".####..##")
    result = apply_rules({"whole": whole, "core": core, "enhancing": rows("........#"), "other": whole}, rules)
    assert np.array_equal(result["whole"], rows("######..."))
    assert np.array_equal(result["core"], rows(".####...."))
    assert not result["enhancing"].any()
    for share in (-0.1, 1.5):
        with pytest.raises(ComponentRuleError, match="must be between 0 and 1"):
            share_rules(labels, share)


def test_regions_that_are_not_there_are_left_out():
    rules = {"tumour": ComponentRule(inside="organ"), "organ": ComponentRule(keep_largest=1)}
    assert np.array_equal(apply_rules({"tumour": rows("#.#")}, rules)["tumour"], rows("#.#"))


def test_outer_regions_come_first():
    rules = {"a": ComponentRule(inside="b"), "c": ComponentRule(), "b": ComponentRule(inside="d")}
    assert in_order(rules) == ["b", "a", "c"]


def test_the_published_table():
    assert {name: rule.keep_largest for name, rule in PUBLISHED.items() if rule.keep_largest} == {
        "liver": 1,
        "kidney": 2,
        "kidney_tumour": 1,
        "pancreas": 1,
        "colon_tumour": 1,
        "lung_tumour": 1,
        "spleen": 1,
    }
    assert {name for name, rule in PUBLISHED.items() if rule.drop_voxels == 50} == {
        "liver_tumour",
        "hepatic_vessel_tumour",
        "pancreas_tumour",
    }
    inside = {name: rule.inside for name, rule in PUBLISHED.items() if rule.inside}
    assert inside == {f"{organ}_tumour": organ for organ in ("liver", "kidney", "pancreas")}
    assert PUBLISHED["hepatic_vessel"] == ComponentRule()
    table = json.loads(json.dumps({name: dataclasses.asdict(rule) for name, rule in PUBLISHED.items()}))
    assert read_rules(table, list(PUBLISHED), "x") == dict(PUBLISHED)


def test_published_names_are_recognised_in_other_spellings():
    found = published_rules(["Liver", "liver-tumor", "Hepatic Vessel", "bladder", "Kidney_Tumor"])
    assert found == {
        "Liver": ComponentRule(keep_largest=1),
        "liver-tumor": ComponentRule(inside="Liver", drop_voxels=50),
        "Hepatic Vessel": ComponentRule(),
        "Kidney_Tumor": ComponentRule(keep_largest=1),  # a data set without the kidney
    }


def test_rules_are_read():
    rules = read_rules({"liver_tumour": {"inside": "liver", "drop_voxels": 7}, "spleen": {}}, REGIONS, "x")
    assert rules == {"liver_tumour": ComponentRule(inside="liver", drop_voxels=7), "spleen": ComponentRule()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "x: must be an object of regions and rules"),
        ({"lung": {}}, "x: no region .lung. in the data set, which has liver"),
        ({"liver": 1}, "x: liver: must be an object"),
        ({"liver": {"keep": 1}}, "x: liver: unknown .keep. .did you mean keep_largest..; known are inside"),
        ({"liver": {"keep_largest": -1}}, "keep_largest=-1 must be a whole number"),
        ({"liver": {"keep_largest": True}}, "keep_largest=.* must be a whole number"),
        ({"liver": {"drop_voxels": 1.5}}, "drop_voxels=1.5 must be a whole number"),
        ({"liver": {"inside": 3}}, "inside=3 must be the name"),
        ({"liver": {"smallest": 1.5}}, "smallest=1.5 must be a number between 0 and 1"),
        ({"liver": {"smallest": True}}, "smallest=true must be a number"),
        ({"liver": {"smallest": "0.1"}}, "smallest='0.1' must be a number"),
        ({"liver": {"inside": "lung"}}, "no region .lung."),
        ({"liver": {"inside": "spleen"}, "spleen": {"inside": "liver"}}, "inside each other"),
        ({"liver": {"inside": "liver"}}, "inside each other"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused_in_one_line(content, message):
    with pytest.raises(ComponentRuleError, match=message) as error:
        read_rules(content, REGIONS, "x")
    assert "\n" not in str(error.value)
