"""What a token costs on the wire, taken apart, with the sum printed."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from bench.metrics import Phase, Summary
from bench.report.charts.bars import Stack, height, stacked, total
from bench.report.charts.canvas import Chart, named

_PARTS = ("head", "framing", "JSON: role, stop, end", "JSON around the text", "text", "compressed messages")


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart per temperature, for the first phase of a run that has that temperature with that profile."""
    charts = []
    for temperature in phase.temperatures:
        if _shown_before(summary, phase, temperature):
            continue
        own = {w.arm: w for w in summary.wire if (w.phase, w.temperature) == (phase.name, temperature)}
        stacks: list[Stack] = [
            (a.label, [w.head, w.framing, w.other, w.envelope, w.text, w.compressed])
            for a in summary.arms
            if (w := own.get(a.name))
        ]
        deflated = any(w.compressed is not None for w in own.values())
        if stacks:
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "wire"),
                    f"How many bytes does a token take on the wire? ({temperature})",
                    "Bytes received over tokens received, all trials together, above TCP. Framing is what the protocol "
                    "adds to each message: SSE's field name, blank line and HTTP chunk, or WebSocket's frame header."
                    + (" Compressed messages, framing included, cannot be taken apart." if deflated else ""),
                    "; ".join(f"{label}: {total(values):.1f} bytes" for label, values in stacks) + ".",
                    height(len(stacks)),
                    partial(_draw, stacks),
                )
            )
    return charts


def _shown_before(summary: Summary, phase: Phase, temperature: str) -> bool:
    """Bytes per token depend on the profile and the connection only, so that one chart of each pair is enough."""
    for other in summary.phases:
        if other.name == phase.name:
            return False
        if temperature in other.temperatures and other.settings["profile"] == phase.settings["profile"]:
            return True
    return False


def _draw(stacks: list[Stack], figure: Figure) -> None:
    stacked(figure, _PARTS, stacks, "bytes per token", 1)
