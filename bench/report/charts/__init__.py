"""Charts, one file per kind; `charts_of` says which a run has, phase by phase."""

from __future__ import annotations

from bench.metrics import Phase, Summary
from bench.report.charts import ecdf
from bench.report.charts.canvas import Chart, inline, png, svg

__all__ = ["Chart", "charts_of", "inline", "phase_charts", "png", "svg"]

_KINDS = (ecdf,)


def phase_charts(summary: Summary, phase: Phase) -> list[Chart]:
    """The charts of one phase, in reading order; none where there is nothing to see."""
    return [chart for kind in _KINDS for chart in kind.make(summary, phase)]


def charts_of(summary: Summary) -> list[Chart]:
    """All charts of a run."""
    return [chart for phase in summary.phases for chart in phase_charts(summary, phase)]
