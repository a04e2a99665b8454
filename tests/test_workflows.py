"""What GitHub and pre-commit run is there: every path, every command, every hook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def runs(path: Path) -> str:
    return "\n".join(step.get("run", "") for job in read(path)["jobs"].values() for step in job["steps"])


def test_there_is_one_workflow_for_each_purpose() -> None:
    assert [path.stem for path in WORKFLOWS] == ["canary", "docs", "release", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_is_there(path: Path) -> None:
    named = re.findall(r"(?:\.ci|tests)/[\w/.]+", runs(path))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_push_runs_what_anybody_runs_from_a_fresh_clone() -> None:
    assert "push" in read(ROOT / ".github" / "workflows" / "tests.yml")[True]  # YAML reads the key `on` as true
    assert "bash .ci/run" in runs(ROOT / ".github" / "workflows" / "tests.yml")


def test_the_canary_tries_the_newest_nnunet_and_torch_every_week() -> None:
    canary = ROOT / ".github" / "workflows" / "canary.yml"
    (schedule,) = read(canary)[True]["schedule"]
    assert len(schedule["cron"].split()) == 5
    assert schedule["cron"].split()[-1] != "*"
    assert re.search(r"pip install --upgrade .*\bnnunetv2 torch\b", runs(canary))
    assert "tests/training/test_overrides.py tests/inference/test_overrides.py" in runs(canary)


def test_a_release_is_published_without_a_password() -> None:
    release = read(ROOT / ".github" / "workflows" / "release.yml")
    assert release[True]["push"]["tags"] == ["v[0-9]+.[0-9]+.[0-9]+"]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert not any("password" in step.get("with", {}) for step in publish["steps"])
    assert "bash .ci/run" in runs(ROOT / ".github" / "workflows" / "release.yml")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_for_what_the_doctor_says(path: Path) -> None:
    (field,) = [field for field in read(path)["body"] if field.get("id") == "doctor"]
    assert "`nnunet_mtl doctor`" in field["attributes"]["label"]
    assert field["validations"] == {"required": True}


def test_hooks_run_ruff_and_mypy_as_ci_does() -> None:
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = {hook["id"]: hook["entry"] for hook in local["hooks"]}
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert entries["ruff"].startswith("ruff check")
    assert entries["mypy"] == "mypy nnunet_mtl trainers planners"
    for command in ("ruff check", "ruff format --check", entries["mypy"], "lint-imports"):
        assert f"\n{command}\n" in ci
