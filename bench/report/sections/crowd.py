"""What open streams cost, by how many are open. See `bench.metrics.crowd`."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import Phase, Summary
from bench.metrics.crowd import Holding, Line
from bench.report.charts.canvas import Chart, grid, named
from bench.report.charts.keys import key_row
from bench.report.finding import Finding, Grid
from bench.report.numbers import count, decimals, number
from bench.report.sections.section import Section
from bench.report.sections.words import NONE, label, ordered
from bench.report.style import looks

_KIB = 1024.0
_PANELS = (("server_memory", 1, "server, MiB"), ("driver_memory", 2, "driver, MiB"))
_CPU_PANELS = (("server_cpu", 3, "server, % of a core"), ("driver_cpu", 4, "driver, % of a core"))


def make(summary: Summary) -> Section | None:
    """The section, or None where no crowd was held."""
    if not summary.holdings:
        return None
    return Section(
        "What open streams cost",
        "Streams are opened and held, size after size, and memory and CPU time are taken while all of a size are open. "
        "A straight line through the sizes of all trials gives what one more stream costs, with a 95 % interval. The "
        "point without streams is not among them: what the first ones take once, and what fits into memory that a "
        "process has already, is not what one more costs. Memory is the process's own, so that buffers of the kernel "
        "are not in it; the server's holds also what the mock model has still to say, the same on every arm.",
        [_finding(summary, one) for one in ordered(summary, summary.holdings)],
        [_cost_grid(summary), _size_grid(summary)],
        [chart for phase in summary.phases for chart in _charts(summary, phase)],
    )


def _finding(summary: Summary, one: Holding) -> Finding:
    lead = f"Phase {one.phase}, {label(summary, one.arm)}"
    parts = []
    if one.server_memory is None:
        parts.append("No two sizes of open streams were held, so there is no cost of one more.")
    else:
        driver = f", and {_memory(one.driver_memory)} in the driver" if one.driver_memory else ""
        parts.append(f"An open stream costs {_memory(one.server_memory)} of memory in the server{driver}.")
    if one.server_cpu is not None:
        parts.append(f"1000 of them, at {_pace(one)} tokens/s each, take {_cpu(one.server_cpu)} in the server.")
    if one.short:
        parts.append(
            f"In {count(one.short, 'size')} fewer streams were open than wanted: the points are those that were."
        )
    return Finding(" ".join(parts), lead=lead, grave=bool(one.short))


def _pace(one: Holding) -> str:
    largest = one.sizes[-1]
    return number(largest.tokens_per_s / largest.open, 2) if largest.open else NONE


def _interval(line: Line, scale: float, unit: str) -> str:
    """`14.2 KiB (13.9 to 14.5)`."""
    places = decimals(line.slope * scale)
    said = f"{number(line.slope * scale, places)} {unit}"
    if line.low is None or line.high is None:
        return said
    return f"{said} ({number(line.low * scale, places)} to {number(line.high * scale, places)})"


def _memory(line: Line | None) -> str:
    return NONE if line is None else _interval(line, 1 / _KIB, "KiB")


def _cpu(line: Line | None) -> str:
    return NONE if line is None else _interval(line, 100.0, "% of a core")


def _cost_grid(summary: Summary) -> Grid:
    head = ["Phase", "Arm", "Server memory per stream", "Driver memory per stream", "Server CPU per 1000 streams"]
    head += ["Driver CPU per 1000 streams", "Server memory where the line meets none", "R² of it", "Points"]
    rows = [
        [
            one.phase,
            label(summary, one.arm),
            _memory(one.server_memory),
            _memory(one.driver_memory),
            _cpu(one.server_cpu),
            _cpu(one.driver_cpu),
            f"{number(one.server_memory.at_none / 2**20)} MiB" if one.server_memory else NONE,
            number(one.server_memory.fit, 3) if one.server_memory else NONE,
            str(one.server_memory.points) if one.server_memory else NONE,
        ]
        for one in ordered(summary, summary.holdings)
    ]
    return Grid("What one more open stream costs: slope of a line by least squares (95 % interval)", head, rows)


def _size_grid(summary: Summary) -> Grid:
    head = ["Phase", "Arm", "Streams", "open", "Tokens/s", "Server memory, MiB", "Driver memory, MiB"]
    head += ["Server CPU, % of a core", "Driver CPU, % of a core"]
    rows = [
        [
            one.phase,
            label(summary, one.arm),
            number(size.size, 0),
            number(size.open, 0),
            number(size.tokens_per_s, 0),
            number(size.server_memory_mib),
            number(size.driver_memory_mib),
            number(100 * size.server_cpu),
            number(100 * size.driver_cpu),
        ]
        for one in ordered(summary, summary.holdings)
        for size in one.sizes
    ]
    return Grid("Size by size: medians over trials", head, rows)


def _charts(summary: Summary, phase: Phase) -> list[Chart]:
    own = {one.arm: one for one in ordered(summary, summary.holdings) if one.phase == phase.name}
    if not own:
        return []
    read = (
        "A mark per trial and size, the line fitted to them; hollow: no streams, which the line leaves out. Axes of "
        "memory do not begin at zero."
    )
    memory = "; ".join(f"{label(summary, arm)}: {_memory(one.server_memory)} per stream" for arm, one in own.items())
    cpu = "; ".join(f"{label(summary, arm)}: {_cpu(one.server_cpu)} per 1000" for arm, one in own.items())
    return [
        Chart(
            phase.name,
            named(phase.name, "memory"),
            "How much memory do open streams take?",
            read,
            f"In the server, {memory}.",
            4.8 + 0.2 * len(own),
            partial(_draw, summary, own, _PANELS, 1 / 2**20),
        ),
        Chart(
            phase.name,
            named(phase.name, "cpu-open"),
            "How much CPU time do open, slow streams take?",
            read.replace(" Axes of memory do not begin at zero.", ""),
            f"In the server, {cpu}.",
            4.8 + 0.2 * len(own),
            partial(_draw, summary, own, _CPU_PANELS, 100.0),
        ),
    ]


def _draw(
    summary: Summary, own: dict[str, Holding], panels: tuple[tuple[str, int, str], ...], scale: float, figure: Figure
) -> None:
    most = max(point[0] for one in own.values() for point in one.points)
    for axes, (name, column, title) in zip(figure.subplots(len(panels), 1, sharex=True), panels, strict=True):
        for place, (arm, one) in enumerate(own.items()):
            # Arms are moved apart by a little, so that marks at one size can be told apart.
            shift = (place - (len(own) - 1) / 2) * most * 0.008
            cpu = name.endswith("cpu")
            points = [(p[0] + shift, p[column] * (scale if cpu else 1.0)) for p in one.points]
            _points(axes, summary, arm, [p for p in points if p[0] != shift], hollow=False)
            _points(axes, summary, arm, [p for p in points if p[0] == shift], hollow=True)
            _line(axes, summary, arm, getattr(one, name), one, (shift, scale, 1000.0 if cpu else 1.0))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlim(-0.04 * most, most * 1.05)
        grid(axes, "both")
        if name.endswith("cpu"):
            axes.set_ylim(bottom=0)
        axes.set_xlabel("open streams" if column in (2, 4) else "")
    key_row(figure, summary, list(own), lines=True)


def _points(axes: Axes, summary: Summary, arm: str, points: list[tuple[float, float]], *, hollow: bool) -> None:
    look = looks([a.name for a in summary.arms])[arm]
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=look.colour, marker=look.marker, linestyle="none",
        markersize=4.5, markerfacecolor="none" if hollow else look.colour, markeredgewidth=0.9, alpha=0.8,
    )  # fmt: skip


def _line(
    axes: Axes, summary: Summary, arm: str, line: Line | None, one: Holding, how: tuple[float, float, float]
) -> None:
    """`how`: how far the arm is moved aside, the unit's scale, and how many streams the slope is for."""
    if line is None:
        return
    shift, scale, per = how
    look = looks([a.name for a in summary.arms])[arm]
    opened = [point[0] for point in one.points if point[0]]
    x = np.array([min(opened), max(opened)], dtype=np.float64)
    y = (line.at_none + line.slope * x / per) * scale
    axes.plot(x + shift, y, color=look.colour, linestyle=look.line, linewidth=1.4)
