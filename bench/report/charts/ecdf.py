"""What share of streams, or of gaps, stays below a given excess: empirical distribution functions."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import EDGES, Group, Phase, Summary
from bench.metrics.trial import Floats
from bench.report.charts.canvas import Chart, grid, log_axis, named, signed_log_axis
from bench.report.charts.keys import key_row
from bench.report.style import looks

_FEWEST = 20
_POOLED = "All trials pooled: to look at, not to compare by."


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart of the first token per temperature, and of gaps where tokens have due times."""
    charts = []
    for temperature in phase.temperatures:
        curves = _curves(summary, phase, temperature, "ttft_excess")
        if curves:
            of = "over the model's own delay" if phase.paced else "after the clock start"
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "first-token"),
                    f"How long is the first token in coming, {of}? ({temperature})",
                    f"Share of streams whose first token came within that time. Logarithmic axis. {_POOLED}",
                    _alt(summary, phase, temperature, "ttft_excess"),
                    2.7,
                    partial(_draw, summary, curves, "first token, excess (ms, log)", False),
                )
            )
        curves = _curves(summary, phase, temperature, "gap_excess") if phase.paced else {}
        if curves:
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "gaps"),
                    f"How much longer or shorter than due are the gaps between tokens? ({temperature})",
                    "Share of gaps up to that excess. Left of 0: a token on time after a late one. The axis is linear "
                    f"close to 0 and logarithmic from about 0.1 ms outwards. {_POOLED}",
                    _alt(summary, phase, temperature, "gap_excess"),
                    2.7,
                    partial(_draw, summary, curves, "gap, excess (ms)", True),
                )
            )
    return charts


def _curves(summary: Summary, phase: Phase, temperature: str, measure: str) -> dict[str, tuple[Floats, Floats]]:
    found = {}
    for arm in summary.arms:
        counts = summary.shapes.counts.get((Group(phase.name, arm.name, temperature), measure))
        if counts is None or counts.sum() < _FEWEST:
            continue
        some = np.flatnonzero(counts)
        low, high = some[0], some[-1] + 1
        share = np.concatenate([[0.0], np.cumsum(counts[low:high])]) / counts.sum()
        # Only edges at which the share changes by a visible amount, and both ends of every flat piece.
        moved = np.concatenate([[True], np.diff(share) > 0])
        keep = moved | np.concatenate([moved[1:], [True]])
        found[arm.name] = (EDGES[low : high + 1][keep], share[keep])
    return found


def _alt(summary: Summary, phase: Phase, temperature: str, measure: str) -> str:
    parts = []
    for arm in summary.arms:
        value = summary.get(phase.name, arm.name, temperature, measure, "p50")
        if value:
            parts.append(f"{arm.label}: median {value.median:.3g} ms")
    return "Distribution curves, one per arm. " + "; ".join(parts) + "."


def _draw(
    summary: Summary, curves: dict[str, tuple[Floats, Floats]], label: str, symmetric: bool, figure: Figure
) -> None:
    axes = figure.add_subplot()
    look = looks([a.name for a in summary.arms])
    for arm, (edges, share) in curves.items():
        axes.plot(edges, share * 100, color=look[arm].colour, linestyle=look[arm].line, linewidth=1.8)
    _scale(axes, np.concatenate([e for e, _ in curves.values()]), symmetric=symmetric)
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_xlabel(label)
    grid(axes, "both")
    key_row(figure, summary, list(curves), lines=True)


def _scale(axes: Axes, edges: Floats, *, symmetric: bool) -> None:
    if symmetric:
        reach = 1.15 * max(abs(edges[0]), abs(edges[-1]), 1.0)
        signed_log_axis(axes, "x", -reach, reach)
    else:
        log_axis(axes, "x", edges[edges > 0].min(), edges.max(), least=4)
