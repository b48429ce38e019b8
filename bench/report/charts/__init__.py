"""Charts, one file per kind; `charts_of` says which a run has, phase by phase."""

from __future__ import annotations

from bench.metrics import Phase, Summary
from bench.report.charts import capacity, costs, ecdf, forest, overtime, spectrum, timeline, waterfall, wire
from bench.report.charts.canvas import Chart, Drawn, drawn

__all__ = ["Chart", "Drawn", "charts_of", "drawn", "phase_charts"]

_KINDS = (capacity, ecdf, waterfall, timeline, spectrum, overtime, costs, wire)


def phase_charts(summary: Summary, phase: Phase) -> list[Chart]:
    """The charts of one phase, in reading order; none where there is nothing to see."""
    return [chart for kind in _KINDS for chart in kind.make(summary, phase)]


def charts_of(summary: Summary) -> list[Chart]:
    """All charts of a run: of its verdicts, which belong to no phase, then of its phases."""
    return forest.make(summary) + [chart for phase in summary.phases for chart in phase_charts(summary, phase)]
