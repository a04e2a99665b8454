"""What a check found and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        level: "ok"; "warning" for what may be meant; "problem" for what fails or gives wrong results.
        text: What was found.
        remedy: What to do, empty where nothing is to be done.
    """

    level: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""


def report(findings: Iterable[Finding]) -> str:
    """Return the findings as text, one or two lines each, and a last line that counts them."""
    findings = list(findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<8} -> {finding.remedy}")
    problems, warnings = (sum(finding.level == level for finding in findings) for level in ("problem", "warning"))
    lines.append(f"{len(findings)} findings, {problems} of them problems, {warnings} warnings")
    return "\n".join(lines)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
