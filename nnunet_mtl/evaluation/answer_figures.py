"""The figures of the image-level answers, by file name."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from nnunet_mtl.evaluation.answer_scores import AnswerScores
from nnunet_mtl.evaluation.figures import Curve, reliability_figure, roc_figure
from nnunet_mtl.evaluation.question_evaluation import QuestionEvaluation


def question_figures(questions: Mapping[str, QuestionEvaluation]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield reliability diagram and ROC of each question; a question of several classes has a line for each.

    Yields:
        The name of a PNG file, and what draws it: `reliability_QUESTION.png`, and `roc_QUESTION.png` where both answers
        occur.
    """
    for name, question in questions.items():
        reliability, roc = [], []
        for title, scores in _lines(name, question):
            filled = scores.reliability.counts > 0
            found = scores.reliability
            reliability.append(Curve(title, found.predicted[filled], found.observed[filled], found.counts[filled]))
            if scores.roc is not None:
                roc.append(Curve(title, scores.roc.false_positive_rate, scores.roc.true_positive_rate))
        if any(len(curve.x) for curve in reliability):
            yield f"reliability_{name}.png", partial(reliability_figure, reliability)
        if roc:
            yield f"roc_{name}.png", partial(roc_figure, roc)


def _lines(name: str, question: QuestionEvaluation) -> Iterator[tuple[str, AnswerScores]]:
    if question.of_class:
        yield from question.of_class.items()
    elif question.whole is not None:
        yield f"{name}: {question.answered.question.classes[-1]}", question.whole
