"""The result of a check: what was found, how bad it is, and the remedy."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        level: "ok"; "warning" for what may be intended; "problem" for what fails or gives wrong results.
        text: The finding in one line.
        remedy: What to do about a warning or a problem; empty if nothing is to be done.
        details: One line for every file or case that the finding is about, if there are several.
        told: Number of details in a report that does not list every detail.
    """

    level: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()
    told: int = 3


def report(findings: Iterable[Finding], *, every_detail: bool = False) -> str:
    """Return the findings as text: one line for each finding, its details and its remedy; the last line counts them.

    Args:
        findings: The results of the checks, in the order of the report.
        every_detail: Whether all details are listed; otherwise `Finding.told` of them are.
    """
    findings = list(findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.text}")
        told = finding.details if every_detail else finding.details[: finding.told]
        lines += [f"{'':<8}    {detail}" for detail in told]
        if 0 < len(told) < len(finding.details):
            lines.append(f"{'':<8}    and {len(finding.details) - len(told)} more, which --all lists")
        if finding.remedy:
            lines.append(f"{'':<8} -> {finding.remedy}")
    problems, warnings = (sum(finding.level == level for finding in findings) for level in ("problem", "warning"))
    lines.append(f"{len(findings)} findings, {problems} of them problems, {warnings} warnings")
    return "\n".join(lines)
