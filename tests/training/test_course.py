import torch

from nnunet_mtl.tasks import TaskSet
from nnunet_mtl.tasks.settings import Settings
from nnunet_mtl.training.course import Course

TASKS = TaskSet.from_dataset_json(
    {"labels": {"background": 0, "liver": [1, 2], "tumour": [2]}, "regions_class_order": [1, 2]}
)


def test_by_default_every_annotated_region_is_taught_in_every_epoch() -> None:
    course = Course(TASKS, Settings())
    annotated = torch.tensor([[True, False], [False, True]])
    for epoch in (0, 999):
        course.begin_epoch(epoch)
        assert course.teaching(annotated, torch.zeros(2, 2, 4, 4), {}, epoch) is annotated
        assert course.is_complete(epoch)
        assert not course.term_weights(epoch)
        assert not list(course.resting_parameters(torch.nn.Linear(1, 1), epoch))
        assert course.end_epoch(epoch) == ({}, "")
    assert course.cases is TASKS
    assert not course.logged_keys
