"""What sections say alike: arms by their labels, entries in the order of the report, figures over trials in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from bench.metrics import Summary
from bench.metrics.over_trials import OverTrials
from bench.report.numbers import decimals, number

NONE = "–"


class _Placed(Protocol):
    """An entry about one arm in one phase."""

    @property
    def phase(self) -> str: ...

    @property
    def arm(self) -> str: ...


Entry = TypeVar("Entry", bound=_Placed)


def label(summary: Summary, arm: str) -> str:
    """The arm's name for people."""
    return next(a.label for a in summary.arms if a.name == arm)


def ordered(summary: Summary, entries: Iterable[Entry]) -> list[Entry]:
    """Phase by phase and arm by arm, as everywhere in the report."""
    places = [(phase.name, arm.name) for phase in summary.phases for arm in summary.arms]
    return sorted(entries, key=lambda entry: places.index((entry.phase, entry.arm)))


def ranged(figure: OverTrials | None, unit: str = "") -> str:
    """`0.42 ms (0.40 to 0.47)`, in one precision; without a range for one trial, or where it has no width."""
    if figure is None:
        return NONE
    places = decimals(max(abs(figure.median), abs(figure.max) / 10, abs(figure.min) / 10))
    middle, low, high = (number(value, places) for value in (figure.median, figure.min, figure.max))
    said = f"{middle} {unit}".rstrip()
    return said if low == high else f"{said} ({low} to {high})"


def signed(figure: OverTrials | None, unit: str = "") -> str:
    """A difference, with a plus sign where it has none."""
    text = ranged(figure, unit)
    return f"+{text}" if figure is not None and text[0].isdigit() and any(c in "123456789" for c in text) else text
