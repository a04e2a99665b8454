"""A cascade of networks that copy what is in the image: all around them is nnU-Net's own.

The models are real to nnU-Net (plans, preprocessing, sliding window, export); their networks know the answer, so where
it comes to lie is known to the voxel.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_mtl.cli import main
from nnunet_mtl.common.errors import UserError
from nnunet_mtl.datasets.per_task.parent_box import CASCADE_KEY
from nnunet_mtl.datasets.raw_dataset import RawDataset
from nnunet_mtl.inference.cascade import Cascade, in_order
from nnunet_mtl.inference.cascade_options import CascadeOptions
from nnunet_mtl.inference.cascade_stage import Stage, refuse_unlike
from nnunet_mtl.inference.predict_options import PredictError
from nnunet_mtl.inference.predictor import MultiTaskPredictor
from nnunet_mtl.tasks import TaskSet

SHAPE = (9, 22, 26)
SPACING = (0.8, 1.1, 3.0)  # x, y, z
TASKS = ("whole", "core", "enhancing")
WHOLE, CORE = (slice(2, 6), slice(5, 15), slice(7, 20)), (slice(3, 5), slice(6, 12), slice(9, 15))
ENHANCING, ELSEWHERE = (slice(3, 4), slice(8, 10), slice(10, 12)), (slice(3, 4), slice(13, 18), slice(9, 15))
DATASET = {
    "channel_names": {"0": "flair", "1": "t1", "2": "t2"},
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
    "regions_class_order": [1, 2, 3],
    "numTraining": 1,
    "file_ending": ".nii.gz",
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            # a child is named before its parent
            "core": {"regions": ["core"], "parent": "whole"},
            "enhancing": {"regions": ["enhancing"], "parent": "core"},
            "whole": {"regions": ["whole"]},
        },
        "cases": {"secretcase": {"annotated": ["whole", "core", "enhancing"]}},
    },
}


class Copy(nn.Module):
    """Finds its structure where a channel of the image is 1; two channels, a softmax, as stock nnU-Net."""

    def __init__(self, channel):
        super().__init__()
        self.channel, self.seen = channel, []

    def forward(self, x):
        self.seen.append(tuple(x.shape[2:]))
        found = x[:, self.channel : self.channel + 1]
        found = torch.where(found > 50, torch.nan, found)  # NIfTI readers know no NaN
        return torch.cat((torch.zeros_like(found), 20 * found - 10), 1)


def plans(dimensions=3):
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "spacing": [0.8, 3.0, 1.1],  # as transposed
        "normalization_schemes": ["NoNormalization"] * 3,
        "use_mask_for_norm": [False] * 3,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "batch_dice": False,
        "architecture": {},
    }
    if dimensions == 2:
        configuration |= {"patch_size": [8, 8], "spacing": [1.1, 0.8]}
    return {
        "dataset_name": "Dataset900_Brain",
        "plans_name": "x",
        "transpose_forward": [2, 0, 1] if dimensions == 3 else [0, 1, 2],
        "transpose_backward": [1, 2, 0] if dimensions == 3 else [0, 1, 2],
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}, "2": {}},
        "configurations": {"own": configuration},
    }


def predictor_of(task, dimensions=3, **changed):
    """A stock model of one task, as made from an extract: its label is 1."""
    labels = {"labels": {"background": 0, task: 1}}
    parents = {"core": "whole", "enhancing": "core"}
    if task in parents:
        labels[CASCADE_KEY] = {"task": task, "parent": parents[task], "margin_mm": 3.0}
    dataset_json = {key: DATASET[key] for key in ("channel_names", "file_ending")} | labels | changed
    found = MultiTaskPredictor(use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False)
    found.allow_tqdm = False
    manager = PlansManager(plans(dimensions))
    network = Copy(TASKS.index(task) if task in TASKS else 0)
    own = manager.get_configuration("own")
    found.manual_initialization(network, manager, own, [network.state_dict()], dataset_json, "nnUNetTrainer", None)
    return found


def image(core=CORE, whole=WHOLE):
    """Structures where they are 1; the core's channel has something outside the whole, the enhancing's all over."""
    channels = np.full((3, *SHAPE), 0.25, np.float32)
    channels[0][whole] = 1
    channels[1][core] = channels[1][ELSEWHERE] = channels[1][0, :, :4] = 1
    channels[2][ENHANCING] = channels[2][4:6, 11:14, 14:18] = channels[2][7:, :, 20:] = 1
    return channels


def expected(core=CORE):
    labels = np.zeros(SHAPE, np.uint8)
    found = image(core)
    labels[found[0] == 1] = 1
    labels[(labels == 1) & (found[1] == 1)] = 2
    labels[(labels == 2) & (found[2] == 1)] = 3
    return labels


class World:
    def __init__(self, root, dimensions=3):
        self.root, self.images, self.output = root, root / "in", root / "out"
        self.folder = root / "Dataset900_Brain"
        for folder in (self.folder, self.images):
            folder.mkdir()
        self.write_description(DATASET)
        self.predictors = {task: predictor_of(task, dimensions) for task in TASKS}

    def write_description(self, dataset_json):
        (self.folder / "dataset.json").write_text(json.dumps(dataset_json))

    def add(self, case, channels):
        for number, values in enumerate(channels):
            found = SimpleITK.GetImageFromArray(values)
            found.SetSpacing(SPACING[: values.ndim])
            found.SetOrigin((-30.5, 12.25, 7.0)[: values.ndim])
            SimpleITK.WriteImage(found, str(self.images / f"{case}_{number:04d}.nii.gz"))

    def cascade(self, models=TASKS, **options):
        options = {"disable_progress_bar": True, "continue_prediction": False} | options
        chosen = CascadeOptions(images=self.images, output=self.output, models={}, **options)
        raw = RawDataset.read(self.folder, regions_are_tasks=True)
        order = in_order(raw.taskset, dict.fromkeys(models, Path("m")), "Dataset900_Brain")
        stages = [
            Stage.open(raw.taskset, task, self.predictors[task], Path(task), options.get("margin")) for task in order
        ]
        return Cascade(raw, stages, chosen)

    def run(self, *models, **options):
        cascade = self.cascade(models or TASKS, **options)
        cascade.predict(cascade.cases_to_do())
        return cascade.report

    def map(self, case):
        found = SimpleITK.ReadImage(str(self.output / f"{case}.nii.gz"))
        return SimpleITK.GetArrayFromImage(found)

    def names(self):
        return sorted(path.name for path in self.output.iterdir())


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    found.add("full", image())
    return found


def test_what_each_network_finds_lies_where_it_was_and_in_its_parent(world):
    report = world.run()
    assert (report.done, report.failed) == (["full"], {})
    np.testing.assert_array_equal(world.map("full"), expected())
    assert (np.bincount(world.map("full").ravel()) > 0).all()
    found = SimpleITK.ReadImage(str(world.output / "full.nii.gz"))
    np.testing.assert_allclose(found.GetOrigin(), (-30.5, 12.25, 7.0))
    np.testing.assert_allclose(found.GetSpacing(), SPACING)


def test_without_the_restriction_the_child_would_lie_outside(world, monkeypatch):
    """The mechanism is what the test above sees: everything is a place for the child then."""
    monkeypatch.setattr(Stage, "place", lambda self, there: np.ones(there.shape[1:], bool))
    world.run()
    assert (world.map("full") != expected()).any()


def test_each_network_looks_into_its_parents_box_and_the_margin_it_was_trained_with(world):
    cascade = world.cascade()
    looked = {}
    for stage in cascade.stages:
        original = stage.predict

        def predict(image, properties, box, *, stage=stage, original=original):
            looked[stage.task] = tuple((one.start, one.stop) for one in box)
            return original(image, properties, box)

        stage.predict = predict
    cascade.predict(cascade.cases_to_do())
    # 3 mm: 1 slice, 3 rows, 4 columns
    assert looked["whole"] == ((0, 9), (0, 22), (0, 26))
    assert looked["core"] == ((1, 7), (2, 18), (3, 24))
    assert looked["enhancing"] == ((2, 6), (3, 18), (5, 19))
    cost = cascade.report.costs["core"]
    assert cost.shares == [6 * 16 * 21 / np.prod(SHAPE)]
    seen = len(world.predictors["core"].network.seen)
    assert cost.passes == [seen]
    # tiles of 8 voxels, half a tile apart
    assert seen == 5 * 1 * 3
    assert len(world.predictors["whole"].network.seen) > 2 * seen
    assert "core" in str(cascade.report)
    assert f"{cost.shares[0]:.0%} of the image" in str(cascade.report)


def test_an_empty_parent_gives_an_empty_child(world):
    world.add("no_core", image(core=(slice(0, 0),) * 3) * np.float32([1, 0, 1]).reshape(3, 1, 1, 1))
    nothing = image()
    nothing[0] = 0.25
    world.add("nothing", nothing)
    report = world.run()
    np.testing.assert_array_equal(world.map("no_core"), np.where(image()[0] == 1, 1, 0))
    assert not world.map("nothing").any()
    assert report.costs["core"].n_empty == 1
    assert report.costs["enhancing"].n_empty == 2
    assert "parent empty in 2" in str(report)
    np.testing.assert_array_equal(world.map("full"), expected())


def test_tasks_without_a_network_are_background(world, capsys):
    world.run("whole", "core")
    np.testing.assert_array_equal(world.map("full"), np.minimum(expected(), 2))
    assert "no network for enhancing: background in every map" in capsys.readouterr().out


def test_two_dimensional_images(tmp_path):
    world = World(tmp_path, 2)
    world.add("flat", image()[:, 3])
    world.run()
    np.testing.assert_array_equal(world.map("flat"), expected()[3])


def test_regions_of_a_data_set_without_a_block(world):
    world.write_description({key: value for key, value in DATASET.items() if key != "nnunet_mtl"})
    world.run()
    np.testing.assert_array_equal(world.map("full"), expected())


def test_the_folder_is_as_evaluation_reads_it_and_names_no_training_case(world):
    world.run()
    assert world.names() == ["dataset.json", "full.nii.gz", "predict_from_raw_data_args.json"]
    text = (world.output / "dataset.json").read_text()
    assert "secretcase" not in text
    assert TaskSet.from_dataset_json(json.loads(text)).regions == TASKS


def test_a_case_that_fails_is_named_and_the_others_are_done(world, capsys):
    world.add("poor", image()[:2])
    world.add("rich", np.concatenate((image(), image()[:1])))
    world.add("sick", 100 * image())
    (world.images / "torn_0000.nii.gz").write_bytes(b"no image")
    for channel in (1, 2):
        (world.images / f"torn_000{channel}.nii.gz").write_bytes(b"no image")
    report = world.run()
    assert report.done == ["full"]
    assert sorted(report.failed) == ["poor", "rich", "sick", "torn"]
    assert "channel 0002 is missing" in report.failed["poor"]
    assert '"rich_0003.nii.gz" is too much' in report.failed["rich"]
    assert "not finite" in report.failed["sick"]
    assert "4 failed (poor, rich, sick, torn)" in str(report)
    assert world.names() == ["dataset.json", "full.nii.gz", "predict_from_raw_data_args.json"]
    assert all("\n" not in message for message in report.failed.values())
    world.run(verbose=True)
    assert "Traceback" in capsys.readouterr().out


def test_a_map_is_there_whole_or_not_at_all(world, monkeypatch):
    def torn(_, labels, path, properties):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    (world.output / ".full.writing").mkdir(parents=True)  # of a run that was killed
    with monkeypatch.context() as patch:
        patch.setattr("nnunetv2.imageio.simpleitk_reader_writer.SimpleITKIO.write_seg", torn)
        report = world.run()
    assert "No space left" in report.failed["full"]
    assert world.names() == ["dataset.json", "predict_from_raw_data_args.json"]


def test_going_on_keeps_what_is_whole(world, capsys):
    world.add("other", image())
    world.run()
    before = (world.output / "full.nii.gz").stat().st_mtime_ns
    torn = (world.output / "other.nii.gz").read_bytes()
    (world.output / "other.nii.gz").write_bytes(torn[:-9])
    report = world.run(continue_prediction=True)
    assert (report.kept, report.done) == (["full"], ["other"])
    assert "other.nii.gz is damaged" in capsys.readouterr().out
    assert (world.output / "full.nii.gz").stat().st_mtime_ns == before
    assert "1 were there already" in str(report)
    with pytest.raises(UserError, match=r"made with other options .step_size 0.5 against 1"):
        world.run(continue_prediction=True, step_size=1)


class Regions(Copy):
    """A model of ours with two regions: the structure of a channel, and one that covers everything."""

    def forward(self, x):
        found = super().forward(x)[:, 1:]
        return torch.cat((found, torch.full_like(found, 10)), 1)


def test_another_region_of_a_models_own_is_not_painted_over_it(world):
    labels = {"labels": {"background": 0, "whole": [1, 2], "all": [2]}, "regions_class_order": [1, 2]}
    world.predictors["whole"] = predictor_of("whole", **labels)
    world.predictors["whole"].network = Regions(0)
    world.run()
    np.testing.assert_array_equal(world.map("full"), expected())


def test_an_output_that_is_no_folder(world):
    world.output.write_text("a file")
    with pytest.raises(PredictError, match=r"cannot be written to .*give another -o"):
        world.run()


def test_the_margin_of_models_that_do_not_say_theirs(world):
    world.predictors["core"].dataset_json.pop(CASCADE_KEY)
    margins = {stage.task: stage.margin_mm for stage in world.cascade(margin=1.0).stages}
    assert margins == {"whole": 1.0, "core": 1.0, "enhancing": 3.0}
    assert world.cascade().stages[1].margin_mm == 10.0


def opened(task, predictor):
    return Stage.open(TaskSet.from_dataset_json(DATASET), task, predictor, Path("folder"), None)


def test_models_that_do_not_fit_are_refused_in_one_line():
    core, whole = predictor_of("core"), predictor_of("whole")
    with pytest.raises(PredictError, match=r"-m core=folder: does not predict core; its labels are background, whole"):
        opened("core", whole)
    with pytest.raises(PredictError, match=r"trained on crops for 'core' inside 'whole', .* enhancing inside core"):
        opened("enhancing", core)
    core.dataset_json["labels"] = {"background": 0, "whole": 1}
    with pytest.raises(PredictError, match="and is to predict whole in the whole image"):
        opened("whole", core)
    second = predictor_of("whole")
    second.configuration_manager.configuration["previous_stage"] = "3d_lowres"
    with pytest.raises(PredictError, match="second stage of nnU-Net's own cascade"):
        opened("whole", second)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"channel_names": {"0": "flair"}}, r"-m core=folder: reads 1 channel.s., the model of whole 3; train all on"),
        ({"file_ending": ".nrrd"}, r"-m core=folder: reads .nrrd files, the data set's are .nii.gz"),
        ({}, "trained with NibabelIO, the model of whole with SimpleITKIO"),
    ],
)
def test_models_of_other_images_are_refused(changed, match):
    core = predictor_of("core", **changed)
    if not changed:
        core.plans_manager.plans["image_reader_writer"] = "NibabelIO"
    with pytest.raises(PredictError, match=match):
        refuse_unlike([opened("whole", predictor_of("whole")), opened("core", core)], ".nii.gz")


def test_parents_come_before_their_children():
    tasks = TaskSet.from_dataset_json(DATASET)
    models = dict.fromkeys(("enhancing", "whole", "core"), Path("x"))
    assert in_order(tasks, models, "x") == ["whole", "core", "enhancing"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["whole"], "-m 'whole': must be TASK=FOLDER"),
        (["whole="], "-m 'whole=': must be TASK=FOLDER"),
        (["whole=a", "whole=b"], "-m whole: has two models"),
        (["lung=a"], "-m 'lung': no such task in Dataset900_Brain; it has core, enhancing, whole"),
        (["whole=a", "enhancing=b"], r"-m enhancing: lies inside core, which has no model; add -m core=FOLDER"),
        (["whole=nowhere"], "nowhere: no such model folder"),
        (["whole=a", "-step_size", "0"], "-step_size 0.0: must be"),
        (["whole=a", "-f", "first"], "-f first: a fold is a number or 'all'"),
        (["whole=a", "--margin", "nan"], "--margin nan: must be a number of mm"),
    ],
)
def test_what_is_typed_wrongly_is_one_line(world, words, match, capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(world.root))
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)  # another data set may have the number there
    here = ["-i", str(world.images), "-o", str(world.output), "-d", "900", "-device", "cpu"]
    assert main(["cascade-predict", *here, "-m", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunet_mtl: error: ")
    assert match in line


def test_folds_are_all_numbered_ones_unless_named():
    words = {"images": Path("i"), "output": Path("o"), "models": ["a=b=c"]}
    options = CascadeOptions.from_namespace(argparse.Namespace(**words, run=None))
    assert (options.fold_names, options.models) == (None, {"a": Path("b=c")})
    options = CascadeOptions.from_namespace(argparse.Namespace(**words, folds=["0", "all"]))
    assert options.fold_names == (0, "all")
