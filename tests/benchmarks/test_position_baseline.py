from itertools import permutations

import numpy as np
import pytest
import SimpleITK
from position_baseline import threshold_and_position_dice

from nnunet_mtl.lab.phantoms.organs_dataset import PhantomOptions, write_phantom_dataset
from nnunet_mtl.tasks import read_dataset_json, write_dataset_json


@pytest.mark.parametrize(
    "options",
    [
        PhantomOptions(cases_per_task=4, test_cases=5),
        PhantomOptions(dimension=2, cases_per_task=8, test_cases=12),
    ],
    ids=["3D", "2D"],
)
def test_intensity_and_place_are_not_enough_for_a_phantom(tmp_path, options):
    write_phantom_dataset(tmp_path / "phantom", options, lambda _: None)
    dice = threshold_and_position_dice(tmp_path / "phantom")
    assert len(dice) == 8
    assert 0.1 < np.mean(list(dice.values())) < 0.48
    assert dice["liver"] > dice["liver_tumour"]


def _write(path, values, flipped):
    # The same places in the patient, stored from the other end.
    image = SimpleITK.GetImageFromArray(values[:, :, ::-1] if flipped else values)
    image.SetOrigin((23.0 if flipped else 0.0, 0.0, 0.0))
    image.SetDirection((-1.0 if flipped else 1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path))


def test_intensity_and_place_are_enough_where_nothing_varies(tmp_path):
    """The floor means something only if the same procedure can succeed, whatever the orientation of the arrays."""
    folder = tmp_path / "easy"
    entries = {}
    for part, names in (("Tr", ["a", "b", "c"]), ("Ts", ["t"])):
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True)
        for number, name in enumerate(names):
            image = np.full((16, 24, 24), -1000, np.int16)
            image[2:-2, 2:-2, 2:-2] = 0
            labels = np.zeros(image.shape, np.uint8)
            labels[5:11, 6:14, 5:11] = 1
            image[labels == 1] = 100
            # Only its place tells the twin from the cube.
            image[5:11, 6:14, 13:19] = 100
            _write(folder / f"images{part}" / f"{name}_0000.nii.gz", image, flipped=number == 1)
            _write(folder / f"labels{part}" / f"{name}.nii.gz", labels, flipped=number == 1)
            entries.setdefault(part, {})[name] = {"annotated": ["cube"]}
    for part, path in (("Tr", folder / "dataset.json"), ("Ts", folder / "labelsTs.json")):
        block = {"version": 1, "tasks": {"cube": {"regions": ["cube"]}}, "cases": entries[part]}
        content = {"labels": {"background": 0, "cube": [1, 1]}, "regions_class_order": [1], "nnunet_mtl": block}
        write_dataset_json(path, content)
        assert read_dataset_json(path) == content
    assert threshold_and_position_dice(folder)["cube"] > 0.9


def test_a_region_that_nobody_shows_has_no_score(tmp_path):
    options = PhantomOptions(dimension=2, cases_per_task=2, test_cases=2, tumour_prevalence=0.0)
    write_phantom_dataset(tmp_path / "healthy", options, lambda _: None)
    dice = threshold_and_position_dice(tmp_path / "healthy")
    assert np.isnan(dice["liver_tumour"])
    assert np.isnan(dice["pancreas_tumour"])
    assert dice["liver"] > 0


def _dataset(folder, n_channels, noise=0.0):
    """Write six training and six test cases in which the place of the annotated square says nothing.

    Either channel has a bright decoy of its own; only the annotated square is bright in both.
    """
    entries = {}
    for part in ("Tr", "Ts"):
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True)
        for number, order in enumerate(permutations((2, 18, 34))):
            name, rng = f"case_{number}", np.random.default_rng(number)
            rows = [slice(start, start + 12) for start in order]
            channels, labels = rng.normal(0, noise, size=(2, 48, 48)), np.zeros((48, 48), np.uint8)
            channels[:, rows[0], 18:30] += 100
            labels[rows[0], 18:30] = 1
            channels[0, rows[1], 18:30] += 100
            channels[1, rows[2], 18:30] += 100
            for channel, values in enumerate(channels[:n_channels]):
                path = folder / f"images{part}" / f"{name}_{channel:04d}.nii.gz"
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values.astype(np.float32)), str(path))
            path = folder / f"labels{part}" / f"{name}.nii.gz"
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels), str(path))
            entries.setdefault(part, {})[name] = {"annotated": ["square"]}
    for part, path in (("Tr", folder / "dataset.json"), ("Ts", folder / "labelsTs.json")):
        block = {"version": 1, "tasks": {"square": {"regions": ["square"]}}, "cases": entries[part]}
        content = {"labels": {"background": 0, "square": [1, 1]}, "regions_class_order": [1], "nnunet_mtl": block}
        write_dataset_json(path, content)


@pytest.mark.parametrize(("n_channels", "expected"), [(1, 2 / 3), (2, 1.0)])
def test_every_channel_counts(tmp_path, n_channels, expected):
    _dataset(tmp_path / "squares", n_channels)
    dice = threshold_and_position_dice(tmp_path / "squares", smoothing=0.1, body=None)
    # With one channel the square and one decoy of its size are found.
    assert dice["square"] == pytest.approx(expected, abs=0.02)


def test_smoothing_beats_noise(tmp_path):
    _dataset(tmp_path / "noisy", 2, noise=60.0)
    dice = [threshold_and_position_dice(tmp_path / "noisy", smoothing=s, body=None)["square"] for s in (0.1, 1.5)]
    assert dice[1] > dice[0] + 0.1
