"""How bad it gets and how rarely: percentiles on a scale that gives each further nine the same room."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from bench.metrics import FEWEST_BEYOND, SPECTRUM, Group, Phase, Summary
from bench.metrics.trial import Floats
from bench.report.charts.canvas import Chart, grid, named, signed_log_axis
from bench.report.charts.keys import key_row
from bench.report.style import looks

_PANELS = (("gap_excess", "Gap, excess (ms)"), ("lateness", "Server lateness (ms)"))
_MARKED = (0.9, 0.99, 0.999, 0.9999)
_Curves = dict[str, dict[str, tuple[Floats, Floats, Floats]]]


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart per temperature of a paced phase, with a panel for gaps and one for lateness."""
    charts = []
    for temperature in phase.temperatures if phase.paced else ():
        curves: _Curves = {}
        for measure, _ in _PANELS:
            for arm in summary.arms:
                found = summary.shapes.spectrum(Group(phase.name, arm.name, temperature), measure)
                if found is not None and np.isfinite(found[1]).sum() > 1:
                    curves.setdefault(measure, {})[arm.name] = found
        if curves:
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "percentiles"),
                    f"How bad do the rarest tokens get? ({temperature})",
                    "Percentiles within each trial: line, their median over trials; band, lowest to highest trial. "
                    "Each further nine takes the same room; a curve ends where a trial has fewer than "
                    f"{FEWEST_BEYOND} samples beyond. Vertical axis linear near 0, logarithmic from about 0.1 ms up.",
                    _alt(summary, phase, temperature),
                    4.1,
                    partial(_draw, summary, curves),
                )
            )
    return charts


def _alt(summary: Summary, phase: Phase, temperature: str) -> str:
    found = [(a, summary.get(phase.name, a.name, temperature, "gap_excess", "p99")) for a in summary.arms]
    return "Gap excess at p99: " + "; ".join(f"{a.label} {v.median:.3g} ms" for a, v in found if v) + "."


def _draw(summary: Summary, curves: _Curves, figure: Figure) -> None:
    look = looks([a.name for a in summary.arms])
    x = -np.log10(1 - SPECTRUM)
    right = 1.0
    all_axes = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (measure, title) in zip(all_axes, _PANELS, strict=True):
        top, bottom = 0.3, 0.0
        for arm, (low, middle, high) in curves.get(measure, {}).items():
            known = np.isfinite(middle)
            colour = look[arm].colour
            axes.fill_between(x[known], low[known], high[known], color=colour, alpha=0.16, linewidth=0)
            axes.plot(x[known], middle[known], color=colour, linestyle=look[arm].line, linewidth=1.7)
            at = [int(np.argmin(abs(SPECTRUM - q))) for q in _MARKED]
            at = [i for i in at if known[i]]
            axes.plot(x[at], middle[at], color=colour, marker=look[arm].marker, linestyle="none", markersize=4.5)
            right = max(right, float(x[known][-1]))
            top, bottom = max(top, float(high[known].max())), min(bottom, float(low[known].min()))
        signed_log_axis(axes, "y", bottom - 0.02, top * 1.2)
        axes.set_title(title, loc="left", fontsize=10)
        grid(axes, "both")
    ticks = {x[0]: "50", 1.0: "90", 2.0: "99", 3.0: "99.9", 4.0: "99.99"}
    shown = [t for t in ticks if t <= right + 0.01]
    all_axes[-1].set_xlim(x[0], right + 0.05)
    all_axes[-1].set_xticks(shown, [ticks[t] for t in shown])
    all_axes[-1].set_xlabel("percentile of the tokens of a trial")
    key_row(figure, summary, list(next(iter(curves.values()))), lines=True)
