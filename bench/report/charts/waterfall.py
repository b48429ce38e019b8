"""Where the time goes: milestone by milestone to the first token, and from one token to the next."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.metrics import Group, Phase, Summary
from bench.metrics.trial import ALL_STEPS, GAP_STEPS, STEPS, excess_of
from bench.report.charts.canvas import Chart, named
from bench.report.charts.spans import BAR, CUT, SMALL, WIDE, apart, box, heading, in_block, ruler
from bench.report.numbers import MINUS, decimals, number
from bench.report.style import INK, MUTED

_GAPS = {"gap": "At the median", "gap_p99": "At p99"}
_KEY, _FIRST_ROW, _GAP_KEY, _GAP_NAME, _GAP_ROW, _RULER = 1.02, 0.76, 0.48, 0.29, 0.48, 0.2
_STRAIGHT = 0.06
_CAPTION = (
    "Time runs from when a stream should have started; the empty box is the wait until it did, the hatched one the "
    "model's own delay, cut short, and what is filled is the excess. Means, so that steps add up: of the middle tenth "
    "of each trial's streams by first-token excess (of gaps, by gap excess, the middle tenth, or p98.6 to p99.3), then "
    "of the middle half of the trials. So sums are near the table's figures, not equal to them. Of a gap, lateness "
    "and delivery count by how they changed since the token before."
)
_FLAT = 0.02
"""ms that an axis shows at the least, so that nothing is not drawn as something."""

_Steps = Mapping[str, float]


class _Row(NamedTuple):
    label: str
    steps: _Steps
    places: int
    """Decimals that all rows of a panel show. Steps are rounded to them, so that what is printed adds up."""

    def text(self, value: float) -> str:
        return number(value, self.places)


def make(summary: Summary, phase: Phase) -> list[Chart]:
    """One chart per temperature of a paced phase; none where the server's log is missing."""
    charts = []
    for temperature in phase.temperatures:
        first = _rows(summary, phase, temperature, "first")
        gaps = {name: _rows(summary, phase, temperature, whole) for whole, name in _GAPS.items()}
        if first:
            charts.append(
                Chart(
                    phase.name,
                    named(phase.name, temperature, "waterfall"),
                    f"Where does the time go, step by step? ({temperature})",
                    _CAPTION,
                    " ".join(_alt(about, rows) for about, rows in _panels(first, gaps)),
                    _first_height(first) + _gaps_height(gaps),
                    partial(_draw, first, gaps),
                )
            )
    return charts


def _rows(summary: Summary, phase: Phase, temperature: str, whole: str) -> list[_Row]:
    found = [(a.label, summary.shapes.typical(Group(phase.name, a.name, temperature), whole)) for a in summary.arms]
    known = [(label, steps) for label, steps in found if steps]
    most = max((abs(excess_of(steps)) for _, steps in known), default=0.0)
    places = decimals(max(most, _FLAT) / 10)
    return [_Row(label, {k: round(v, places) for k, v in steps.items()}, places) for label, steps in known]


def _panels(first: list[_Row], gaps: dict[str, list[_Row]]) -> list[tuple[str, list[_Row]]]:
    return [("First token", first), *((f"Gap, {name.lower()}", rows) for name, rows in gaps.items() if rows)]


def _alt(about: str, rows: list[_Row]) -> str:
    return f"{about}: " + "; ".join(f"{row.label} {_sum(row)} ms" for row in rows) + "."


def _sum(row: _Row) -> str:
    """`0.250 + 0.312 − 0.020 = 0.542`, of the steps that the excess counts; without those a first token has not."""
    parts = [row.text(v) for k, v in row.steps.items() if ALL_STEPS[k].excess and (v or k in GAP_STEPS)]
    return f"{' + '.join(parts).replace('+ ' + MINUS, MINUS + ' ')} = {row.text(excess_of(row.steps))}"


def _first_height(rows: list[_Row]) -> float:
    """Inches of the panel."""
    return _KEY + len(rows) * _FIRST_ROW + _RULER


def _gaps_height(gaps: dict[str, list[_Row]]) -> float:
    """Inches of the panel, none without gaps."""
    panels = [_GAP_NAME + len(rows) * _GAP_ROW for rows in gaps.values() if rows]
    return 0.1 + _GAP_KEY + sum(panels) + _RULER if panels else 0.0


def _draw(first: list[_Row], gaps: dict[str, list[_Row]], figure: Figure) -> None:
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, WIDE)
    axes.set_ylim(-_first_height(first) - _gaps_height(gaps), 0)
    _first(axes, 0, first)
    if _gaps_height(gaps):
        _gaps(axes, -_first_height(first) - 0.1, gaps)


def _first(axes: Axes, y: float, rows: list[_Row]) -> None:
    """A bar per arm along one time axis, with the figure of each step above it and the milestones on top."""
    used = [k for k in STEPS if any(row.steps[k] for row in rows)]
    longest = max(excess_of(row.steps) for row in rows)
    cut = {k for k in used if not STEPS[k].excess and max(row.steps[k] for row in rows) > longest}
    drawn = max(sum(max(row.steps[k], 0.0) for k in used if k not in cut) for row in rows)
    scale = (WIDE - len(cut) * CUT) / max(drawn, _FLAT)
    _milestones(axes, y, used)
    y -= _KEY
    for row in rows:
        heading(axes, y, row.label, f"excess {row.text(excess_of(row.steps))} ms")
        x, top = 0.0, y - 0.47
        marks: list[tuple[float, str]] = []
        for key in used:
            value = row.steps[key]
            width = CUT if key in cut else max(value, 0.0) * scale
            box(axes, x, top - BAR, width, key)
            if key in cut:
                in_block(axes, x + width / 2, top - BAR / 2, value)
            elif value:
                marks.append((x + width / 2, row.text(value)))
            x += width
        for (middle, text), place in zip(marks, apart(marks), strict=True):
            bend = [place, place, middle, middle] if abs(place - middle) > _STRAIGHT else [middle] * 4
            axes.plot(bend, [top + 0.12, top + 0.09, top + 0.03, top], color=MUTED, lw=0.7)
            axes.text(place, top + 0.12, text, ha="center", va="bottom", fontsize=SMALL)
        y -= _FIRST_ROW
    ruler(axes, y, scale)


def _milestones(axes: Axes, y: float, used: list[str]) -> None:
    """The key: a cell per step in order of time, with what has happened at either end of it."""
    cell = min(0.56, (WIDE - 0.75) / len(used))
    bottom = y - _KEY + 0.12
    names = ["should start" if "part_wait" in used else "started"]
    for key, step in STEPS.items():
        if key in used:
            names.append(step.milestone)
        elif key == "part_send" and "part_connect" not in used:
            names[-1] = step.milestone  # on a kept connection the start is the request
    heading(axes, y, "First token", plain=False)
    for i, name in enumerate(names):
        axes.plot([i * cell] * 2, [bottom + BAR, bottom + BAR + 0.05], color=MUTED, lw=0.7)
        axes.text(
            i * cell, bottom + BAR + 0.07, name, rotation=32, rotation_mode="anchor", ha="left", va="bottom",
            fontsize=SMALL,
        )  # fmt: skip
    for i, key in enumerate(used):
        box(axes, i * cell, bottom, cell, key)


def _gaps(axes: Axes, y: float, gaps: dict[str, list[_Row]]) -> None:
    """A bar per arm from when the token was due; of its two steps each starts where the one before ended."""
    ends = [0.0]
    for row in (row for rows in gaps.values() for row in rows):
        ends += [row.steps["gap_late"], excess_of(row.steps)]
    low, high = min(ends), max(ends)
    scale = (WIDE - CUT - 0.05) / max(high - low, _FLAT)
    zero = CUT - low * scale
    heading(axes, y, "Gap from one token to the next", plain=False)
    x = 0.0
    for key, step in GAP_STEPS.items():
        box(axes, x, y - 0.43, 0.2, key)
        axes.text(x + 0.25, y - 0.43 + BAR / 2, step.label, va="center", fontsize=SMALL)
        x += 0.38 + 0.07 * len(step.label)
    y -= _GAP_KEY
    for name, rows in gaps.items():
        if rows:
            heading(axes, y - 0.06, name, "lateness + delivery = excess", plain=False)
            y -= _GAP_NAME
        for row in rows:
            heading(axes, y, row.label, f"{_sum(row)} ms")
            _gap(axes, y - 0.22 - BAR, row.steps, zero, scale)
            y -= _GAP_ROW
    ruler(axes, y, scale, zero)


def _gap(axes: Axes, bottom: float, steps: _Steps, zero: float, scale: float) -> None:
    box(axes, zero - CUT, bottom, CUT, "gap_due")
    at = zero
    for key, place in (("gap_late", bottom + BAR / 2), ("gap_delivery", bottom)):
        width = steps[key] * scale
        box(axes, min(at, at + width), place, abs(width), key, BAR / 2)
        at += width
    axes.plot([at, at], [bottom - 0.03, bottom + BAR + 0.03], color=INK, lw=1.4)
    in_block(axes, zero - CUT / 2, bottom + BAR / 2, steps["gap_due"])
