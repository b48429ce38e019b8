"""A stream as it arrives, token by token, the same one on every arm."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from bench.metrics import Phase, Summary
from bench.metrics.shapes import SAMPLE_CHUNKS, Sample
from bench.report.charts.canvas import Chart, grid, named
from bench.report.charts.keys import key_row
from bench.report.style import MUTED, looks

_Streams = dict[int, dict[str, Sample]]


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart per temperature of a paced phase, of the streams that every arm with samples has."""
    charts = []
    for temperature in phase.temperatures if phase.paced else ():
        streams: _Streams = {}
        for (group, ordinal), sample in summary.shapes.samples.items():
            if (group.phase, group.temperature) == (phase.name, temperature):
                streams.setdefault(ordinal, {})[group.arm] = sample
        most = max((len(s) for s in streams.values()), default=0)
        common = {o: s for o, s in sorted(streams.items()) if len(s) == most}
        if common:
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "timeline"),
                    f"What does one stream look like, token by token? ({temperature})",
                    f"The same streams on every arm in the first block, up to {SAMPLE_CHUNKS} tokens of each: "
                    "examples, not a result. Ticks: when tokens were due (counted from the first arm's start) and when "
                    "they came in. Below: how long after its due time each came in.",
                    f"{len(common)} sample streams on {most} arms: due and received times of each token.",
                    2.45 * len(common) + 0.3,
                    partial(_draw, summary, common),
                )
            )
    return charts


def _draw(summary: Summary, streams: _Streams, figure: Figure) -> None:
    look = looks([a.name for a in summary.arms])
    arms = [a.name for a in summary.arms if any(a.name in s for s in streams.values())]
    axes = figure.subplots(2 * len(streams), 1, height_ratios=[0.34 + 0.22 * len(arms), 1.0] * len(streams))
    for number, (ordinal, samples) in enumerate(streams.items()):
        strip, late = axes[2 * number], axes[2 * number + 1]
        due = next(iter(samples.values())).due
        strip.eventplot(due, lineoffsets=0, linelengths=0.7, linewidths=1.0, colors=MUTED)
        for row, arm in enumerate(arms, start=1):
            if arm in samples:
                received = samples[arm].received
                strip.eventplot(received, lineoffsets=-row, linelengths=0.7, linewidths=1.0, colors=look[arm].colour)
                late.plot(
                    received / 1e3, received - samples[arm].due, color=look[arm].colour, marker=look[arm].marker,
                    markersize=3.2, linewidth=0.7, linestyle=look[arm].line,
                )  # fmt: skip
        strip.set_yticks([0], ["due"])
        strip.set_ylim(-len(arms) - 0.6, 0.6)
        strip.tick_params(axis="x", labelbottom=False, length=0)
        strip.tick_params(axis="y", length=0)
        strip.spines[["left", "bottom"]].set_visible(False)
        strip.set_title(f"Stream {ordinal}", loc="left", fontsize=10)
        span = (0.0, max(float(s.received[-1]) for s in samples.values()) * 1.01)
        strip.set_xlim(*span)
        late.set_xlim(span[0] / 1e3, span[1] / 1e3)
        late.set_ylim(bottom=0)
        late.set_ylabel("ms after due")
        grid(late, "y")
    axes[-1].set_xlabel("seconds after the clock start")
    key_row(figure, summary, arms, lines=False)
