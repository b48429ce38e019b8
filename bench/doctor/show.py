"""Findings as a table for people and as JSON for programs."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.doctor.finding import Finding, Status

STYLES = {Status.OK: "green", Status.ADVICE: "yellow", Status.PROBLEM: "bold red", Status.UNKNOWN: "dim"}
_WIDTH = 100


def fit(found: list[Finding]) -> bool:
    """Whether results of this machine could be valid: no finding is a problem."""
    return not any(finding.status is Status.PROBLEM for finding in found)


def as_json(found: list[Finding]) -> str:
    """`{"fit": true, "checks": [{"name", "status", "seen", "wanted", "advice", "command"}, ...]}`, indented."""
    document = msgspec.json.encode({"fit": fit(found), "checks": found})
    return msgspec.json.format(document, indent=2).decode()


def print_findings(found: list[Finding], console: Console) -> None:
    """Print a row per check, then what to do, the gravest first: commands whole, on lines of their own."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("status", "check"):
        table.add_column(title, no_wrap=True)
    for title in ("seen", "wanted"):
        table.add_column(title, overflow="fold")
    for finding in found:
        status = Text(finding.status, style=STYLES[finding.status])
        table.add_row(status, *map(Text, (finding.name, finding.seen, finding.wanted)))
    console.print(table, width=min(console.width, _WIDTH))
    for grave in (Status.PROBLEM, Status.ADVICE):
        for finding in found:
            if finding.status is grave:
                console.print()
                heading = Text.assemble((f"{grave}: ", STYLES[grave]), f"{finding.name}. {finding.advice}")
                console.print(heading, width=min(console.width, _WIDTH))
                if finding.command:
                    console.print(Text(f"    {finding.command}"), soft_wrap=True)
    console.print()
    console.print(Text(verdict(found), style="" if fit(found) else "bold red"), width=min(console.width, _WIDTH))


def verdict(found: list[Finding]) -> str:
    """One sentence on all of it."""
    counts = {status: sum(finding.status is status for finding in found) for status in Status}
    problems, advice = counts[Status.PROBLEM], counts[Status.ADVICE]
    if problems:
        return f"Not fit: {problems} {'problem' if problems == 1 else 'problems'} would make results invalid."
    if advice:
        return f"Fit for measuring, with {advice} {'piece' if advice == 1 else 'pieces'} of advice."
    return "Fit for measuring."
