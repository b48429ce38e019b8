"""An overview's report.html: one file that looks as the report of a run does, and leads to those of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.report.charts import Chart
from bench.report.overview import words
from bench.report.overview.data import Overview
from bench.report.style import TONES
from bench.report.verdicts import CHIPS


def render(overview: Overview, charts: Sequence[Chart], pictures: Mapping[str, str]) -> str:
    """The page. `charts` are one for each effect, in their order; `pictures` has the SVG of each by its name."""
    environment = Environment(
        loader=PackageLoader("bench.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    drawn = {
        (e.contrast, e.primary): (c, Markup(pictures[c.name])) for e, c in zip(overview.effects, charts, strict=True)
    }
    return environment.get_template("overview/template.html.j2").render(
        overview=overview,
        what=words.what_was_run(overview),
        alarm=words.alarm(overview),
        troubles=words.troubles(overview),
        matrix=words.matrix(overview),
        contrasts=words.by_contrast(overview),
        drawn=drawn,
        words=words,
        networks=words.networks(overview),
        reports={leg.network: leg.report for leg in overview.networks if leg.report},
        chip_of={word: name for name, word in CHIPS.items()} | {"invalid": "none"},
        command=words.command(overview),
        tones=TONES,
    )
