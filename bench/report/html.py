"""report.html: one file that needs no network, for screens large and small, light and dark, and for print."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.metrics import FEWEST_BEYOND, MEASURES, Summary
from bench.report import describe, instrument
from bench.report.charts import Chart, inline
from bench.report.findings import NO_VERDICT, findings
from bench.report.style import TONES, variable_of
from bench.report.tables import phase_tables


def render(summary: Summary, charts: list[Chart]) -> str:
    """The page, with each chart below its phase."""
    environment = Environment(
        loader=PackageLoader("bench.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    names = [a.name for a in summary.arms]
    phases = [
        {
            "phase": phase,
            "load": describe.load(phase),
            "profile": describe.profile(phase),
            "tables": phase_tables(summary, phase),
            "charts": [(c, Markup(inline(c))) for c in charts if c.phase == phase.name],
        }
        for phase in summary.phases
    ]
    used = [MEASURES[key] for key in MEASURES if key in summary.measures]
    return environment.get_template("template.html.j2").render(
        summary=summary,
        what=describe.what_was_run(summary),
        findings=findings(summary),
        no_verdict=NO_VERDICT,
        phases=phases,
        variables=[variable_of(n, names) for n in names],
        measures=used,
        fewest=FEWEST_BEYOND,
        tones=TONES,
        facts=instrument.facts(summary),
        servers=instrument.servers(summary),
        checks=instrument.checks(summary),
        command=describe.command(summary),
    )
