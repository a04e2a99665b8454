import json
import math

import pytest

from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.metrics.region_metrics import METRICS
from nnunet_mtl.evaluation.runs.case_metrics import CaseMetrics
from nnunet_mtl.evaluation.runs.multitask_gain import GainError
from nnunet_mtl.evaluation.runs.run_comparison import ComparisonError, compare_runs
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics
from nnunet_mtl.tasks import TaskSet

TASKSET = TaskSet.from_dataset_json({"labels": {"background": 0, "liver": 1, "spleen": 2}})
CASES = [f"case_{number}" for number in range(8)]


def run_with(cases=CASES, regions=("liver", "spleen"), predicted=("liver", "spleen"), **metrics):
    """A run whose metrics are functions of the case's number."""
    return RunMetrics(
        tuple(
            CaseMetrics(
                case,
                region,
                region,
                {**dict.fromkeys(METRICS, math.nan), **{name: of(n) for name, of in metrics.items()}},
                Overlap(1, 1, 1) if region in predicted else Overlap(0, 0, 1),
            )
            for n, case in enumerate(cases)
            for region in regions
        ),
        TASKSET,
    )


GOOD = run_with(dice=lambda n: 0.8 + 0.01 * n, hd95_mm=lambda n: 2.0 + n)
BAD = run_with(dice=lambda n: 0.7 + 0.012 * n, hd95_mm=lambda n: 5.0 + n)


def test_paired_tests_are_corrected_over_all_pairs_metrics_and_regions():
    result = compare_runs({"good": GOOD, "bad": BAD})
    json.dumps(result, allow_nan=False)
    tests = {(one["region"], one["metric"]): one for one in result["tests"]["comparisons"]}
    assert set(tests) == {(region, metric) for region in ("liver", "spleen") for metric in ("dice", "hd95_mm", "nsd")}
    dice = tests["liver", "dice"]
    assert (dice["first"], dice["second"]) == ("good", "bad")
    assert dice["difference"]["value"] == pytest.approx(0.1 - 0.002 * 3.5)
    assert dice["p_value"] == pytest.approx(2 / 2**8)  # all eight differences of one sign
    assert dice["p_holm"] == pytest.approx(4 * 2 / 2**8)  # of four tests that could be made
    assert tests["liver", "nsd"]["p_value"] is None


def test_ranks_respect_the_direction_of_a_metric():
    ranking = compare_runs({"bad": BAD, "good": GOOD})["ranking"]
    assert ranking["ranks"] == {"bad": 2.0, "good": 1.0}
    assert ranking["of_metric"]["liver hd95_mm"] == {"bad": 2.0, "good": 1.0}
    assert ranking["stability"]["distribution"]["good"] == {"1": 1.0}


def test_the_gain_over_single_task_runs_by_hand():
    one, other = (run_with(regions=(region,), dice=lambda n: 0.4) for region in ("liver", "spleen"))
    gain = compare_runs({"ours": run_with(dice=lambda n: 0.5)}, [one, other])["gain"]
    assert gain["runs"]["ours"]["delta"] == pytest.approx(0.25)
    with pytest.raises(GainError, match="spleen"):
        compare_runs({"ours": GOOD}, [one])


def test_a_single_task_run_counts_for_what_it_predicts():
    # both were scored on everything: what a run was not trained for has Dice 0 in it
    liver = run_with(predicted=("liver",), dice=lambda n: 0.4)
    spleen = run_with(predicted=("spleen",), dice=lambda n: 0.25)
    gain = compare_runs({"ours": run_with(dice=lambda n: 0.5)}, [liver, spleen])["gain"]["runs"]["ours"]
    assert gain["of_metric"] == pytest.approx({"liver": 0.25, "spleen": 1.0})
    with pytest.raises(GainError, match="spleen"):
        compare_runs({"ours": GOOD}, [liver])
    with pytest.raises(ComparisonError, match="single-task run 1 lacks case_7"):
        compare_runs({"ours": GOOD}, [run_with(CASES[:7], dice=lambda n: 0.4)])


def test_a_question_that_a_single_task_run_answers_is_part_of_the_gain():
    single = run_with(dice=lambda n: 0.4)
    given = {"areas": {"ours": {"malignancy": 0.9, "stage": 0.7}}, "single_areas": [{}, {"malignancy": 0.6}]}
    gain = compare_runs({"ours": run_with(dice=lambda n: 0.5)}, [single, single], **given)["gain"]["runs"]["ours"]
    assert gain["of_metric"] == pytest.approx({"liver": 0.25, "spleen": 0.25, "malignancy AUC": 0.5})
    assert gain["delta"] == pytest.approx(1 / 3)
    # a run that does not answer: the question counts for none, so that all gains are over the same metrics
    silent = compare_runs({"ours": GOOD, "silent": GOOD}, [single], **given)["gain"]["runs"]
    assert set(silent["ours"]["of_metric"]) == set(silent["silent"]["of_metric"]) == {"liver", "spleen"}


def test_other_cases_cannot_be_compared():
    with pytest.raises(ComparisonError, match="bad lacks case_7"):
        compare_runs({"good": GOOD, "bad": run_with(CASES[:7], dice=lambda n: 0.5)})
    with pytest.raises(ComparisonError, match="no region in common"):
        compare_runs({"good": GOOD, "bad": run_with(regions=("kidney",), dice=lambda n: 0.5)})


def test_cases_of_other_regions_need_not_be_the_same():
    """A network of the liver alone has no score in a case in which only the spleen was annotated."""
    both = run_with(dice=lambda n: 0.5)
    part = RunMetrics(tuple(row for row in both.rows if row.region == "liver" or row.case != "case_0"), TASKSET)
    liver = RunMetrics(tuple(row for row in part.rows if row.region == "liver"), TASKSET)
    spleen = run_with(CASES[1:], regions=("spleen",), dice=lambda n: 0.4)
    assert compare_runs({"all": part}, [liver, spleen])["gain"]["runs"]["all"]["of_metric"]["spleen"] > 0
    assert compare_runs({"all": part, "liver": liver})["ranking"]["ranks"] == {"all": 1.5, "liver": 1.5}
    with pytest.raises(ComparisonError, match="single-task run 2 lacks case_0"):
        compare_runs({"all": both}, [liver, spleen])
