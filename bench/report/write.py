"""Every output of a report, into the run folder."""

from __future__ import annotations

from pathlib import Path

from bench.files import write_whole
from bench.metrics import Summary
from bench.report import html, json_, markdown
from bench.report.charts import charts_of, standalone
from bench.report.sections import sections


def write_all(summary: Summary, folder: Path) -> dict[str, Path]:
    """Write report.html, summary.md, summary.json and charts/*; return the paths by name. Raises `OSError`.

    Charts of an earlier report that this one no longer has are removed: the folder shows one state of the records.
    """
    charts = charts_of(summary)
    every = [*charts, *(chart for section in sections(summary) for chart in section.charts)]
    drawn = folder / "charts"
    drawn.mkdir(exist_ok=True)
    written = {
        "json": write_whole(folder / "summary.json", json_.render(summary)),
        "markdown": write_whole(folder / "summary.md", markdown.render(summary)),
        "html": write_whole(folder / "report.html", html.render(summary, charts)),
    }
    for chart in every:
        for kind, picture in zip(("svg", "png"), standalone(chart), strict=True):
            written[f"charts/{chart.name}.{kind}"] = write_whole(drawn / f"{chart.name}.{kind}", picture)
    for stale in drawn.glob("*.[sp][vn]g"):
        if stale not in written.values():
            stale.unlink()
    return written
