"""Every output of an overview, into the folder of the set."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.files import write_whole
from bench.report.charts import distance, drawn
from bench.report.overview import html, markdown
from bench.report.overview.data import REPORT, Overview


def write_all(overview: Overview, folder: Path) -> dict[str, Path]:
    """Write report.html, summary.md, summary.json and charts/*; return the paths by name. Raises `OSError`."""
    charts = distance.make(overview)
    pictures = {chart.name: drawn(chart) for chart in charts}
    place = folder / "charts"
    place.mkdir(exist_ok=True)
    page = html.render(overview, charts, {name: picture.inline for name, picture in pictures.items()})
    written = {
        "json": write_whole(
            folder / "summary.json", msgspec.json.format(msgspec.json.encode(overview), indent=1) + b"\n"
        ),
        "markdown": write_whole(folder / "summary.md", markdown.render(overview)),
        "html": write_whole(folder / REPORT, page),
    }
    for name, picture in pictures.items():
        written[f"charts/{name}.svg"] = write_whole(place / f"{name}.svg", picture.svg)
        written[f"charts/{name}.png"] = write_whole(place / f"{name}.png", picture.png)
    for stale in place.glob("*.[sp][vn]g"):
        if stale not in written.values():
            stale.unlink()
    return written
