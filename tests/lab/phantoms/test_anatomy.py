import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label
from scipy.spatial import cKDTree

from nnunet_mtl.lab.phantoms.anatomy import Body, Leaf, Tissue
from nnunet_mtl.lab.phantoms.lesions import Disease

SHAPE = (44, 46, 68)
STEP_MM = 5.0
PATIENTS = range(8)


@pytest.fixture(scope="module")
def points():
    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * STEP_MM for n in SHAPE], indexing="ij")
    return np.stack([x, y, z]).reshape(3, -1).astype(np.float32)


def _body(patient, tumours=None, mimics=0.0, focus_z_mm=None):
    disease = Disease(tumours or {}, malignant=bool(patient % 2), radius_mm=(20.0, 32.0), mimics=mimics)
    return Body(np.random.default_rng(patient), disease, focus_z_mm)


@pytest.fixture(scope="module", params=PATIENTS)
def anatomy(request, points):
    return _body(request.param, {"liver": 1, "pancreas": 1}).sample(points)


def test_every_structure_is_there_and_large_enough_to_be_learnt(anatomy):
    counts = np.bincount(anatomy.leaves, minlength=len(Leaf))
    smallest = {Leaf.LIVER: 3000, Leaf.SPLEEN: 500, Leaf.KIDNEY_LEFT: 300, Leaf.KIDNEY_RIGHT: 300, Leaf.VESSEL: 100}
    assert all(counts[leaf] >= count for leaf, count in smallest.items())
    assert counts[Leaf.PANCREAS] + counts[Leaf.PANCREAS_TUMOUR] >= 250
    assert min(counts[Leaf.LIVER_TUMOUR], counts[Leaf.PANCREAS_TUMOUR]) >= 20


def test_labels_and_tissue_agree(anatomy):
    tissue_of = {
        Leaf.LIVER: Tissue.LIVER,
        Leaf.LIVER_TUMOUR: Tissue.LIVER,
        Leaf.VESSEL: Tissue.VESSEL,
        Leaf.KIDNEY_LEFT: Tissue.KIDNEY,
        Leaf.KIDNEY_RIGHT: Tissue.KIDNEY,
        Leaf.SPLEEN: Tissue.SPLEEN,
        Leaf.PANCREAS: Tissue.PANCREAS,
        Leaf.PANCREAS_TUMOUR: Tissue.PANCREAS,
    }
    for leaf, tissue in tissue_of.items():
        assert (anatomy.tissue[anatomy.leaves == leaf] == tissue).all()


def test_the_vessel_tree_lies_inside_the_liver(anatomy):
    leaves = anatomy.leaves.reshape(SHAPE)
    vessel = leaves == Leaf.VESSEL
    around = leaves[binary_dilation(vessel) & ~vessel]
    assert np.isin(around, (Leaf.LIVER, Leaf.LIVER_TUMOUR)).mean() > 0.83
    liver = np.isin(leaves, (Leaf.LIVER, Leaf.VESSEL, Leaf.LIVER_TUMOUR))
    _, count = label(liver, np.ones((3, 3, 3)))
    sizes = np.bincount(label(liver, np.ones((3, 3, 3)))[0].ravel())[1:]
    assert count == 1 or sizes.max() / sizes.sum() > 0.95


def test_tumours_touch_their_organ(anatomy):
    leaves = anatomy.leaves.reshape(SHAPE)
    for tumour, organ in ((Leaf.LIVER_TUMOUR, Leaf.LIVER), (Leaf.PANCREAS_TUMOUR, Leaf.PANCREAS)):
        assert (leaves[binary_dilation(leaves == tumour)] == organ).any()


def test_the_landmark_tells_the_left_kidney_from_the_right_in_a_mirrored_body_too(anatomy, points):
    """What decides is a distance, and mirroring keeps distances; places and directions are of no use to a network."""
    landmark = cKDTree(points[:, anatomy.tissue == Tissue.FILLED_BOWEL].T)
    reaches = {}
    for leaf in (Leaf.KIDNEY_LEFT, Leaf.KIDNEY_RIGHT):
        kidney = points[:, anatomy.leaves == leaf].T
        reaches[leaf] = landmark.query(kidney)[0]
    assert reaches[Leaf.KIDNEY_LEFT].min() <= 20
    # Half a patch of 32 voxels is 80 mm: the landmark is in a patch around a left kidney, never around a right one.
    assert np.median(reaches[Leaf.KIDNEY_LEFT]) < 50
    assert reaches[Leaf.KIDNEY_RIGHT].min() > 80


def test_kidneys_are_alike(points):
    volumes = {leaf: [] for leaf in (Leaf.KIDNEY_LEFT, Leaf.KIDNEY_RIGHT)}
    for patient in range(16):
        leaves = _body(patient).sample(points).leaves
        for leaf, sizes in volumes.items():
            sizes.append(int((leaves == leaf).sum()))
    left, right = (np.array(sizes) for sizes in volumes.values())
    spread = np.concatenate([left, right]).std()
    assert abs(left.mean() - right.mean()) < spread


def test_the_number_of_tumours_changes_nothing_else(points):
    for patient in range(3):
        healthy, ill = (_body(patient, tumours, 4.0).sample(points) for tumours in ({}, {"liver": 2, "pancreas": 1}))
        tumour = np.isin(ill.leaves, (Leaf.LIVER_TUMOUR, Leaf.PANCREAS_TUMOUR))
        assert not np.isin(healthy.leaves, (Leaf.LIVER_TUMOUR, Leaf.PANCREAS_TUMOUR)).any()
        np.testing.assert_array_equal(healthy.leaves[~tumour], ill.leaves[~tumour])
        np.testing.assert_array_equal(healthy.detail_hu[~tumour], ill.detail_hu[~tumour])


def test_mimics_change_the_intensity_and_no_label(points):
    without, several = (_body(1, mimics=mimics).sample(points) for mimics in (0.0, 12.0))
    np.testing.assert_array_equal(without.leaves, several.leaves)
    added = several.detail_hu - without.detail_hu
    assert added.min() < 0 < added.max()
    assert np.isin(without.tissue[added != 0], (Tissue.LIVER, Tissue.SPLEEN)).all()


def test_kidneys_have_a_core_and_the_pancreas_is_lobular(points):
    anatomy = _body(2).sample(points)
    for leaf in (Leaf.KIDNEY_LEFT, Leaf.KIDNEY_RIGHT):
        kidney = points[:, anatomy.leaves == leaf]
        dark = anatomy.detail_hu[anatomy.leaves == leaf] < -50
        reach = np.linalg.norm(kidney - kidney.mean(axis=1, keepdims=True), axis=0)
        assert 0.05 < dark.mean() < 0.3
        assert reach[dark].mean() < 0.7 * reach[~dark].mean()
    lobules = anatomy.detail_hu[anatomy.leaves == Leaf.PANCREAS]
    assert lobules.std() > 10
    assert abs(lobules.mean()) < 10


def test_a_slice_at_the_focus_shows_the_tumour(points):
    in_plane = points[:, np.abs(points[2]) < STEP_MM].copy()
    for patient in PATIENTS:
        body = _body(patient, {"liver": 1}, focus_z_mm=9.0)
        in_plane[2] = 9.0 + body.shift_mm[2]
        assert (body.sample(in_plane).leaves == Leaf.LIVER_TUMOUR).sum() > 10
