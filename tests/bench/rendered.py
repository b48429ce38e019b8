"""What a report says, without the pictures: drawing them takes longer than all else."""

from __future__ import annotations

from bench.metrics import Summary
from bench.report import html, markdown
from bench.report.charts import charts_of
from bench.report.sections import sections


def page(summary: Summary) -> str:
    """report.html with its charts' titles and captions, and each picture empty."""
    charts, told = charts_of(summary), sections(summary)
    every = [*charts, *(chart for section in told for chart in section.charts)]
    return html.render(summary, charts, told, {chart.name: "<svg></svg>" for chart in every})


def text(summary: Summary) -> str:
    """summary.md."""
    return markdown.render(summary, sections(summary))
