"""Stacked horizontal bars, one per arm, whose parts are labelled above and whose arithmetic is printed below each."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.report.charts.canvas import grid
from bench.report.style import MUTED, PAPER, PARTS

Stack = tuple[str, Sequence[float | None]]
"""A label and its parts; None is a part that this one does not have."""


def height(rows: int) -> float:
    """Inches for so many bars."""
    return 1.25 + 0.62 * rows


def total(values: Sequence[float | None]) -> float:
    """The length of a bar."""
    return sum(v for v in values if v is not None)


def stacked(figure: Figure, parts: Sequence[str], stacks: Sequence[Stack], unit: str, places: int) -> None:
    """Draw a bar from zero per stack. Parts that are nothing everywhere are left out; the sum is what is drawn."""
    used = [i for i in range(len(parts)) if any((values[i] or 0.0) >= 0.5 * 10**-places for _, values in stacks)]
    axes = figure.add_subplot()
    longest = max(total(values) for _, values in stacks)
    for row, (label, values) in enumerate(stacks):
        left = 0.0
        for i in used:
            width = values[i] or 0.0
            axes.barh(-row, width, left=left, height=0.34, color=PARTS[i % len(PARTS)], edgecolor=PAPER, linewidth=0.6)
            left += width
        axes.text(0, -row + 0.23, label, va="bottom", fontsize=10)
        sums = " + ".join(f"{value:.{places}f}" for i in used if (value := values[i]) is not None)
        axes.text(0, -row - 0.22, f"{sums} = {total(values):.{places}f} {unit}", va="top", fontsize=9.5, color=MUTED)
    axes.set_xlim(0, longest * 1.02)
    axes.set_ylim(-len(stacks) + 0.42, 0.56)
    axes.set_yticks([])
    axes.set_xlabel(unit)
    axes.spines["left"].set_visible(False)
    grid(axes)
    figure.legend(
        handles=[Patch(facecolor=PARTS[i % len(PARTS)], label=parts[i]) for i in used], loc="outside upper left",
        ncols=3 if len(used) != 4 else 2, frameon=False, fontsize=9.5, handlelength=0.9, handleheight=0.9,
        columnspacing=1.1, handletextpad=0.4, borderpad=0.0, borderaxespad=0.2, labelspacing=0.3,
    )  # fmt: skip
