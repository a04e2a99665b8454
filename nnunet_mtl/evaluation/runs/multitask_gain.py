"""The multi-task gain: how much one network for several tasks gains over one network for each task, as one number.

The relative gain of every task's metric, positive where the multi-task network is better, averaged over the tasks:

    Delta = 1/K * sum_i (-1)^l_i (M_i - S_i) / S_i,    l_i = 1 where lower is better, else 0,

where M_i is the metric of the multi-task network and S_i the metric of the single-task network (Kim, Purdie, McIntosh,
"Cross-Task Attention Network: Improving Multi-Task Learning for Medical Imaging Applications", 2023,
arXiv:2309.03837; before that Maninis, Radosavovic, Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019).
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_mtl.common.errors import UserError
from nnunet_mtl.common.messages import spelt


class GainError(UserError):
    """The multi-task gain cannot be computed from these metrics."""


@dataclass(frozen=True)
class MultitaskGain:
    """The gain over single-task runs, as fractions: 0.05 is 5 %.

    Attributes:
        delta: Mean over the metrics.
        of_metric: Gain of every metric; positive is better also for metrics of which less is better.
    """

    delta: float
    of_metric: Mapping[str, float]

    def to_mapping(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {"delta": self.delta, "of_metric": dict(self.of_metric)}


def multitask_gain(
    multi: Mapping[str, float | None], single: Mapping[str, float | None], lower_is_better: Collection[str] = ()
) -> MultitaskGain:
    """Compare a multi-task run with the single-task runs of the same tasks.

    Args:
        multi: Metrics of the multi-task run by name, such as one Dice for each region.
        single: The same metrics of the single-task runs; they must be above 0, because the gain is relative to them.
        lower_is_better: Names of the metrics of which less is better.

    Returns:
        The gain, in which every metric weighs the same.

    Raises:
        GainError: If there is no metric, or a metric is missing (None, NaN), infinite, or 0 or less in the single-task
            run. The message names every such metric.
    """
    names = tuple(dict.fromkeys((*single, *multi)))
    pairs = {name: (_number(multi.get(name)), _number(single.get(name))) for name in names}
    problems = [problem for name, pair in pairs.items() for problem in _problems(name, *pair)]
    if problems or not names:
        reasons = "; ".join(problems) or "there is no metric"
        raise GainError(f"multi-task gain: {reasons}; name metrics that every run has and that are above 0")
    gains = {
        name: (-1 if name in lower_is_better else 1) * (ours - theirs) / theirs
        for name, (ours, theirs) in pairs.items()
    }
    return MultitaskGain(sum(gains.values()) / len(gains), gains)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _problems(name: str, multi: float, single: float) -> list[str]:
    values = {"multi-task": multi, "single-task": single}
    problems = [
        f"{spelt(name)} is not available in the {kind} run" for kind in values if not math.isfinite(values[kind])
    ]
    if single <= 0 and math.isfinite(single):
        problems.append(f"{spelt(name)} is {single:g} in the single-task run")
    return problems
