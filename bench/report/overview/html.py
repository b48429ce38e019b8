"""An overview's report.html: one file that looks as the report of a run does, and leads to those of its runs."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.report.charts import Chart, inline
from bench.report.overview import words
from bench.report.overview.data import Overview
from bench.report.style import TONES
from bench.report.verdicts import CHIPS


def render(overview: Overview, charts: list[Chart]) -> str:
    """The page. `charts` are one for each effect, in their order."""
    environment = Environment(
        loader=PackageLoader("bench.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    drawn = {(e.contrast, e.primary): (c, Markup(inline(c))) for e, c in zip(overview.effects, charts, strict=True)}
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
