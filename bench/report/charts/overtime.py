"""Whether a phase runs steadily: lateness and delivery through its seconds."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from bench.metrics import Group, Phase, Summary
from bench.metrics.shapes import OverTime
from bench.report.charts.canvas import Chart, grid, log_axis, named
from bench.report.charts.keys import key_row
from bench.report.style import MUTED, looks

_PANELS = (("lateness", "Server lateness (ms, log)"), ("delivery", "Delivery (ms, log)"))
_FEWEST_SLICES = 4
_FLOOR_MS = 0.001
_Courses = dict[str, dict[str, OverTime]]


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart per temperature of a paced phase that lasts long enough to have a course."""
    charts = []
    for temperature in phase.temperatures if phase.paced else ():
        courses: _Courses = {}
        for measure, _ in _PANELS:
            for arm in summary.arms:
                found = summary.shapes.course(Group(phase.name, arm.name, temperature), measure)
                if found is not None and np.isfinite(found.p50).sum() >= _FEWEST_SLICES:
                    courses.setdefault(measure, {})[arm.name] = found
        if courses:
            width = summary.shapes.slice_s[phase.name]
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "over-time"),
                    f"Does it stay steady while the phase runs? ({temperature})",
                    f"Slices of {width:g} s, median over trials of each trial's figure. Thick: the median of the "
                    "tokens. Thin: their p99, where a slice has at least 500 tokens.",
                    f"Median and p99 of server lateness and of delivery in slices of {width:g} seconds.",
                    4.0,
                    partial(_draw, summary, courses),
                )
            )
    return charts


def _draw(summary: Summary, courses: _Courses, figure: Figure) -> None:
    look = looks([a.name for a in summary.arms])
    all_axes = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (measure, title) in zip(all_axes, _PANELS, strict=True):
        seen: list[float] = []
        ends: dict[str, list[tuple[float, float]]] = {}
        for arm, course in courses.get(measure, {}).items():
            for name, values, width in (("median", course.p50, 1.9), ("p99", course.p99, 0.9)):
                values = np.maximum(values, _FLOOR_MS)
                known = np.isfinite(values)
                if known.any():
                    axes.plot(course.seconds, values, color=look[arm].colour, linestyle=look[arm].line, linewidth=width)
                    seen += [float(values[known].min()), float(values[known].max())]
                    ends.setdefault(name, []).append((float(course.seconds[known][-1]), float(values[known][-1])))
        if seen:
            log_axis(axes, "y", min(seen) / 1.3, max(seen) * 1.3, least=10)
        for name, last in ends.items():
            # Where the curves end: the two kinds need not end together.
            where = (max(x for x, _ in last), float(np.exp(np.mean([np.log(y) for _, y in last]))))
            axes.annotate(
                name, where,
                xytext=(3, 0), textcoords="offset points", va="center", fontsize=9, color=MUTED, annotation_clip=False,
            )  # fmt: skip
        axes.set_title(title, loc="left", fontsize=10)
        grid(axes, "both")
    all_axes[-1].set_xlim(left=0)
    all_axes[-1].set_xlabel("seconds since the phase began")
    key_row(figure, summary, list(next(iter(courses.values()))), lines=True)
