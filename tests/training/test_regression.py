import numpy as np
import pytest
import torch

from nnunet_mtl.tasks import TaskSet, TaskSetError, without_cases
from nnunet_mtl.training.regression import (
    ERROR,
    VOXELS,
    RegressionTraining,
    mae_key,
    term_of,
    with_scales,
    without_regressions,
    without_targets,
)
from nnunet_mtl.training.target_channels import BesideImage, ImageDataset, ImageDatasets, TargetDataset

DATASET = {
    "channel_names": {"0": "CT", "1": "noNorm", "2": "noNorm"},
    "labels": {"background": 0, "body": [1, 2], "target": [2]},
    "regions_class_order": [1, 2],
    "nnunet_mtl": {
        "version": 1,
        "tasks": {
            "body": {"regions": ["body"]},
            "target": {"regions": ["target"]},
            # not in the order of their channels
            "dose": {"type": "regression", "channel": 2, "inside": "body", "scale": 10},
            "depth": {"type": "regression", "channel": 1, "scale": 2},
        },
        "cases": {
            "all": {"annotated": ["body", "target", "dose", "depth"]},
            "no_body": {"annotated": ["target", "dose"]},
            "no_dose": {"annotated": ["body", "depth"]},
            "nothing": {"annotated": []},
        },
    },
}
PLANS = {"foreground_intensity_properties_per_channel": {"1": {"std": 4.0}, "2": {"std": 0.0}}}
TASKS = TaskSet.from_dataset_json(DATASET)
SHAPE = (4, 6)


@pytest.fixture
def training():
    return RegressionTraining(TASKS, TASKS.regressions)


def batch_of(*keys, seed=0):
    """Image, depth, dose and ones; the last column lies outside of every case."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.rand(len(keys), 4, *SHAPE, generator=generator)
    data[:, 3] = 1
    data[..., -1] = 0
    data[:, 3, :, -2] = 0.5  # interpolated: half of it is outside
    target = torch.rand(len(keys), 2, *SHAPE, generator=generator) > 0.5
    return list(keys), data, target


def values_of(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(batch, 1, *SHAPE, generator=generator, requires_grad=True) for name in ("dose", "depth")}


def losses(training, keys, data, target, values):
    return training.losses(values, training.split(keys, data, target)[1])


def test_that_images_and_targets_are_parted_in_the_order_of_the_tasks_and_units_of_the_scale(training):
    keys, data, target = batch_of("all", "no_dose")
    images, voxels = training.split(keys, data, target)
    assert torch.equal(images, data[:, :1])
    assert images.is_contiguous()
    torch.testing.assert_close(voxels.target[:, 0], data[:, 2] / 10)
    torch.testing.assert_close(voxels.target[:, 1], data[:, 1] / 2)
    assert voxels.known.tolist() == [[True, True], [False, True]]
    assert voxels.present == (True, True)
    assert voxels.to(torch.device("cpu")).known is voxels.known


def test_that_what_counts_is_the_region_where_it_is_annotated_and_the_case_elsewhere(training):
    keys, data, target = batch_of("all", "no_body")
    _, voxels = training.split(keys, data, target)
    in_case = torch.ones(SHAPE, dtype=torch.bool)
    in_case[:, -2:] = False
    assert torch.equal(voxels.inside[0, 0], target[0, 0] & in_case)
    assert torch.equal(voxels.inside[1, 0], in_case)  # its body is not annotated
    assert torch.equal(voxels.inside[0, 1], in_case)  # depth is for everywhere


@pytest.mark.parametrize(
    ("key", "task"),
    [
        ("all", "dose"),  # inside a region
        ("no_body", "dose"),  # which is not annotated
        ("all", "depth"),  # everywhere
    ],
)
def test_that_ignored_voxels_count_nowhere(key, task):
    tasks = TaskSet.from_dataset_json({**DATASET, "labels": {**DATASET["labels"], "ignore": 3}})
    training = RegressionTraining(tasks, tasks.regressions)
    keys, data, target = batch_of(key)
    values = {name: value.detach() for name, value in values_of(1).items()}
    column, channel = {"dose": (0, 2), "depth": (1, 1)}[task]
    target[:, 0] = True
    nothing_ignored = torch.cat([target, torch.zeros(1, 1, *SHAPE, dtype=torch.bool)], dim=1)
    some_ignored = nothing_ignored.clone()
    some_ignored[:, 2, 0] = True  # the first row
    _, every = training.split(keys, data, nothing_ignored)
    _, fewer = training.split(keys, data, some_ignored)
    assert int(every.inside[:, column].sum()) == SHAPE[0] * (SHAPE[1] - 2)  # two columns lie outside the case
    assert int(fewer.inside[:, column].sum()) == (SHAPE[0] - 1) * (SHAPE[1] - 2)
    assert training.numbers(values, fewer)[VOXELS][column] == (SHAPE[0] - 1) * (SHAPE[1] - 2)

    before, errors = losses(training, keys, data, some_ignored, values), training.numbers(values, fewer)[ERROR]
    data[:, channel, 0] = float("nan")
    assert losses(training, keys, data, some_ignored, values) == before
    assert np.array_equal(training.numbers(values, training.split(keys, data, some_ignored)[1])[ERROR], errors)
    data[:, channel, 1] += 1
    assert losses(training, keys, data, some_ignored, values)[term_of(task)] != before[term_of(task)]

    some_ignored[:, 2] = True
    assert not training.present(training.split(keys, data, some_ignored)[1])[term_of(task)]


def test_that_the_padding_teaches_nothing(training):
    keys, data, target = batch_of("all")
    values = values_of(1)
    before = losses(training, keys, data, target, values)
    data[:, 1:3, :, -2:] = float("nan")
    after = losses(training, keys, data, target, values)
    assert before == after
    data[:, 1:3, :, 0] += 1
    assert losses(training, keys, data, target, values)["regression/depth"] != before["regression/depth"]


def test_that_scrambled_targets_of_cases_without_one_change_nothing(training):
    keys, data, target = batch_of("all", "no_dose", "nothing")
    values = values_of(3)
    before = losses(training, keys, data, target, values)
    data[1:, 2] = float("nan")
    data[2, 1] = 1e9
    after = losses(training, keys, data, target, values)
    assert before == after
    for loss in (before, after):
        gradients = torch.autograd.grad(sum(loss.values()), list(values.values()), retain_graph=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        assert (gradients[0][1:] == 0).all()
        assert (gradients[1][2] == 0).all()
        assert (gradients[1][1] != 0).any()
    data[0, 2] += 1
    assert losses(training, keys, data, target, values)["regression/dose"] != before["regression/dose"]


def test_that_the_loss_is_the_error_in_units_of_the_scale(training):
    keys, data, target = batch_of("all")
    data[:, 1:3] = 30.0
    values = {"dose": torch.zeros(1, 1, *SHAPE), "depth": torch.full((1, 1, *SHAPE), 14.0)}
    assert {term: float(loss) for term, loss in losses(training, keys, data, target, values).items()} == {
        "regression/dose": pytest.approx(3.0),
        "regression/depth": pytest.approx(1.0),
    }
    assert training.loss_terms == (term_of("dose"), term_of("depth"))


def test_that_a_term_is_present_where_a_voxel_counts(training):
    keys, data, target = batch_of("no_body", "nothing")
    assert training.present(training.split(keys, data, target)[1]) == {
        "regression/dose": True,
        "regression/depth": False,
    }
    keys, data, target = batch_of("all")
    target[:] = False  # a patch beside the body
    assert training.present(training.split(keys, data, target)[1]) == {
        "regression/dose": False,
        "regression/depth": True,
    }


def test_that_the_mean_error_of_an_epoch_is_over_voxels_and_in_the_targets_unit(training):
    steps = []
    for keys, error in ((("all", "no_dose"), 0.1), (("no_body",), 0.4), (("nothing",), 9.0)):
        keys, data, target = batch_of(*keys)
        _, voxels = training.split(keys, data, target)
        values = {"dose": voxels.target[:, :1] + error, "depth": voxels.target[:, 1:]}
        steps.append(training.numbers(values, voxels))
    collated = {key: np.stack([step[key] for step in steps]) for key in (ERROR, VOXELS)}
    counts = [step[VOXELS][0] for step in steps]
    assert counts[2] == 0
    assert counts[1] > counts[0] > 0
    expected = 10 * (0.1 * counts[0] + 0.4 * counts[1]) / sum(counts)
    assert training.mean_errors(collated) == {"dose": pytest.approx(expected), "depth": pytest.approx(0, abs=1e-6)}
    nothing = {key: values[2:] for key, values in collated.items()}
    assert np.isnan(training.mean_errors(nothing)["dose"])
    assert mae_key("dose") == "regression/dose/mae"


def test_that_without_regression_tasks_nothing_changes():
    plain = TaskSet.from_dataset_json({"labels": {"background": 0, "a": 1}})
    training = RegressionTraining(plain, ())
    keys, data, target = batch_of("all")
    images, voxels = training.split(keys, data, target)
    assert images is data
    assert voxels is None
    assert training.losses({}, None) == training.present(None) == training.numbers({}, None) == {}
    assert training.mean_errors({}) == {}
    assert training.loss_terms == ()
    assert training.describe("T") == ""
    options = {"transforms": "theirs"}
    assert training.with_targets("dataset", options) == "dataset"
    assert options == {"transforms": "theirs"}
    assert training.dataset_class(dict, 1) is dict


def test_that_a_trainer_that_does_not_regress_has_the_images_alone_and_says_so():
    plain = without_regressions(TASKS)
    assert plain.regressions == ()
    assert plain.annotated("all") == TASKS.annotated("all") == (True, True)
    assert plain.cases["no_body"].annotated == ("target",)
    assert "dose" not in plain.compact()["tasks"]
    training = RegressionTraining(plain, TASKS.regressions)
    assert training.loss_terms == ()
    assert training.describe("T") == "T predicts no value per voxel: dose, depth is left out, and its channels too"
    assert isinstance(training.dataset_class(Datasets, 1), ImageDatasets)
    options = {"transforms": "theirs"}
    assert training.with_targets("images", options) == "images"


def without_block():
    return TaskSet.from_dataset_json({key: value for key, value in DATASET.items() if key != "nnunet_mtl"})


class Datasets:
    identifiers, source_folder = ("a",), "folder"
    get_identifiers = unpack_dataset = staticmethod(len)


def test_that_the_loader_gets_targets_and_its_transforms_are_told(training):
    options = {"transforms": len}
    images = training.dataset_class(Datasets, 1)()
    assert isinstance(images, ImageDataset)
    assert isinstance(training.with_targets(images, options), TargetDataset)
    assert isinstance(options["transforms"], BesideImage)
    with pytest.raises(TypeError, match="Datasets"):
        training.with_targets(Datasets(), options)


def test_that_its_text_names_no_case(training):
    assert repr(training) == "RegressionTraining(['dose', 'depth'])"
    assert (
        training.describe("T") == "dose is learnt inside body, divided by 10; depth is learnt everywhere, divided by 2"
    )


def changed(**task):
    tasks = {**DATASET["nnunet_mtl"]["tasks"]}
    for name, scale in task.items():
        tasks[name] = {key: value for key, value in {**tasks[name], "scale": scale}.items() if value is not None}
    return TaskSet.from_dataset_json(
        {**DATASET, "nnunet_mtl": {**DATASET["nnunet_mtl"], "tasks": tasks}}, "D/dataset.json"
    )


def test_that_a_scale_is_what_is_given_or_the_spread_in_the_plans():
    assert [task.scale for task in with_scales(changed(depth=None), PLANS).regressions] == [10.0, 4.0]
    assert with_scales(without_block(), {}).regressions == ()
    assert without_regressions(without_block()) == without_block()


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        (
            PLANS,
            'D/dataset.json: nnunet_mtl.tasks.dose: the target is the same in all labelled voxels of the plans; give "',
        ),
        (
            {"foreground_intensity_properties_per_channel": {"2": {"std": float("nan")}}},
            "D/dataset.json: nnunet_mtl.tasks.dose: the target is the same in all labelled voxels",
        ),
        (
            {},
            "D/dataset.json: nnunet_mtl.tasks.dose.channel: the plans do not know channel 2; plan and preprocess again",
        ),
    ],
)
def test_that_plans_that_know_no_spread_are_refused(plans, message):
    with pytest.raises(TaskSetError) as error:
        with_scales(changed(dose=None), plans)
    assert str(error.value).startswith(message)


def test_that_the_models_dataset_json_has_the_image_channels_and_all_else():
    cut = without_targets(DATASET, TASKS.regressions)
    assert cut == DATASET | {"channel_names": {"0": "CT"}}
    assert TaskSet.from_dataset_json(without_cases(cut)).regressions == TASKS.regressions
    assert without_targets(DATASET, ()) == DATASET
    older = {"modality": DATASET["channel_names"]}
    assert without_targets(older, TASKS.regressions) == {"modality": {"0": "CT"}}
