"""Numbers as text: three digits that mean something, one precision for a value and its range."""

from __future__ import annotations

import math

from bench.metrics import Value

ALIKE = "every trial"
NARROW, MINUS = "\u202f", "\u2212"
_FINEST = 3
"""Decimals at most: for ms that is a microsecond, finer than what is stamped is worth."""


def decimals(value: float) -> int:
    """Decimals that show a value with about three digits."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return 2
    return max(0, min(_FINEST, 2 - math.floor(math.log10(size))))


def number(value: float, places: int | None = None) -> str:
    """A number with a true minus sign and thousands apart; never a negative zero."""
    places = decimals(value) if places is None else places
    text = f"{abs(value):,.{places}f}".replace(",", NARROW)
    return (MINUS if value < 0 and float(f"{abs(value):.{places}f}") else "") + text


def spread(value: Value, finest: int = _FINEST, scale: float = 1.0) -> tuple[str, str]:
    """The median over trials and, where there are several, its range as `min to max`, in one precision.

    Where the range has no width at that precision, `ALIKE` takes its place. `finest` is the most decimals, and `scale`
    multiplies all three. What is a lower bound says `at least`.
    """
    middle, lowest, highest = (v * scale for v in (value.median, value.min, value.max))
    places = 0 if value.unit == "users" else min(finest, decimals(max(abs(middle), abs(highest) / 10)))
    shown = ("at least " if value.at_least else "") + number(middle, places)
    if len(value.per_trial) < 2:
        return shown, ""
    low, high = number(lowest, places), number(highest, places)
    return shown, ALIKE if low == high else f"{low} to {'at least ' if value.max_at_least else ''}{high}"


def count(n: int, one: str, many: str | None = None) -> str:
    """`1 trial`, `8 trials`."""
    return f"{n:,}".replace(",", NARROW) + f" {one if n == 1 else many or one + 's'}"


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
