import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_mtl.datasets.per_task.completed_labels import Completer

# liver holds vessel (2) and tumour (3); a cyst (5) of the kidney is painted last; leaf 6 is painted by no region
REGIONS = {"liver": (1, 2, 3, 6), "vessel": (2,), "tumour": (3,), "kidney": (4, 5), "cyst": (5,)}
ORDER = (1, 2, 3, 4, 5)
IGNORE = 7
COMPLETER = Completer(tuple(REGIONS.values()), ORDER, IGNORE)
NAMES = tuple(REGIONS)
LEAVES = range(7)


def regions_of(leaf):
    return {name for name, leaves in REGIONS.items() if leaf in leaves}


def complete(leaf, predicted, annotated):
    """One voxel: what is painted, and the regions that are filled, implied, forbidden, overruled."""
    found = COMPLETER.complete(
        np.array([leaf]), np.array([[name in predicted for name in NAMES]]), [name in annotated for name in NAMES]
    )
    sets = [{NAMES[i] for i in np.flatnonzero(table[0])} for table in found[1:]]
    return int(found.leaves[0]), *sets


@pytest.mark.parametrize(
    ("leaf", "predicted", "annotated", "expected"),
    [
        # nothing annotated: as predicted
        (0, {"liver", "tumour"}, set(), (3, {"liver", "tumour"}, set(), set(), set())),
        (0, set(), set(), (0, set(), set(), set(), set())),
        # a vessel may be filled into an annotated liver, but not outside of it and not into its tumour
        (1, {"vessel"}, {"liver", "tumour"}, (2, {"vessel"}, set(), set(), set())),
        (0, {"vessel"}, {"liver", "tumour"}, (0, set(), set(), {"vessel"}, set())),
        (3, {"vessel"}, {"liver", "tumour"}, (3, set(), set(), {"vessel"}, set())),
        # a vessel that is annotated lies in the liver, whatever is predicted
        (2, set(), {"vessel"}, (2, set(), {"liver"}, set(), set())),
        (2, {"liver", "kidney"}, {"vessel"}, (2, set(), {"liver"}, {"kidney"}, set())),
        # a value of a region that was not annotated says nothing
        (4, set(), {"liver", "tumour"}, (0, set(), set(), set(), set())),
        (2, set(), {"liver", "tumour"}, (1, set(), set(), set(), set())),
        # two that exclude each other: as nnU-Net, the one painted last
        (0, {"vessel", "tumour", "liver"}, set(), (3, {"liver", "tumour"}, set(), set(), {"vessel"})),
        (0, {"liver", "kidney"}, set(), (4, {"kidney"}, set(), set(), {"liver"})),
        # the liver and its tumour agree with two of three, the kidney with one
        (0, {"liver", "tumour", "kidney"}, set(), (3, {"liver", "tumour"}, set(), set(), {"kidney"})),
        # a cyst outside the annotated kidney
        (1, {"cyst"}, {"kidney", "liver"}, (1, set(), set(), {"cyst"}, set())),
        # everything annotated
        (5, {"liver"}, set(NAMES), (5, set(), set(), set(), set())),
        # the annotator's ignore label stays, and nothing is said of it
        (IGNORE, {"liver"}, {"kidney"}, (IGNORE, set(), set(), set(), set())),
    ],
)
def test_what_is_painted_in_a_voxel(leaf, predicted, annotated, expected):
    assert complete(leaf, predicted, annotated) == expected


SUBSETS = st.sets(st.sampled_from(NAMES))


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.sampled_from(LEAVES), SUBSETS, SUBSETS)
def test_the_annotation_is_never_changed_and_no_other_leaf_agrees_with_more(leaf, predicted, annotated):
    free = set(NAMES) - annotated

    def disagreements(other):
        return len((regions_of(other) ^ predicted) & free)

    painted, filled, implied, forbidden, overruled = complete(leaf, predicted, annotated)
    possible = [other for other in LEAVES if regions_of(other) & annotated == regions_of(leaf) & annotated]
    assert painted in possible
    fewest = min(map(disagreements, possible))
    assert disagreements(painted) == fewest
    best = [other for other in possible if disagreements(other) == fewest]
    assert painted == max(best, key=[6, 0, *ORDER].index)
    # what is said of each region that was not annotated
    assert filled | implied == regions_of(painted) & free
    assert forbidden | overruled == (predicted - regions_of(painted)) & free
    assert implied == free & set.intersection(*map(regions_of, possible))
    assert forbidden == predicted & free - set().union(*map(regions_of, possible))
    assert not filled & implied
    assert not forbidden & overruled


def test_without_an_ignore_label_the_same():
    completer = Completer(((1, 2), (2,)), (1, 2))
    found = completer.complete(np.array([0, 1, 2]), np.array([[True, True]] * 3), [True, False])
    assert found.leaves.tolist() == [0, 2, 2]
    assert found.forbidden[:, 1].tolist() == [True, False, False]


def test_background_comes_before_a_leaf_that_is_never_painted():
    # leaf 3 is where a and b overlap, and no region's own; leaf 1, which would agree with everything, is forbidden by c
    completer = Completer(((1, 3), (2, 3), (1,)), (1, 2, 1))
    found = completer.complete(np.array([0]), np.array([[True, False, False]]), [False, False, True])
    assert found.leaves.tolist() == [0]


def test_the_leaf_that_is_painted_first_comes_before_background():
    completer = Completer(((1,), (1, 2)), (1, 2))
    assert completer.complete(np.array([0]), np.array([[True, False]]), [False, False]).leaves.tolist() == [1]
