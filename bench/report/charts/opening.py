"""What a connection costs before the first token: a stacked bar per arm and kind of connection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import Figure

from bench.metrics import Phase
from bench.metrics.opening import Opening
from bench.report.charts.bars import Stack, height, stacked, total
from bench.report.charts.canvas import Chart, named
from bench.report.numbers import decimals, number

_NAMES = {
    "part_connect": "TCP connect",
    "part_tls": "TLS handshake",
    "part_upgrade": "upgrade",
    "part_send": "request written",
    "part_takeup": "taken up",
    "part_late": "written late",
    "part_delivery": "delivery",
}
"""In the order of the steps, so that a step has the same colour here as in the waterfall."""
_FINEST = 2
"""Decimals of a step's ms: with more, seven steps and their sum are wider than the chart."""
_CAPTION = (
    "The model's own delay is left out. Cold streams count from connect(), warm ones from the request's write. Means, "
    "so that steps add up: of the middle tenth of each trial's streams by first-token excess, then of the middle half "
    "of the trials; so sums are near the table's medians, not equal to them."
)


def make(phase: Phase, rows: Sequence[tuple[str, Opening]]) -> Chart | None:
    """The chart of a phase with cold streams, a bar per labelled row; None where the server's log is missing."""
    known = [(label, row.mean_steps_ms) for label, row in rows if row.mean_steps_ms]
    if not known:
        return None
    longest = max(total(list(steps.values())) for _, steps in known)
    places = min(_FINEST, decimals(longest / 10))
    # Rounded first, so that what is printed adds up; a step that this connection has not is not printed.
    stacks: list[Stack] = [(label, [round(steps[k], places) or None for k in _NAMES]) for label, steps in known]
    sums = "; ".join(f"{label} {number(total(values), places)} ms" for label, values in stacks)
    return Chart(
        phase.name,
        named(phase.name, "opening"),
        f"What does a connection cost before the first token? ({phase.name})",
        _CAPTION,
        f"{sums}.",
        height(len(stacks)),
        partial(_draw, stacks, places),
    )


def _draw(stacks: Sequence[Stack], places: int, figure: Figure) -> None:
    stacked(figure, tuple(_NAMES.values()), stacks, "ms", places)
