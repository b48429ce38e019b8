"""Stretches of time as boxes with their figures, placed in inches: it is the labels that have to find room."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bench.metrics.trial import ALL_STEPS, PARTS
from bench.report import style
from bench.report.charts.canvas import WIDTH
from bench.report.numbers import number
from bench.report.style import INK, MUTED, PAPER

WIDE, BAR, CUT = WIDTH - 0.12, 0.17, 0.78
"""Inches: to draw on, the height of a bar, the width of a step that is cut short."""

SMALL = 9
_COLOURS = {part: style.PARTS[i % len(style.PARTS)] for i, part in enumerate(PARTS)}
_COLOURS |= {"gap_late": _COLOURS["part_late"], "gap_delivery": _COLOURS["part_delivery"]}


def heading(axes: Axes, y: float, text: str, figures: str = "", *, plain: bool = True) -> None:
    """A line of text with figures at its right end; a name too long for that is set smaller."""
    room = (WIDE - 0.075 * len(figures)) / (0.083 * len(text))
    axes.text(0, y - 0.02, text, va="top", fontsize=min(10.0, 10 * room), fontweight="normal" if plain else "bold")
    axes.text(WIDE, y - 0.03, figures, va="top", ha="right", fontsize=SMALL, color=MUTED)


def box(axes: Axes, x: float, y: float, width: float, key: str, height: float = BAR) -> None:
    """A step. What is the model's is hatched, and the wait is empty: neither counts in the excess."""
    look: dict[str, Any] = {"facecolor": _COLOURS.get(key, PAPER), "edgecolor": PAPER, "linewidth": 0.6}
    if not ALL_STEPS[key].excess:
        look |= {"edgecolor": MUTED, "hatch": "" if key == "part_wait" else "//////"}
    axes.add_patch(Rectangle((x, y), width, height, **look))


def in_block(axes: Axes, x: float, y: float, value: float) -> None:
    """The ms of a step that is cut short, in the middle of it."""
    axes.text(
        x, y, f"{number(value)} ms", ha="center", va="center", fontsize=SMALL,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.2},
    )  # fmt: skip


def apart(marks: list[tuple[float, str]]) -> list[float]:
    """Where labels go so that none runs into its neighbour or off the edge: as near to their steps as that allows."""
    half = [0.02 + 0.041 * len(text) for _, text in marks]
    places: list[float] = []
    edge = 0.0
    for (middle, _), reach in zip(marks, half, strict=True):
        places.append(max(middle, edge + reach))
        edge = places[-1] + reach
    edge = WIDE
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], edge - half[i])
        edge = places[i] - half[i]
    return places


def ruler(axes: Axes, y: float, scale: float, x: float = 0.0) -> None:
    """How long a time is on this panel's axis."""
    length = next(s * 10.0**p for p in range(4, -7, -1) for s in (5, 2, 1) if s * 10.0**p * scale <= 1.3)
    end = x + length * scale
    axes.plot([x, x, x, end, end, end], [y + 0.05, y - 0.05, y, y, y - 0.05, y + 0.05], color=INK, lw=1.0)
    axes.text(end + 0.07, y, f"{length:g} ms", va="center", fontsize=SMALL, color=MUTED)
