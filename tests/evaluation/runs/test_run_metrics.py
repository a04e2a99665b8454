import json
import math

import pytest

from nnunet_mtl.evaluation.metrics.overlap import Overlap
from nnunet_mtl.evaluation.metrics.region_metrics import METRICS
from nnunet_mtl.evaluation.runs.case_metrics import CaseMetrics
from nnunet_mtl.evaluation.runs.run_metrics import RunMetrics, RunMetricsError
from nnunet_mtl.tasks import TaskSet

TASKSET = TaskSet.from_dataset_json(
    {
        "labels": {"background": 0, "liver": [1, 2], "tumour": [2], "vessel": [3]},
        "regions_class_order": [1, 2, 3],
        "nnunet_mtl": {
            "version": 1,
            "tasks": {
                "liver": {"regions": ["liver", "tumour"], "slots": ["organ", "tumour"]},
                "vessel": {"regions": ["vessel"], "slots": ["organ"]},
            },
        },
    }
)


def scored(case, region, task="liver", overlap=(1, 2, 3), **metrics):
    return CaseMetrics(case, task, region, {**dict.fromkeys(METRICS, math.nan), **metrics}, Overlap(*overlap))


@pytest.fixture
def run():
    return RunMetrics(
        (
            scored("a", "liver", dice=0.5, hd95_mm=2.0, overlap=(1, 2, 2)),
            scored("a", "tumour", dice=math.nan, lesions=2.0, lesions_found=1.0, false_positives=3.0),
            scored("b", "liver", dice=0.9, hd95_mm=4.0, overlap=(90, 100, 100)),
            scored("b", "vessel", "vessel", dice=0.2),
            scored("c", "tumour", dice=0.1, lesions=1.0, lesions_found=1.0, false_positives=0.0),
        ),
        TASKSET,
    )


def test_means_leave_out_what_is_not_available(run):
    assert run.mean("liver", "dice") == pytest.approx(0.7)
    assert run.mean("tumour", "dice") == pytest.approx(0.1)
    assert math.isnan(run.mean("vessel", "nsd"))
    assert run.mean_of_case("a", "dice") == 0.5
    assert run.mean_of_case("b", "dice") == pytest.approx(0.55)
    assert run.cases == ("a", "b", "c")
    assert run.annotated_regions == {"liver": "liver", "tumour": "liver", "vessel": "vessel"}


def test_a_table_written_and_read_is_the_same(run, tmp_path):
    run.write(tmp_path / "cases.csv")
    assert repr(RunMetrics.read(tmp_path / "cases.csv", TASKSET)) == repr(run)
    assert (tmp_path / "cases.csv").read_text().splitlines()[2].startswith("a,liver,tumour,,,")


def test_a_table_that_is_none_is_refused(run, tmp_path):
    path = tmp_path / "cases.csv"
    with pytest.raises(RunMetricsError, match="cannot be read"):
        RunMetrics.read(path, TASKSET)
    path.write_text("case,task\n")
    with pytest.raises(RunMetricsError, match="no column region, dice"):
        RunMetrics.read(path, TASKSET)
    run.write(path)
    path.write_text(path.read_text().replace("0.5", "much", 1))
    with pytest.raises(RunMetricsError, match="line 2"):
        RunMetrics.read(path, TASKSET)


def test_the_summary_by_hand(run):
    summary = run.summary()
    json.dumps(summary, allow_nan=False)
    assert summary["cases"] == 3
    assert summary["mean_dice"] == pytest.approx((0.7 + 0.1 + 0.2) / 3)
    assert summary["tasks"]["liver"]["mean_dice"] == pytest.approx(0.4)
    assert summary["slots"]["organ"]["mean_dice"] == pytest.approx(0.45)
    liver, tumour = (summary["regions"][region] for region in ("liver", "tumour"))
    dice = liver["metrics"]["dice"]
    assert (dice["mean"], dice["median"], dice["n_cases"], dice["n_missing"]) == (pytest.approx(0.7), 0.7, 2, 0)
    assert dice["sd"] == pytest.approx(math.sqrt(0.08))
    assert tumour["metrics"]["dice"]["n_missing"] == 1
    assert tumour["metrics"]["dice"]["sd"] is None
    assert summary["regions"]["vessel"]["metrics"]["nsd"]["mean"] is None
    # LiTS: from the counts of all cases together
    assert liver["global_dice"] == pytest.approx(2 * 91 / 204)
    assert tumour["lesions"] == {
        "reference": 3,
        "found": 2,
        "sensitivity": pytest.approx(2 / 3),
        "false_positives_per_case": 1.5,
    }
    assert "lesions" not in liver
