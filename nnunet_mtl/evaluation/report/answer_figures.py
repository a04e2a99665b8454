"""The reliability diagram and the ROC curve of every question, by file name."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from nnunet_mtl.evaluation.answers.question_evaluation import QuestionEvaluation
from nnunet_mtl.evaluation.answers.question_metrics import QuestionMetrics
from nnunet_mtl.evaluation.report.metric_plots import Curve, reliability_figure, roc_figure


def question_figures(questions: Mapping[str, QuestionEvaluation]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the reliability diagram and the ROC curve of every question, with one curve for every class or label.

    Yields:
        File name and drawing function: `reliability_QUESTION.png`, and `roc_QUESTION.png` if positive and negative
        cases occur. The function returns PNG bytes.
    """
    for name, question in questions.items():
        reliability, roc = [], []
        for title, metrics in _curves(name, question):
            bins = metrics.reliability
            filled = bins.counts > 0
            reliability.append(Curve(title, bins.predicted[filled], bins.observed[filled], bins.counts[filled]))
            if metrics.roc is not None:
                roc.append(Curve(title, metrics.roc.false_positive_rate, metrics.roc.true_positive_rate))
        if any(len(curve.x) for curve in reliability):
            yield f"reliability_{name}.png", partial(reliability_figure, reliability)
        if roc:
            yield f"roc_{name}.png", partial(roc_figure, roc)


def _curves(name: str, question: QuestionEvaluation) -> Iterator[tuple[str, QuestionMetrics]]:
    if question.of_class:
        yield from question.of_class.items()
    elif question.whole is not None:
        yield f"{name}: {question.answered.question.classes[-1]}", question.whole
