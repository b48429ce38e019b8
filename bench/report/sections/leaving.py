"""Clients that leave: how soon the server stops, and what it makes for nobody. See `bench.metrics.leaving`."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.figure import Figure

from bench.metrics import Phase, Summary
from bench.metrics.leaving import Leaving
from bench.report.charts.canvas import Chart, grid, log_axis, named
from bench.report.charts.keys import key_row
from bench.report.finding import Finding, Grid
from bench.report.numbers import count, number
from bench.report.sections.section import Section
from bench.report.sections.words import NONE, label, ordered, ranged
from bench.report.style import looks

_LEAST_MS = 0.01
_HOW = {"close": "closing", "cancel": "a message"}


def make(summary: Summary) -> Section | None:
    """The section, or None where no client was to leave."""
    if not summary.leavings:
        return None
    return Section(
        "Clients that leave",
        "From the moment at which a client closed its connection, or wrote the message that asks to stop, to the end "
        "of the stream in the server's log. Tokens written in that time were made for nobody; those that were on their "
        "way when the client left are not among them.",
        [_finding(summary, one) for one in ordered(summary, summary.leavings)],
        [_grid(summary)],
        [chart for phase in summary.phases if (chart := _chart(summary, phase)) is not None],
    )


def _finding(summary: Summary, one: Leaving) -> Finding:
    lead = f"Phase {one.phase}, {label(summary, one.arm)}"
    if not one.leavers:
        return Finding(f"None of {count(one.streams, 'stream')} lived until its client was to leave.", lead=lead)
    far = f", p99 {_ms(one.stop_p99_ms)}" if one.stop_p99_ms is not None else ""
    made = count(one.written_after, "token") if one.written_after else "nothing"
    each = f" ({number(one.written_after / one.leavers)} for each client, at most {one.written_after_most})"
    parts = [
        f"{count(one.leavers, 'client')} left by {_HOW[one.by]}{_instead(summary, one)}. The server stopped after "
        f"{ranged(one.stop_p50_ms, 'ms')} at the median{far}, at most {_ms(one.stop_max_ms)}. Made for nobody: "
        f"{made}{each if one.written_after else ''}."
    ]
    if one.by == "cancel":
        parts.append(
            f"Received after leaving: {count(one.received_after, 'token') if one.received_after else 'nothing'}."
        )
    if one.reopened is not None:
        parts.append(
            f"{count(one.reopened, 'later stream')} had to open a connection."
            if one.reopened
            else "Every connection was kept: no later stream had to open one."
        )
    if one.to_the_end:
        parts.append(f"{count(one.to_the_end, 'stream')} went on to the last token all the same.")
    if one.unknown:
        parts.append(f"Of {number(one.unknown, 0)} the server logged no end.")
    return Finding(" ".join(parts), lead=lead)


def _instead(summary: Summary, one: Leaving) -> str:
    """Why a client that was to ask closed its connection."""
    phase = next(p for p in summary.phases if p.name == one.phase)
    asked = phase.settings["leave"].get("by") == "cancel" and one.by == "close"
    return ", as SSE over HTTP/1.1 has no message to stop with" if asked else ""


def _ms(value: float | None) -> str:
    return NONE if value is None else f"{number(value)} ms"


def _grid(summary: Summary) -> Grid:
    head = ["Phase", "Arm", "Clients left", "by", "Server stopped after, median", "p99", "longest"]
    head += ["Tokens made for nobody", "for each", "Received after", "Connections opened anew"]
    rows = [
        [
            one.phase,
            label(summary, one.arm),
            f"{number(one.leavers, 0)} of {number(one.streams, 0)}",
            _HOW[one.by],
            ranged(one.stop_p50_ms, "ms"),
            _ms(one.stop_p99_ms),
            _ms(one.stop_max_ms),
            number(one.written_after, 0),
            number(one.written_after / one.leavers) if one.leavers else NONE,
            number(one.received_after, 0),
            NONE if one.reopened is None else number(one.reopened, 0),
        ]
        for one in ordered(summary, summary.leavings)
    ]
    return Grid("Clients that left: times are medians over trials (lowest to highest), counts exact", head, rows)


def _chart(summary: Summary, phase: Phase) -> Chart | None:
    curves = {
        one.arm: one.stop_curve_ms
        for one in ordered(summary, summary.leavings)
        if one.phase == phase.name and one.stop_curve_ms
    }
    if not curves:
        return None
    middles = [f"{label(summary, arm)}: median {number(curve[len(curve) // 2])} ms" for arm, curve in curves.items()]
    return Chart(
        phase.name,
        named(phase.name, "stop"),
        f"How soon does the server stop when a client leaves? ({phase.name})",
        "Share of the clients that left for whom the server had stopped within that time. Logarithmic axis. All trials "
        "pooled: to look at, not to compare by.",
        f"Distribution curves, one per arm. {'; '.join(middles)}.",
        2.7,
        partial(_draw, summary, curves),
    )


def _draw(summary: Summary, curves: dict[str, list[float]], figure: Figure) -> None:
    axes = figure.add_subplot()
    look = looks([a.name for a in summary.arms])
    for arm, curve in curves.items():
        at = np.maximum(curve, _LEAST_MS)
        axes.plot(at, np.linspace(0, 100, len(at)), color=look[arm].colour, linestyle=look[arm].line, linewidth=1.8)
    every = np.maximum(np.concatenate([np.array(c) for c in curves.values()]), _LEAST_MS)
    log_axis(axes, "x", every.min(), every.max(), least=4)
    axes.set_ylim(0, 101)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.set_xlabel("from leaving to the server's end of the stream (ms, log)")
    grid(axes, "both")
    key_row(figure, summary, list(curves), lines=True)
