"""Every output of a report, into the run folder."""

from __future__ import annotations

from pathlib import Path

from bench.files import write_whole
from bench.metrics import Summary
from bench.report import html, json_, markdown
from bench.report.charts import charts_of, drawn
from bench.report.sections import sections


def write_all(summary: Summary, folder: Path) -> dict[str, Path]:
    """Write report.html, summary.md, summary.json and charts/*; return the paths by name. Raises `OSError`.

    Charts of an earlier report that this one no longer has are removed: the folder shows one state of the records.
    """
    charts, told = charts_of(summary), sections(summary)
    pictures = {c.name: drawn(c) for c in [*charts, *(chart for section in told for chart in section.charts)]}
    place = folder / "charts"
    place.mkdir(exist_ok=True)
    page = html.render(summary, charts, told, {name: picture.inline for name, picture in pictures.items()})
    written = {
        "json": write_whole(folder / "summary.json", json_.render(summary)),
        "markdown": write_whole(folder / "summary.md", markdown.render(summary, told)),
        "html": write_whole(folder / "report.html", page),
    }
    for name, picture in pictures.items():
        written[f"charts/{name}.svg"] = write_whole(place / f"{name}.svg", picture.svg)
        written[f"charts/{name}.png"] = write_whole(place / f"{name}.png", picture.png)
    for stale in place.glob("*.[sp][vn]g"):
        if stale not in written.values():
            stale.unlink()
    return written
