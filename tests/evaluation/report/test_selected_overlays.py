import numpy as np
import pytest
from skimage import io

from nnunet_mtl.datasets.label_pairs import find_pairs
from nnunet_mtl.datasets.label_table import LabelTable
from nnunet_mtl.evaluation.metrics.region_metrics import MetricOptions
from nnunet_mtl.evaluation.report.selected_overlays import overlays, picture_problems, select_cases
from nnunet_mtl.evaluation.runs.case_metrics import measure_cases
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.tasks import TaskSet

DESCRIPTION = {
    "channel_names": {"0": "R", "1": "G", "2": "B"},
    "labels": {"background": 0, "nodule": 1},
    "file_ending": ".png",
}
TABLE = LabelTable(DESCRIPTION, TaskSet.from_dataset_json(DESCRIPTION))


def save(path, values):
    path.parent.mkdir(exist_ok=True)
    io.imsave(path, values, check_contrast=False)


@pytest.fixture
def run(tmp_path):
    """Three colour pictures; the first prediction is the worst."""
    for number, case in enumerate("abc"):
        truth = np.zeros((12, 16), np.uint8)
        truth[3:9, 3:9] = 1
        save(tmp_path / "ref" / f"{case}.png", truth)
        save(tmp_path / "pred" / f"{case}.png", np.roll(truth, 2 - number, axis=1))
        colours = np.random.default_rng(number).integers(0, 255, (12, 16, 3)).astype(np.uint8)
        save(tmp_path / "images" / f"{case}_0000.png", colours)
    pairs, problems = find_pairs(tmp_path / "pred", tmp_path / "ref", TABLE)
    assert problems == []
    return tmp_path / "images", pairs, RunMetrics(tuple(measure_cases(pairs, TABLE, MetricOptions(), 1)), TABLE.taskset)


def drawn(run):
    images, pairs, scores = run
    return {name: draw() for name, draw in overlays(scores, pairs, TABLE, images)}


def test_pictures_are_of_the_worst_the_median_and_the_best_case(run):
    assert select_cases(run[2]) == {"worst": "a", "median": "b", "best": "c"}


def test_colour_pictures_are_drawn(run):
    pictures = drawn(run)
    assert list(pictures) == ["worst.png", "median.png", "best.png"]
    assert len(set(pictures.values())) == 3
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert picture_problems(run[1], TABLE, run[0]) == []


def test_a_colour_picture_is_drawn_as_its_grey(run):
    images = run[0]
    before = drawn(run)["worst.png"]
    colours = io.imread(images / "a_0000.png")
    save(images / "a_0000.png", np.ascontiguousarray(colours[..., ::-1]))  # blue for red: the same mean
    assert drawn(run)["worst.png"] == before
    transparent = np.concatenate([colours, np.full((12, 16, 1), 7, np.uint8)], axis=2)
    save(images / "a_0000.png", transparent)
    assert drawn(run)["worst.png"] == before


def test_images_that_do_not_fit_are_told_by_their_headers(run):
    images, pairs, _ = run
    save(images / "a_0000.png", np.zeros((12, 9, 3), np.uint8))
    (images / "b_0000.png").write_bytes(b"no picture")
    (images / "c_0000.png").unlink()
    narrow, unreadable, missing = picture_problems(pairs, TABLE, images)
    assert narrow.startswith(f"a: no picture can be made, {images / 'a_0000.png'} has (9, 12) voxels (x first)")
    assert unreadable == f"b: no picture can be made, {images / 'b_0000.png'} cannot be read as an image"
    assert missing == f"{images}: 1 of 3 cases have no image CASE_0000.png, so no picture: c"


def test_an_image_that_cannot_be_drawn_is_named(run):
    images = run[0]
    save(images / "a_0000.png", np.zeros((12, 9, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a_0000\.png: the image has \(12, 9\) voxels, the reference has \(12, 16\)"):
        drawn(run)
    (images / "a_0000.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a_0000\.png: the file is empty"):
        drawn(run)
