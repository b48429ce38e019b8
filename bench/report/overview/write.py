"""Every output of an overview, into the folder of the set."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.files import write_whole
from bench.report.charts import distance, standalone
from bench.report.overview import html, markdown
from bench.report.overview.data import REPORT, Overview


def write_all(overview: Overview, folder: Path) -> dict[str, Path]:
    """Write report.html, summary.md, summary.json and charts/*; return the paths by name. Raises `OSError`."""
    charts = distance.make(overview)
    drawn = folder / "charts"
    drawn.mkdir(exist_ok=True)
    written = {
        "json": write_whole(
            folder / "summary.json", msgspec.json.format(msgspec.json.encode(overview), indent=1) + b"\n"
        ),
        "markdown": write_whole(folder / "summary.md", markdown.render(overview)),
        "html": write_whole(folder / REPORT, html.render(overview, charts)),
    }
    for chart in charts:
        for kind, picture in zip(("svg", "png"), standalone(chart), strict=True):
            written[f"charts/{chart.name}.{kind}"] = write_whole(drawn / f"{chart.name}.{kind}", picture)
    for stale in drawn.glob("*.[sp][vn]g"):
        if stale not in written.values():
            stale.unlink()
    return written
