"""Where a paper is silent, a trainer begins with the value of the code that its authors released."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from nnunet_mtl.losses.channel import ChannelDiceBCELoss
from nnunet_mtl.networks.layout import Layout
from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.trainers.nnUNetTrainerCLIPDriven import nnUNetTrainerCLIPDriven
from nnunet_mtl.trainers.nnUNetTrainerDoDNet import nnUNetTrainerDoDNet
from nnunet_mtl.trainers.nnUNetTrainerUniSeg import nnUNetTrainerUniSeg
from nnunet_mtl.training.composition import chosen_loss
from nnunet_mtl.training.sampling import sampling_probabilities
from nnunet_mtl.training.scheduled_trainer import settings_in
from nnunet_mtl.training.segmentation_loss import segmentation_loss

TASKS = TaskSet.from_dataset_json(
    {
        "labels": {"background": 0, "liver": [1, 1], "spleen": [2, 2]},
        "regions_class_order": [1, 2],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {"liver": {"regions": ["liver"]}, "spleen": {"regions": ["spleen"]}},
            "cases": {f"c{i}": {"annotated": ["liver" if i else "spleen"]} for i in range(9)},
        },
    }
)


def test_uniseg_gives_every_task_as_many_draws() -> None:
    cases = list(TASKS.cases)
    chances = sampling_probabilities(TASKS, cases, settings_in({}, nnUNetTrainerUniSeg.defaults).sampling)
    of_task: Counter[Any] = Counter()
    for case, chance in zip(cases, np.full(9, 1 / 9) if chances is None else chances, strict=True):
        of_task[TASKS.annotated_tasks(case)] += chance
    assert of_task == pytest.approx({(0,): 0.5, (1,): 0.5})
    chosen = settings_in({"nnunet_mtl": {"settings": {"sampling": "cases"}}}, nnUNetTrainerUniSeg.defaults)
    assert chosen.sampling == "cases"


def test_the_clip_driven_model_averages_over_the_regions_of_all_samples() -> None:
    settings = settings_in({}, nnUNetTrainerCLIPDriven.defaults)
    assert chosen_loss(nnUNetTrainerCLIPDriven, settings) == "pair"
    options = {"batch_dice": True, "use_ignore_label": False, "dice_weight": 1.0, "bce_weight": 1.0}
    loss = segmentation_loss("pair", Layout.from_tasks(TASKS), **options)
    assert isinstance(loss, ChannelDiceBCELoss)
    assert loss.slot_of_region.tolist() == [0, 0]
    plain = settings_in({"nnunet_mtl": {"settings": {"loss": "nnunet"}}}, nnUNetTrainerCLIPDriven.defaults)
    assert chosen_loss(nnUNetTrainerCLIPDriven, plain) == "masked"
    assert chosen_loss(nnUNetTrainerDoDNet, settings) == "channel"
