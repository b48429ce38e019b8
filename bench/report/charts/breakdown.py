"""Where the time to the first token goes, beyond the model's own delay."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from bench.metrics import PARTS, Group, Phase, Summary
from bench.report.charts.bars import Stack, height, stacked, total
from bench.report.charts.canvas import Chart, named


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart per temperature; none where the server's log is missing."""
    charts = []
    for temperature in phase.temperatures:
        stacks: list[Stack] = []
        for arm in summary.arms:
            trials = summary.shapes.parts.get(Group(phase.name, arm.name, temperature))
            if trials:
                stacks.append((arm.label, [sum(t[p] for t in trials) / len(trials) for p in PARTS]))
        if stacks:
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "first-token-parts"),
                    f"Where does the time to the first token go? ({temperature})",
                    "Beyond the model's own delay. The middle tenth of each trial's streams by first-token excess, "
                    "averaged, then averaged over trials: means, so that the parts add up. The sum is near the table's "
                    "median, not equal to it.",
                    "; ".join(f"{label}: {total(values):.3f} ms in all" for label, values in stacks) + ".",
                    height(len(stacks)),
                    partial(_draw, stacks),
                )
            )
    return charts


def _draw(stacks: list[Stack], figure: Figure) -> None:
    stacked(figure, list(PARTS.values()), stacks, "ms", 3)
