"""history.html: one file that needs no network, in the look of a run's report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.history import series
from bench.history.changes import ALPHA, FEWEST
from bench.history.charts import make
from bench.history.series import Group
from bench.report.charts import drawn
from bench.report.finding import Grid
from bench.report.style import TONES

HEAD = ["Measure", "Arm", "Machine", "Between", "Level", "Change", "By chance", "What else changed there"]


def render(found: Sequence[Group]) -> str:
    """The page of all groups."""
    loader = ChoiceLoader([PackageLoader("bench.history", "."), PackageLoader("bench.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    machines = [
        (
            own[0].machine_id,
            own[0].machine,
            [(group, [(chart, Markup(drawn(chart).inline)) for chart in make(group)]) for group in own],
        )
        for own in (list(some) for _, some in groupby(found, attrgetter("machine_id")))
    ]
    return environment.get_template("history.html.j2").render(
        machines=machines,
        changes=grid(found),
        few=series.few(found),
        looked_at=series.looked_at(found),
        runs=sum(len(group.runs) for group in found),
        alpha=ALPHA,
        fewest=FEWEST,
        tones=TONES,
    )


def grid(found: Sequence[Group]) -> Grid | None:
    """The change points as a table; None where there is none."""
    rows = [[t.what, t.arm, t.machine_id[:8], t.between, t.levels, t.moved, t.p, t.also] for t in series.told(found)]
    return Grid("Change points", HEAD, rows) if rows else None
