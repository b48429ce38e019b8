"""What share of streams, or of gaps, stays below a given excess: empirical distribution functions."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import EDGES, Group, Phase, Summary
from bench.metrics.trial import Floats
from bench.report.charts.canvas import Chart, grid, named, plain_log
from bench.report.charts.keys import key_row
from bench.report.style import looks

_FEWEST = 20
_LINEAR_MS = 0.1
_POOLED = "Streams of all trials pooled, which describes but does not compare."


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
                    f"Share of gaps up to that excess. Left of 0: a token on time after a late one. Linear between "
                    f"\u2212{_LINEAR_MS:g} and {_LINEAR_MS:g} ms (shaded), logarithmic beyond. {_POOLED}",
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
        reach = max(abs(edges[0]), abs(edges[-1]), _LINEAR_MS * 10)
        axes.axvspan(-_LINEAR_MS, _LINEAR_MS, color="#8a8f96", alpha=0.12, linewidth=0)
        axes.set_xscale("symlog", linthresh=_LINEAR_MS, linscale=1.0)
        axes.set_xlim(-reach * 1.1, reach * 1.1)
        powers = [10.0**p for p in range(-1, int(np.floor(np.log10(reach))) + 1)]
        axes.set_xticks([-p for p in reversed(powers)] + [0.0] + powers)
    else:
        low, high = edges[edges > 0].min(), edges.max()
        axes.set_xscale("log")
        axes.set_xlim(10 ** (np.floor(np.log10(low) * 3) / 3), 10 ** (np.ceil(np.log10(high) * 3) / 3))
        if high / low < 20:
            steps = [s * 10.0**p for p in range(-4, 7) for s in (1, 2, 5)]
            axes.set_xticks([s for s in steps if axes.get_xlim()[0] <= s <= axes.get_xlim()[1]])
    plain_log(axes.xaxis)
