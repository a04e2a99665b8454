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
        details: Every instance of it, where there are several: a line each.
        told: How many of them are told where not all are asked for.
    """

    level: Literal["ok", "warning", "problem"]
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()
    told: int = 3


def report(findings: Iterable[Finding], *, every_detail: bool = False) -> str:
    """Return the findings as text, a line each with their remedies and details, and a last line that counts them.

    Args:
        findings: What was found.
        every_detail: Whether all details are told, and not the first few.
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
