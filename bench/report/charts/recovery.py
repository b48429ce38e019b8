"""How streams come back: how long each part of an outage takes, and how many have none of their tokens again yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from bench.metrics import Phase, Summary
from bench.metrics.outages import PARTS
from bench.metrics.recovery import Recovery
from bench.report.charts.canvas import Chart, grid, log_axis, named
from bench.report.charts.keys import key_row
from bench.report.numbers import number
from bench.report.style import looks

_NAMES = {**PARTS, "outage": "in all"}
_PANELS = {**{key: f"Time {title} (ms, log)" for key, title in PARTS.items()}, "outage": "All of it (ms, log)"}
_LEAST_MS = 0.01
_SHARES = ([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
_LEAST_FACTOR = 4
"""From the left of an axis to its right, at least: small wobbles are not drawn as mountains."""

_Curves = Mapping[str, Mapping[str, Sequence[float]]]
"""By part, then by arm."""


def make(summary: Summary, phase: Phase, own: Sequence[Recovery]) -> list[Chart]:
    """The charts of a phase, by its entries in the order of the arms; none where nothing is known of when it broke."""
    return [chart for chart in (_parts(summary, phase, own), _survival(summary, phase, own)) if chart is not None]


def _parts(summary: Summary, phase: Phase, own: Sequence[Recovery]) -> Chart | None:
    curves = {key: {r.arm: r.curves_ms[key] for r in own if key in r.curves_ms} for key in _PANELS}
    curves = {key: some for key, some in curves.items() if some}
    if not curves:
        return None
    return Chart(
        phase.name,
        named(phase.name, "recovery"),
        f"How long does each part of coming back take? ({phase.name})",
        "Share of the breaks after which that part was over within that time. Every panel has a logarithmic axis of "
        "its own. All trials pooled: to look at, not to compare by.",
        _alt(summary, own),
        0.5 + 1.35 * len(curves),
        partial(_draw_parts, summary, curves),
    )


def _alt(summary: Summary, own: Sequence[Recovery]) -> str:
    labels = {a.name: a.label for a in summary.arms}
    parts = [
        f"{labels[r.arm]}: " + ", ".join(f"{_NAMES[key]} {number(r.p50_ms[key].median)} ms" for key in r.p50_ms)
        for r in own
    ]
    return "Distribution curves, one per arm. Medians: " + "; ".join(parts) + "."


def _draw_parts(summary: Summary, curves: _Curves, figure: Figure) -> None:
    look = looks([a.name for a in summary.arms])
    panels = figure.subplots(len(curves), 1, squeeze=False)[:, 0]
    for axes, (key, some) in zip(panels, curves.items(), strict=True):
        for arm, curve in some.items():
            at = np.maximum(curve, _LEAST_MS)
            axes.plot(at, np.linspace(0, 100, len(at)), color=look[arm].colour, linestyle=look[arm].line, linewidth=1.8)
        every = np.maximum(np.concatenate([np.asarray(curve) for curve in some.values()]), _LEAST_MS)
        log_axis(axes, "x", float(every.min()), float(every.max()), least=_LEAST_FACTOR)
        axes.set_ylim(0, 101)
        axes.set_yticks(*_SHARES)
        axes.set_title(_PANELS[key], loc="left", fontsize=10)
        grid(axes, "both")
    key_row(figure, summary, list(next(iter(curves.values()))), lines=True)


def _survival(summary: Summary, phase: Phase, own: Sequence[Recovery]) -> Chart | None:
    curves = {r.arm: (r.survival_ms, r.survival) for r in own if r.survival}
    if not curves:
        return None
    labels = {a.name: a.label for a in summary.arms}
    left = "; ".join(f"{labels[arm]}: {100 * shares[-1]:.3g} % at the end" for arm, (_, shares) in curves.items())
    return Chart(
        phase.name,
        named(phase.name, "survival"),
        f"How many wait how long for their next token? ({phase.name})",
        "Share of the streams that broke off which have no new token yet, by the time since the break (Kaplan and "
        "Meier: a stream that is given up is counted until then). A curve that does not reach 0 is of streams that "
        "never came back. All trials pooled.",
        f"Survival curves, one per arm. {left}.",
        2.7,
        partial(_draw_survival, summary, curves),
    )


def _draw_survival(
    summary: Summary, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], figure: Figure
) -> None:
    axes = figure.add_subplot()
    look = looks([a.name for a in summary.arms])
    longest = max(steps[-1] for steps, _ in curves.values())
    for arm, (steps, shares) in curves.items():
        since, share = np.array([0.0, *steps]), 100 * np.array([1.0, *shares])
        axes.step(since, share, where="post", color=look[arm].colour, linestyle=look[arm].line, linewidth=1.8)
    axes.set_xlim(0, 1.05 * max(longest, _LEAST_MS))
    axes.set_ylim(0, 103)
    axes.set_yticks(*_SHARES)
    axes.set_xlabel("since the break (ms)")
    grid(axes, "both")
    key_row(figure, summary, list(curves), lines=True)
