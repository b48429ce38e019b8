"""One measure over the runs of a group: a line per arm, the spread of each run's trials, and its levels."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.history.series import Group, Panel, Series, moved
from bench.report.charts.canvas import Chart, grid, named
from bench.report.style import Look, looks

_TICKS = 5
_READ = (
    "A point is a run's median over trials, with the lowest and the highest trial. Broad bands: levels; dotted line: a "
    "change point."
)
_SAME = 0.1
"""The axis spans this share of the largest figure at the least, so that small wobbles are not drawn as mountains."""


def make(group: Group) -> list[Chart]:
    """A chart per measure."""
    return [
        Chart(
            panel.phase,
            named("history", group.machine_id[:8], group.name, *panel.key),
            f"{panel.title}{', ' + panel.unit if panel.unit else ''}",
            f"{_READ} {_lengths(panel)}".strip(),
            " ".join(_alt(series, panel) for series in panel.series),
            2.9,
            partial(_draw, group, panel),
        )
        for panel in group.panels
    ]


def _lengths(panel: Panel) -> str:
    short = [series.arm for series in panel.series if series.changes is None]
    return f"Too few runs to look for changes: {', '.join(dict.fromkeys(short))}." if short else ""


def _alt(series: Series, panel: Panel) -> str:
    values = [point.value for point in series.points]
    reach = f"{series.arm}: {len(values)} runs from {min(values):.3g} to {max(values):.3g} {panel.unit}".strip()
    if series.changes is None:
        return f"{reach}, too few for change points."
    where = [f"{moved(c, panel.unit)} at {series.points[c.at].revision}" for c in series.changes]
    return f"{reach}, {'changes: ' + ', '.join(where) if where else 'no change point'}."


def _draw(group: Group, panel: Panel, figure: Figure) -> None:
    axes = figure.subplots()
    arms = list(dict.fromkeys(series.arm for series in panel.series))
    look = looks(arms)
    for series in panel.series:
        _line(axes, series, look[series.arm])
    seen = [v for s in panel.series for p in s.points for v in (p.value, p.lowest, p.highest) if v is not None]
    bottom, top = min(seen), max(seen)
    room = max(top - bottom, _SAME * max(abs(top), abs(bottom)), 1e-9)
    middle = (top + bottom) / 2
    axes.set_ylim(middle - 0.58 * room, middle + 0.68 * room)
    _labels(axes, panel, look)
    last = len(group.runs) - 1
    axes.set_xlim(-0.6, last + 0.6)
    ticks = sorted(
        {round(i * last / max(1, min(_TICKS, len(group.runs)) - 1)) for i in range(_TICKS)} & {*range(last + 1)}
    )
    axes.set_xticks(ticks, [group.runs[tick] for tick in ticks], fontsize=8.5)
    grid(axes, "y")
    _keys(figure, arms, look)


def _line(axes: Axes, series: Series, look: Look) -> None:
    """Points, joined; thin, from the lowest trial to the highest; broad and faint, the levels that changes leave."""
    x, y = [p.place for p in series.points], [p.value for p in series.points]
    for p in series.points:
        if p.lowest is not None and p.highest is not None:
            axes.plot([p.place] * 2, [p.lowest, p.highest], color=look.colour, linewidth=0.8, alpha=0.6)
    small = 4.5 if len(x) <= 40 else 2.5
    axes.plot(x, y, color=look.colour, linestyle=look.line, linewidth=1.1, marker=look.marker, markersize=small)
    found = series.changes or []
    edges = [0, *(change.at for change in found), len(x)]
    for i, (start, end) in enumerate(pairwise(edges)):
        if found:
            level = found[i].before if i < len(found) else found[-1].after
            axes.plot(
                [x[start], x[end - 1]], [level] * 2, color=look.colour, linewidth=5, alpha=0.28, solid_capstyle="butt"
            )
    for change in found:
        axes.axvline((x[change.at - 1] + x[change.at]) / 2, color=look.colour, linewidth=1.1, linestyle=(0, (1, 2)))


def _labels(axes: Axes, panel: Panel, look: dict[str, Look]) -> None:
    """By how much each change moved its level, above it; arms that change at one place stand below each other."""
    rows: dict[int, int] = {}
    for series in panel.series:
        for change in series.changes or ():
            here = series.points[change.at].place
            row = rows.get(here, 0)
            rows[here] = row + 1
            axes.annotate(
                moved(change, panel.unit), ((series.points[change.at - 1].place + here) / 2, 1),
                xycoords=("data", "axes fraction"), xytext=(3, -2 - 11 * row), textcoords="offset points", va="top",
                fontsize=9, color=look[series.arm].ink,
            )  # fmt: skip


def _keys(figure: Figure, arms: list[str], look: dict[str, Look]) -> None:
    handles = [
        Line2D([], [], color=look[a].colour, label=a, linestyle=look[a].line, marker=look[a].marker, markersize=5)
        for a in arms
        if a
    ]
    if not handles:
        return
    columns = 3 if sum(map(len, arms)) <= 36 else 2 if max(map(len, arms)) <= 28 else 1
    legend = figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5, handlelength=2.6,
        columnspacing=1.2, borderpad=0.0, borderaxespad=0.2, labelspacing=0.25,
    )  # fmt: skip
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        text.set_color(look[str(handle.get_label())].ink)
