"""One number a trial: throughput without pacing, and CPU per token or per cold stream on both sides."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import Phase, Summary, Value
from bench.report.charts.canvas import Chart, grid, named
from bench.report.numbers import spread
from bench.report.style import INK, looks

_READ = "A mark per trial, a bar at the median; the axis begins at zero."


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """CPU for every phase; throughput where tokens are not paced, as it is no result where they are."""
    charts = []
    # Short streams on cold connections cost what a connection costs: per token that would say little.
    cold = phase.settings["connections"] == "cold"
    per, unit, suffix = ("stream", "ms", "_stream") if cold else ("token", "µs", "")
    wanted: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("throughput", "How many tokens per second get through?", {"throughput": "Tokens per second"}),
        (
            "cpu",
            f"How much CPU time does a {per} take?",
            {
                f"cpu_server{suffix}": f"Server, {unit} per {per}",
                f"cpu_driver{suffix}": f"Client (the driver), {unit} per {per}",
            },
        ),
    )
    for name, title, measures in wanted:
        if name == "throughput" and phase.paced:
            continue
        panels = {
            text: {a.name: v for a in summary.arms if (v := summary.get(phase.name, a.name, "all", measure))}
            for measure, text in measures.items()
        }
        panels = {text: values for text, values in panels.items() if values}
        if panels:
            first = next(iter(panels.values()))
            labels = {a.name: a.label for a in summary.arms}
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, name),
                    title,
                    _READ + (" User and system time of the whole process within the window." if name == "cpu" else ""),
                    "; ".join(f"{labels[arm]}: median {v.median:.3g} {v.unit}" for arm, v in first.items()) + ".",
                    0.35 + sum(0.55 + 0.5 * len(values) for values in panels.values()),
                    partial(_draw, summary, panels),
                )
            )
    return charts


def _draw(summary: Summary, panels: dict[str, dict[str, Value]], figure: Figure) -> None:
    for axes, (title, values) in zip(np.atleast_1d(figure.subplots(len(panels), 1)), panels.items(), strict=True):
        dots(axes, summary, values)
        axes.set_title(title, loc="left", fontsize=10)


def dots(axes: Axes, summary: Summary, values: dict[str, Value]) -> None:
    """A row per arm with its trials as marks, the median as a bar, and the figure beside its name."""
    look = looks([a.name for a in summary.arms])
    labels = {a.name: a.label for a in summary.arms}
    for row, (arm, value) in enumerate(values.items()):
        # Marks of one row are moved apart a little, by place and not at random, so that equal ones can be counted.
        shift = (np.arange(len(value.per_trial)) % 3 - 1) * 0.08
        axes.plot(
            value.per_trial, -row - 0.04 + shift, color=look[arm].colour, marker=look[arm].marker, linestyle="none",
            markersize=5, alpha=0.65, markeredgewidth=0,
        )  # fmt: skip
        axes.plot([value.median] * 2, [-row - 0.24, -row + 0.16], color=INK, linewidth=2)
        axes.annotate(
            f"{labels[arm]}  {spread(value)[0]}", (0, -row + 0.2), xytext=(4, 0), textcoords="offset points",
            va="bottom", fontsize=9.5, color=look[arm].ink,
        )  # fmt: skip
    axes.set_xlim(0, max(v.max for v in values.values()) * 1.06)
    axes.set_ylim(-len(values) + 0.62, 0.66)
    axes.set_yticks([])
    axes.spines["left"].set_visible(True)
    grid(axes)
