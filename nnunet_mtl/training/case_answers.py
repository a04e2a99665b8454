"""Image-level answers for whole validation cases, with the sliding window of prediction.

Answers for training patches say little about whole cases: training crops are drawn around foreground, whereas most
patches of a case hold no evidence.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import Tensor
from torch import distributed as dist

from nnunet_mtl.evaluation.answers.point_metrics import PointMetrics
from nnunet_mtl.inference.predictor import MultiTaskPredictor

Answers = dict[str, dict[str, Tensor]]


def answer_cases(trainer: Any, cases: Sequence[str]) -> Answers:
    """Answer the questions for preprocessed cases with the network's present weights, without mirroring.

    The network runs only tasks that own the evidence of a question. Under DDP every rank answers its share of the cases
    and returns the answers of all ranks.

    Args:
        trainer: A `MultiTaskTrainer`; its network is put into evaluation mode, then back into training mode.
        cases: Case identifiers, the same on every rank.

    Returns:
        Probabilities of the classes, (C,), by case, then question.
    """
    predictor = MultiTaskPredictor(
        use_mirroring=False,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.bare_network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        None,
    )
    answers: Answers = {}
    with _evaluating(trainer), _only_evidence(trainer):
        for case, image in _images(trainer, cases_of_rank(trainer, cases)):
            predictor.predict_sliding_window_return_logits(image)
            answers[case] = predictor.probabilities()
    return from_all_ranks(trainer, answers)


def score_labelled_cases(trainer: Any) -> dict[str, PointMetrics]:
    """Answer the questions for the labelled validation cases of the fold; log and return the scores by question.

    Args:
        trainer: A `MultiTaskTrainer`.
    """
    _, cases = trainer.do_split()
    answers = answer_cases(trainer, trainer.image_level.labels.labelled(cases))
    scores: dict[str, PointMetrics] = trainer.image_level.case_scores(answers)
    trainer.monitor.answers.report(scores)
    return scores


@contextmanager
def _evaluating(trainer: Any) -> Iterator[None]:
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    try:
        yield
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        trainer.network.train()


@contextmanager
def _only_evidence(trainer: Any) -> Iterator[None]:
    network = trainer.bare_network
    everything = range(len(trainer.tasks.tasks))
    owners = {question["task"] for question in network.classification.questions} - {-1}
    network.select_tasks(sorted(owners) or [0])
    try:
        yield
    finally:
        network.select_tasks(everything)


def _images(trainer: Any, cases: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield every case with its network input, (C, *spatial); in a cascade it holds the previous stage's labels."""
    dataset = trainer.dataset_class(
        trainer.preprocessed_dataset_folder,
        list(cases),
        folder_with_segs_from_previous_stage=trainer.folder_with_segs_from_previous_stage,
    )
    for case in dataset.identifiers:
        data, _, previous, _ = dataset.load_case(case)
        image = np.array(data[:])
        if trainer.is_cascaded:
            labels = trainer.label_manager.foreground_labels
            image = np.vstack((image, convert_labelmap_to_one_hot(previous[:], labels, output_dtype=image.dtype)))
        yield case, torch.from_numpy(image)


def cases_of_rank(trainer: Any, cases: Sequence[str]) -> list[str]:
    """Return the cases that nnU-Net gives to this rank."""
    return list(cases[trainer.local_rank :: dist.get_world_size()] if trainer.is_ddp else cases)


def from_all_ranks(trainer: Any, answers: Mapping[str, dict[str, Tensor]]) -> Answers:
    """Return the answers of all ranks by case; every rank gets them."""
    if not trainer.is_ddp:
        return dict(answers)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, dict(answers))
    return {case: answered for rank in gathered for case, answered in rank.items()}
