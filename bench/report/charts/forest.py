"""Every verdict's evidence at a glance: blocks, estimate and intervals against zero and the smallest effect."""

from __future__ import annotations

from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import Comparison, Summary
from bench.report.charts.canvas import Chart, grid
from bench.report.estimates import about, against, factor_of, labels, signed, span, unit_of, way_of, where
from bench.report.style import GRID, INK, MUTED, looks
from bench.report.verdicts import CHIPS, given

_ROOM = 56
"""Characters of names above a row."""
_LONGEST = 32
"""Characters of a name that fit below, beside what the left side means."""
_Panels = dict[str, list[Comparison]]


def make(summary: Summary) -> list[Chart]:
    """The chart of a run with primary measures: a panel per measure, as each has a smallest effect of its own."""
    conclusions = given(summary)
    panels: _Panels = {}
    for c in conclusions.primary if conclusions else ():
        panels.setdefault(c.primary, []).append(c)
    if not panels:
        return []
    return [
        Chart(
            "",
            "verdicts",
            "How far apart are the arms, and how sure is that?",
            "A dot is a block, the bar the estimate, the thick line its 90 % interval, the thin one its 95 % interval. "
            "The band holds differences too small to matter.",
            " ".join(_alt(summary, c) for own in panels.values() for c in own),
            0.1 + sum(0.95 + 0.62 * len(own) for own in panels.values()),
            partial(_draw, summary, panels),
        )
    ]


def _alt(summary: Summary, c: Comparison) -> str:
    interval = span(c, c.low, c.high)
    bounds = f", 95 % interval {interval} {unit_of(c)}" if interval else ""
    found = f"{signed(c, c.estimate)} {unit_of(c)}{bounds}{_word(summary, c)}"
    return f"{where(c)}, {about(c)}, {against(summary, c)}: {found}."


def _word(summary: Summary, c: Comparison) -> str:
    return "" if summary.state == "invalid" else f", {CHIPS[c.verdict]}"


def _names(summary: Summary, own: list[Comparison]) -> list[str]:
    """Who is compared; by the scenario's names where those for people leave no room for a verdict beside them."""
    full = [against(summary, c) for c in own]
    return full if max(map(len, full)) <= _ROOM else [f"{c.other} against {c.baseline}" for c in own]


def _draw(summary: Summary, panels: _Panels, figure: Figure) -> None:
    rows = [len(own) for own in panels.values()]
    drawn = figure.subplots(len(panels), 1, gridspec_kw={"height_ratios": [0.95 + 0.62 * n for n in rows]})
    for axes, own in zip(np.atleast_1d(drawn), panels.values(), strict=True):
        _panel(axes, summary, own)


def _panel(axes: Axes, summary: Summary, own: list[Comparison]) -> None:
    look = looks([a.name for a in summary.arms])
    first = own[0]
    factor = factor_of(first)
    bound = (first.smallest_effect or 0.0) * factor
    axes.axvspan(-bound, bound, color=GRID, linewidth=0)
    for row, (c, name) in enumerate(zip(own, _names(summary, own), strict=True)):
        # Dots are moved apart a little, by place and not at random, so that equal ones can be counted.
        shift = (np.arange(len(c.per_block)) % 3 - 1) * 0.05
        axes.plot([0, 0], [-row - 0.38, -row + 0.15], color=INK, linewidth=1.0)
        dots = np.array(c.per_block) * factor
        axes.plot(
            dots, -row - 0.26 + shift, color=look[c.other].colour, marker=look[c.other].marker, linestyle="none",
            markersize=4.5, alpha=0.65, markeredgewidth=0,
        )  # fmt: skip
        for low, high, width in ((c.low, c.high, 1.2), (c.low90, c.high90, 4.0)):
            if low is not None and high is not None:
                axes.plot(
                    [low * factor, high * factor], [-row, -row], color=INK, linewidth=width, solid_capstyle="butt"
                )
        axes.plot([c.estimate * factor] * 2, [-row - 0.12, -row + 0.12], color=INK, linewidth=2.4)
        axes.annotate(
            name if len(own) > 1 else "", (0, -row + 0.16), xycoords=("axes fraction", "data"),
            xytext=(2, 0), textcoords="offset points", va="bottom", fontsize=9.5, color=look[c.other].ink,
        )  # fmt: skip
        axes.annotate(
            _word(summary, c).removeprefix(", "), (1, -row + 0.16), xycoords=("axes fraction", "data"), ha="right",
            va="bottom", fontsize=9.5, fontweight="bold",
        )  # fmt: skip
    _frame(axes, summary, own, bound)


def _frame(axes: Axes, summary: Summary, own: list[Comparison], bound: float) -> None:
    """Title, scale with zero and the band in sight, and what left and right mean."""
    first, factor = own[0], factor_of(own[0])
    seen = [v * factor for c in own for v in (*c.per_block, c.low, c.high) if v is not None]
    low, high = min([*seen, -1.3 * bound]), max([*seen, 1.3 * bound])
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    axes.set_ylim(-len(own) + 0.55, 0.62)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    known = labels(summary, first)[0]
    who = known if len({c.other for c in own}) == 1 and len(known) <= _LONGEST else "first named"
    way = way_of(first.measure)
    title = f"{where(first)}, {about(first)}, {unit_of(first)}"
    axes.set_title(title if len(own) > 1 else f"{title}\n{_names(summary, own)[0]}", loc="left", fontsize=10)
    axes.set_xlabel(f"{who}: {way.more} →", loc="right", fontsize=9.5, color=MUTED)
    axes.annotate(
        f"← {way.less}", (0, 0), xycoords="axes fraction", xytext=(0, -25), textcoords="offset points", va="center",
        fontsize=9.5, color=MUTED,
    )  # fmt: skip
    grid(axes)
