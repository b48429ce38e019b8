"""Effect against round-trip time: one primary comparison over all networks of a set."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.charts.canvas import Chart, grid, named, plain_log
from bench.report.estimates import effect, factor_of, signed, span, unit_of, way_of
from bench.report.overview.data import Effect, Overview, Point
from bench.report.overview.words import against, growth, what, word
from bench.report.style import GRID, INK, MUTED, PAPER, looks

_TICKS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
_READ = (
    "Points are estimates, hollow where the network was modelled; the thick line is the 90 % interval, the thin one "
    "the 95 % interval. The band holds differences too small to matter."
)
_MARGIN = 0.06
"""Of the axis, left of the nearest network and right of the farthest."""
_INCHES = 3.8
"""Of the axis, about; and those of a letter."""
_LETTER = 0.075
_ROW_PT = 25.0
"""Height of a row of names: two lines of type."""


def make(overview: Overview) -> list[Chart]:
    """A chart per primary comparison."""
    return [
        Chart(
            "",
            named("distance", e.contrast, e.primary),
            f"{what(e)}, by round-trip time",
            f"{against(overview, e.points[0].comparison)}. {_READ}{_line_caption(e)}",
            " ".join(_alt(p) for p in e.points) + f" {growth(e.slope)}",
            2.5 + _ROW_PT / 72 * (1 + max(_rows(e.points))),
            partial(_draw, overview, e),
        )
        for e in overview.effects
    ]


def _line_caption(e: Effect) -> str:
    return " The dashed line is the least-squares fit." if e.slope and e.slope.supported else ""


def _alt(point: Point) -> str:
    c = point.comparison
    interval = span(c, c.low, c.high)
    bounds = f", 95 % interval {interval} {unit_of(c)}" if interval else ""
    found = f"{signed(c, c.estimate)} {unit_of(c)}{bounds}, {word(point)}"
    return f"{point.network}, {point.round_trip_ms:g} ms: {found}."


def _limits(points: list[Point]) -> tuple[float, float]:
    """The ends of the axis, which is linear up to about 1 ms and logarithmic beyond: arsinh."""
    far = float(np.arcsinh(max(1.0, *(p.round_trip_ms for p in points), 1.0)))
    return float(np.sinh(-_MARGIN * far)), float(np.sinh((1 + _MARGIN) * far))


def _place(points: list[Point]) -> list[float]:
    """Where each point stands on the axis, from 0 to 1."""
    low, high = np.arcsinh(_limits(points))
    return [float((np.arcsinh(p.round_trip_ms) - low) / (high - low)) for p in points]


def _ends(place: float, width: float) -> tuple[float, float, str]:
    """From where to where a name reaches, and how it is aligned so that it stays above the axis."""
    if place < width / 2:
        return place, place + width, "left"
    if place > 1 - width / 2:
        return place - width, place, "right"
    return place - width / 2, place + width / 2, "center"


def _rows(points: list[Point]) -> list[int]:
    """The row of every name: the lowest in which it touches no other."""
    taken: list[list[tuple[float, float]]] = []
    rows = []
    for point, place in zip(points, _place(points), strict=True):
        width = (max(len(point.network), len(word(point))) + 2) * _LETTER / _INCHES
        left, right, _ = _ends(place, width)
        row = next(
            (i for i, own in enumerate(taken) if all(right <= a or b <= left for a, b in own)),
            len(taken),
        )
        if row == len(taken):
            taken.append([])
        taken[row].append((left, right))
        rows.append(row)
    return rows


def _draw(overview: Overview, e: Effect, figure: Figure) -> None:
    axes = figure.subplots()
    first = e.points[0].comparison
    factor = factor_of(first)
    bound = (first.smallest_effect or 0.0) * factor
    axes.axhspan(-bound, bound, color=GRID, linewidth=0)
    axes.axhline(0, color=INK, linewidth=1.0)
    axes.set_xscale("asinh", linear_width=1.0)
    low, high = _limits(e.points)
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in _TICKS if tick <= high])
    axes.minorticks_off()
    plain_log(axes.xaxis)
    seen = [v * factor for p in e.points for v in (p.comparison.estimate, p.comparison.low, p.comparison.high) if v]
    bottom, top = min([*seen, -1.3 * bound]), max([*seen, 1.3 * bound])
    axes.set_ylim(bottom - 0.06 * (top - bottom), top + 0.1 * (top - bottom))
    if e.slope is not None and e.slope.supported:
        x = np.sinh(np.linspace(0, np.arcsinh(max(p.round_trip_ms for p in e.points)), 200))
        axes.plot(x, e.slope.at_zero + e.slope.per_ms * x, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    kinds = {leg.network: leg.kind for leg in overview.networks}
    colour = looks(list(overview.arms))[first.other]
    for point in e.points:
        c = point.comparison
        for lower, upper, width in ((c.low, c.high, 1.2), (c.low90, c.high90, 3.4)):
            if lower is not None and upper is not None:
                ends = [lower * factor, upper * factor]
                axes.plot([point.round_trip_ms] * 2, ends, color=INK, linewidth=width, solid_capstyle="butt")
        ground = PAPER if kinds[point.network] == "modelled" else colour.colour
        axes.plot(
            point.round_trip_ms, c.estimate * factor, marker=colour.marker if point.valid else "x", markersize=7,
            color=colour.colour if point.valid else MUTED, markerfacecolor=ground, markeredgewidth=1.6,
        )  # fmt: skip
    _names(axes, e, factor)
    way = way_of(first.measure)
    axes.set_xlabel("Round-trip time with the mean of its jitter, ms")
    axes.set_ylabel(f"Difference, {unit_of(first)}; above 0: {way.more}")
    axes.annotate(
        f"± {effect(first)}", (1, bound), xycoords=("axes fraction", "data"), xytext=(-2, 1),
        textcoords="offset points", ha="right", va="bottom", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    grid(axes, "y")


def _names(axes: Axes, e: Effect, factor: float) -> None:
    """Name and verdict of every network above the axis, with a thin line down to its point."""
    top = axes.get_ylim()[1]
    placed = zip(e.points, _place(e.points), _rows(e.points), strict=True)
    # From the top row down, so that a name is drawn over the lines of those above it.
    for point, place, row in sorted(placed, key=lambda one: -one[2]):
        c = point.comparison
        highest = max(v for v in (c.estimate, c.high) if v is not None) * factor
        axes.plot([point.round_trip_ms] * 2, [highest, top], color=MUTED, linewidth=0.6, linestyle=(0, (1, 2)))
        _, _, side = _ends(place, (max(len(point.network), len(word(point))) + 2) * _LETTER / _INCHES)
        axes.annotate(
            f"{point.network}\n{word(point)}", (place, 1), xycoords="axes fraction",
            xytext=(0, 3 + _ROW_PT * row), textcoords="offset points", ha=side, va="bottom", fontsize=8.5,
            linespacing=1.1, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6} if row else None,
        )  # fmt: skip
