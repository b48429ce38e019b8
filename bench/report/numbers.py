"""Numbers as text: three digits that mean something, one precision for a value and its range."""

from __future__ import annotations

import math

from bench.metrics import Value

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


def spread(value: Value) -> tuple[str, str]:
    """The median over trials and, where there are several, its range as `min to max`, in one precision."""
    places = 0 if value.unit == "users" else decimals(max(abs(value.median), abs(value.max) / 10))
    if len(value.per_trial) < 2:
        return number(value.median, places), ""
    low, high = number(value.min, places), number(value.max, places)
    return number(value.median, places), f"{low} to {high}"


def count(n: int, one: str, many: str | None = None) -> str:
    """`1 trial`, `8 trials`."""
    return f"{n:,}".replace(",", NARROW) + f" {one if n == 1 else many or one + 's'}"


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
