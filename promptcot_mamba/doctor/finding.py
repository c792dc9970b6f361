"""One finding of the doctor, and the table of all."""

from collections.abc import Iterable
from dataclasses import dataclass

OK, NOTE, WARNING, FAULT = "ok", "note", "warning", "FAULT"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it stands, what was found and, where it is not well, what to do.

    A `FAULT` keeps training or sampling from working here; a `WARNING` costs speed or a part; a `NOTE` is for reading.
    """

    name: str
    status: str
    found: str
    mend: str = ""


def render(findings: Iterable[Finding]) -> str:
    """The findings as a table of text, each mend below its line."""
    findings = list(findings)
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<8}{finding.name:<{width}}  {finding.found}")
        if finding.mend:
            lines.append(f"{'':<8}{'':<{width}}  -> {finding.mend}")
    return "\n".join(lines)
