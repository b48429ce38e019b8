"""report.html: one file that needs no network, for screens large and small, light and dark, and for print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.metrics import FEWEST_BEYOND, MEASURES, Summary
from bench.report import describe, instrument
from bench.report.charts import Chart
from bench.report.comparisons import counter_grid, explored, verdict_grid
from bench.report.findings import figures, findings
from bench.report.sections import Section
from bench.report.style import TONES, variable_of
from bench.report.tables import CEILING, phase_tables
from bench.report.validity import invalid, rules_grid, voids_grid
from bench.report.verdicts import CHIPS, conditions, verdicts


def render(summary: Summary, charts: Sequence[Chart], told: Sequence[Section], pictures: Mapping[str, str]) -> str:
    """The page, with each chart below its phase and those of sections in these: `pictures` has the SVG of all."""

    def pictured(some: Iterable[Chart]) -> list[tuple[Chart, Markup]]:
        return [(chart, Markup(pictures[chart.name])) for chart in some]

    environment = Environment(
        loader=PackageLoader("bench.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["unbroken"] = _unbroken
    names = [a.name for a in summary.arms]
    phases = [
        {
            "phase": phase,
            "load": describe.load(phase),
            "profile": describe.profile(phase),
            "findings": figures(summary, phase),
            "tables": phase_tables(summary, phase),
            "explored": explored(summary, phase),
            "charts": pictured(c for c in charts if c.phase == phase.name),
        }
        for phase in summary.phases
    ]
    decided = verdict_grid(summary)
    used = [MEASURES[key] for key in MEASURES if key in summary.measures]
    return environment.get_template("template.html.j2").render(
        summary=summary,
        what=describe.what_was_run(summary),
        alarm=invalid(summary),
        verdicts=verdicts(summary),
        conditions=conditions(summary),
        findings=findings(summary),
        decided=decided,
        contrasts=[(name, list(rows)) for name, rows in groupby(decided.rows, itemgetter(1))] if decided else [],
        chip_of={word: name for name, word in CHIPS.items()},
        run_charts=pictured(c for c in charts if not c.phase),
        counters=counter_grid(summary),
        trust=[grid for grid in (voids_grid(summary), rules_grid(summary)) if grid],
        ceiling=CEILING if summary.ceilings else "",
        phases=phases,
        sections=[(section, pictured(section.charts)) for section in told],
        variables=[variable_of(n, names) for n in names],
        measures=used,
        fewest=FEWEST_BEYOND,
        tones=TONES,
        facts=instrument.facts(summary),
        servers=instrument.servers(summary),
        checks=instrument.checks(summary),
        command=describe.command(summary),
    )


def _unbroken(text: str) -> Markup:
    """Keep numbers and their units, and p-values, on a line; what stands between backticks is code."""
    text = re.sub(r"(?<=\d) (?=(?:%|ms\b|µs\b))", "\u00a0", text)
    text = re.sub(r"\bp ([=<]) (?=\d)", "p\u00a0\\1\u00a0", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
