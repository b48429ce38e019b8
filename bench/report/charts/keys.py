"""Which look is which arm: a row of names above a chart, each beside its own mark."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.metrics import Summary
from bench.report.style import looks

_LONGEST_OF_TWO = 28
"""Letters of a name, for two of them to fit beside each other."""


def key_row(figure: Figure, summary: Summary, arms: list[str], *, lines: bool) -> None:
    """Name the arms above the axes, in the order of the report, each with its line or its marker."""
    look = looks([a.name for a in summary.arms])
    known = [a for a in summary.arms if a.name in arms]
    columns = 2 if len(known) > 1 and max(len(a.label) for a in known) <= _LONGEST_OF_TWO else 1
    # Legends fill column by column; reading goes row by row.
    shown = [known[i] for column in range(columns) for i in range(column, len(known), columns)]
    handles = [
        Line2D(
            [], [], color=look[a.name].colour, label=a.label, linewidth=1.8 if lines else 0,
            linestyle=look[a.name].line if lines else "none", marker="" if lines else look[a.name].marker, markersize=6,
        )
        for a in shown
    ]  # fmt: skip
    legend = figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5,
        handlelength=2.6 if lines else 1.0, columnspacing=1.2, borderpad=0.0, borderaxespad=0.2, labelspacing=0.25,
    )  # fmt: skip
    for text, arm in zip(legend.get_texts(), shown, strict=True):
        text.set_color(look[arm.name].ink)
