"""What a section is: findings in words, tables, charts."""

from __future__ import annotations

from typing import NamedTuple

from bench.report.charts.canvas import Chart
from bench.report.finding import Finding, Grid


class Section(NamedTuple):
    """A part of a report."""

    title: str
    note: str
    """How to read it, in a sentence or two."""
    findings: list[Finding]
    grids: list[Grid]
    charts: list[Chart]
