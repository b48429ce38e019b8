"""How the tail of the gaps grows with the users, and where it passes the limit."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from bench.metrics import Phase, Summary, Value
from bench.report.charts.canvas import Chart, grid, log_axis, named
from bench.report.charts.keys import key_row
from bench.report.numbers import listed, spread
from bench.report.style import INK, looks

_FLOOR_MS = 0.01
_Steps = dict[str, list[Value]]


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """The chart of a steps phase."""
    if phase.load != "steps":
        return []
    steps: _Steps = {}
    for value in sorted(summary.values, key=lambda v: v.users):
        if (value.phase, value.temperature, value.measure) == (phase.name, "all", "gap_excess"):
            steps.setdefault(value.arm, []).append(value)
    if not steps:
        return []
    held = [
        f"{a.label} {spread(v)[0]}" for a in summary.arms if (v := summary.get(phase.name, a.name, "all", "capacity"))
    ]
    capacity = f"Users within the limit, median over trials: {listed(held) or 'not known'}."
    return [
        Chart(
            phase.name,
            named(phase.name, "capacity"),
            "How many users until the gaps pass the limit?",
            f"p99 of the gap excess in each step: median over trials, with the lowest and the highest. {capacity}",
            capacity,
            2.8,
            partial(_draw, summary, phase, steps),
        )
    ]


def _draw(summary: Summary, phase: Phase, steps: _Steps, figure: Figure) -> None:
    look = looks([a.name for a in summary.arms])
    axes = figure.add_subplot()
    every = [v for values in steps.values() for v in values]
    most = max(v.users for v in every)
    for place, (arm, values) in enumerate(steps.items()):
        # Arms are moved apart by a hundredth of the axis, so that their ranges can be told apart.
        users = [v.users + (place - (len(steps) - 1) / 2) * most * 0.012 for v in values]
        middle = [max(v.median, _FLOOR_MS) for v in values]
        reach = [
            [m - max(v.min, _FLOOR_MS) for m, v in zip(middle, values, strict=True)],
            [max(v.max, _FLOOR_MS) - m for m, v in zip(middle, values, strict=True)],
        ]
        axes.errorbar(
            users, middle, yerr=reach, color=look[arm].colour, marker=look[arm].marker, linestyle=look[arm].line,
            markersize=5.5, linewidth=1.6, elinewidth=1.0, capsize=2.5,
        )  # fmt: skip
    lowest, highest = min(v.min for v in every), max(v.max for v in every)
    if phase.limit_ms:
        axes.axhline(phase.limit_ms, color=INK, linewidth=1.0)
        axes.annotate(
            f"limit {phase.limit_ms:g} ms", (0, phase.limit_ms), xycoords=("axes fraction", "data"), xytext=(3, 3),
            textcoords="offset points", fontsize=9.5,
        )  # fmt: skip
        highest = max(highest, phase.limit_ms * 1.2)
    log_axis(axes, "y", max(lowest, _FLOOR_MS) / 1.2, highest * 1.2)
    axes.set_xlim(0, most * 1.06)
    axes.set_xticks(sorted({v.users for v in every})[-8:])
    axes.set_xlabel("users at a time")
    axes.set_ylabel("p99 gap, excess (ms, log)")
    grid(axes, "both")
    key_row(figure, summary, list(steps), lines=True)
