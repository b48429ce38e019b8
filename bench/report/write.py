"""Every output of a report, into the run folder."""

from __future__ import annotations

from pathlib import Path

from bench.metrics import Summary
from bench.report import html, json_, markdown
from bench.report.charts import charts_of, png, svg
from bench.report.files import write_whole


def write_all(summary: Summary, folder: Path) -> dict[str, Path]:
    """Write report.html, summary.md, summary.json and charts/*; return the paths by name. Raises `OSError`.

    Charts of an earlier report that this one no longer has are removed: the folder shows one state of the records.
    """
    charts = charts_of(summary)
    drawn = folder / "charts"
    drawn.mkdir(exist_ok=True)
    written = {
        "json": write_whole(folder / "summary.json", json_.render(summary)),
        "markdown": write_whole(folder / "summary.md", markdown.render(summary)),
        "html": write_whole(folder / "report.html", html.render(summary, charts)),
    }
    for chart in charts:
        written[f"charts/{chart.name}.svg"] = write_whole(drawn / f"{chart.name}.svg", svg(chart))
        written[f"charts/{chart.name}.png"] = write_whole(drawn / f"{chart.name}.png", png(chart))
    for stale in drawn.glob("*.[sp][vn]g"):
        if stale not in written.values():
            stale.unlink()
    return written
