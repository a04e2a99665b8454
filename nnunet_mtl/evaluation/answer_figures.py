"""The figures of the image-level answers, by file name."""

from collections.abc import Iterator, Mapping

from nnunet_mtl.evaluation.answer_scores import AnswerScores
from nnunet_mtl.evaluation.figures import Curve, reliability_figure, roc_figure
from nnunet_mtl.evaluation.question_evaluation import QuestionEvaluation


def question_figures(questions: Mapping[str, QuestionEvaluation]) -> dict[str, bytes]:
    """Draw reliability diagram and ROC of each question; a question of several classes has a line for each.

    Returns:
        PNG files by name: `reliability_QUESTION.png`, and `roc_QUESTION.png` where both answers occur.
    """
    figures = {}
    for name, question in questions.items():
        reliability, roc = [], []
        for title, scores in _lines(name, question):
            filled = scores.reliability.counts > 0
            found = scores.reliability
            reliability.append(Curve(title, found.predicted[filled], found.observed[filled], found.counts[filled]))
            if scores.roc is not None:
                roc.append(Curve(title, scores.roc.false_positive_rate, scores.roc.true_positive_rate))
        if any(len(curve.x) for curve in reliability):
            figures[f"reliability_{name}.png"] = reliability_figure(reliability)
        if roc:
            figures[f"roc_{name}.png"] = roc_figure(roc)
    return figures


def _lines(name: str, question: QuestionEvaluation) -> Iterator[tuple[str, AnswerScores]]:
    if question.of_class:
        yield from question.of_class.items()
    elif question.whole is not None:
        yield f"{name}: {question.answered.question.classes[-1]}", question.whole
