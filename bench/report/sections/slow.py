"""Clients that read slowly: what they cost the server and the other streams. See `bench.metrics.slow`."""

from __future__ import annotations

from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import Phase, Summary
from bench.metrics.over_trials import OverTrials
from bench.metrics.slow import SlowReaders
from bench.report.charts.canvas import Chart, grid, named
from bench.report.charts.keys import key_row
from bench.report.finding import Finding, Grid
from bench.report.numbers import count, number
from bench.report.sections.section import Section
from bench.report.sections.words import label, ordered, ranged, signed
from bench.report.style import looks

_HELD_MS = 100.0
"""A server whose last token of a slow stream is this late has been kept waiting by its client; a busy one is not."""


def make(summary: Summary) -> Section | None:
    """The section, or None where nobody read slowly."""
    if not summary.slow_readers:
        return None
    return Section(
        "Clients that read slowly",
        "Prompt streams are those whose clients read as fast as they can. Their gaps are compared with those of the "
        "phase of the same profile in which nobody reads slowly, trial by trial, and so is the peak "
        "of the server's memory: its own, without what the kernel buffers. A server that waits until a slow client has "
        "read (back-pressure) writes its last tokens late; one that does not keeps in memory what was not read.",
        [finding for one in ordered(summary, summary.slow_readers) for finding in _findings(summary, one)],
        [_grid(summary)],
        [chart for phase in summary.phases if (chart := _chart(summary, phase)) is not None],
    )


def _findings(summary: Summary, one: SlowReaders) -> list[Finding]:
    lead = f"Phase {one.phase}, {label(summary, one.arm)}"
    if not one.slow:
        return [Finding("No stream was read slowly.", lead=lead)]
    parts = []
    if one.gap_p99_ms is not None:
        text = f"With slow readers beside them the gaps of prompt streams were {ranged(one.gap_p99_ms, 'ms')} longer "
        text += "than due at p99"
        if one.gap_p99_more_ms is not None:
            text += f"; without, {ranged(one.reference_gap_p99_ms, 'ms')}. Within a trial that is "
            text += signed(one.gap_p99_more_ms, "ms")
        parts.append(f"{text}.")
    if one.memory_more_mib is not None:
        parts.append(
            f"The server's memory came to {ranged(one.memory_mib, 'MiB')}; without, to "
            f"{ranged(one.reference_memory_mib, 'MiB')}. Within a trial that is {signed(one.memory_more_mib, 'MiB')}, "
            f"or {signed(one.memory_per_slow_kib, 'KiB')} for each slow stream."
        )
    parts.append(_waited(one))
    parts.append(_ended(one))
    return [Finding(" ".join(parts), lead=lead)]


def _waited(one: SlowReaders) -> str:
    if one.held_back_ms is None:
        return "No slow stream came to its end."
    if one.held_back_ms.median >= _HELD_MS:
        return (
            f"The server waited for slow clients: their last token was written {ranged(one.held_back_ms, 'ms')} after "
            f"it was due, and received {ranged(one.behind_ms, 'ms')} after."
        )
    return (
        f"The server did not wait for slow clients: their last token was written {ranged(one.held_back_ms, 'ms')} "
        f"after it was due and received {ranged(one.behind_ms, 'ms')} after; what they had not read was in buffers."
    )


def _ended(one: SlowReaders) -> str:
    if one.slow_complete == one.slow and one.prompt_complete == one.prompt:
        return f"All {count(one.slow, 'slow stream')} and {count(one.prompt, 'prompt one')} are complete."
    return (
        f"{number(one.slow_complete, 0)} of {count(one.slow, 'slow stream')} and {number(one.prompt_complete, 0)} of "
        f"{count(one.prompt, 'prompt one')} are complete."
    )


def _grid(summary: Summary) -> Grid:
    head = ["Phase", "Arm", "Slow streams", "Prompt streams", "Prompt gaps, excess at p50", "without slow ones"]
    head += ["Prompt gaps, excess at p99", "without slow ones", "Server memory, peak", "without slow ones"]
    head += ["Slow: last token written late by", "received late by", "Prompt: written late by"]
    rows = [
        [
            one.phase,
            label(summary, one.arm),
            number(one.slow, 0),
            number(one.prompt, 0),
            ranged(one.gap_p50_ms, "ms"),
            ranged(one.reference_gap_p50_ms, "ms"),
            ranged(one.gap_p99_ms, "ms"),
            ranged(one.reference_gap_p99_ms, "ms"),
            ranged(one.memory_mib, "MiB"),
            ranged(one.reference_memory_mib, "MiB"),
            ranged(one.held_back_ms, "ms"),
            ranged(one.behind_ms, "ms"),
            ranged(one.prompt_late_ms, "ms"),
        ]
        for one in ordered(summary, summary.slow_readers)
    ]
    return Grid("Slow and prompt streams: median over trials (lowest to highest)", head, rows)


def _chart(summary: Summary, phase: Phase) -> Chart | None:
    own = {one.arm: one for one in ordered(summary, summary.slow_readers) if one.phase == phase.name and one.reference}
    if not any(one.gap_p99_ms and one.reference_gap_p99_ms for one in own.values()):
        return None
    told = [
        f"{label(summary, arm)}: p99 {ranged(one.reference_gap_p99_ms)} without and {ranged(one.gap_p99_ms, 'ms')} "
        f"with, memory {signed(one.memory_more_mib, 'MiB')}"
        for arm, one in own.items()
    ]
    return Chart(
        phase.name,
        named(phase.name, "slow-readers"),
        f"What do slow readers change? ({phase.name})",
        f"Medians over trials with the lowest and the highest. Left of each pair: phase "
        f"{next(iter(own.values())).reference}, without slow readers; right: with them.",
        f"{'; '.join(told)}.",
        2.8,
        partial(_draw, summary, own),
    )


def _draw(summary: Summary, own: dict[str, SlowReaders], figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    pairs = (
        (left, "prompt gaps,\np99 of the excess (ms)", "reference_gap_p99_ms", "gap_p99_ms"),
        (right, "server memory,\npeak (MiB)", "reference_memory_mib", "memory_mib"),
    )
    for axes, title, without, beside in pairs:
        for place, (arm, one) in enumerate(own.items()):
            _pair(axes, summary, arm, place, (getattr(one, without), getattr(one, beside)))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xticks([0, 1], ["without", "with"])
        axes.set_xlim(-0.4, 1.4)
        tops = [f.max for one in own.values() for f in (getattr(one, without), getattr(one, beside)) if f is not None]
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.12 * max(tops, default=1.0))
        grid(axes, "y")
    key_row(figure, summary, list(own), lines=False)


def _pair(
    axes: Axes, summary: Summary, arm: str, place: int, figures: tuple[OverTrials | None, OverTrials | None]
) -> None:
    look = looks([a.name for a in summary.arms])[arm]
    known = [(x + (place - 1) * 0.07, f) for x, f in enumerate(figures) if f is not None]
    middle = [f.median for _, f in known]
    reach = [[f.median - f.min for _, f in known], [f.max - f.median for _, f in known]]
    axes.errorbar(
        [x for x, _ in known], middle, yerr=reach, color=look.colour, marker=look.marker, linestyle=look.line,
        markersize=5.5, linewidth=1.2, elinewidth=1.0, capsize=2.5,
    )  # fmt: skip
