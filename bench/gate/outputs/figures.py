"""A row's numbers as text, its interval as a chart of characters, and what it counts as."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TypeGuard

from bench.gate.result import Gate, Row
from bench.report.numbers import count, decimals, listed, number

NONE = "–"
_CELLS = 17
_REACH = 2.0
"""The chart goes from -2 to +2 times the smallest effect."""
_FINEST = {"ratio": 1, "difference": 3, "count": 3}


def is_number(value: float | None) -> TypeGuard[float]:
    """Whether there is a value that JSON can hold."""
    return value is not None and math.isfinite(value)


def plain(text: str, most: int | None = None) -> str:
    """Text of anyone's as one line that every format can hold: no control characters, nothing that UTF-8 cannot say.

    `most` is how many characters are kept.
    """
    kept = "".join(c if c.isprintable() else " " for c in text.encode(errors="replace").decode())
    line = " ".join(kept.split())
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def failed(row: Row) -> bool:
    """Whether a row fails the gate."""
    return row.decides and row.finding == "regression"


def unclear(row: Row) -> bool:
    """Whether a row that decides was left open."""
    return row.decides and row.finding == "inconclusive"


def label(row: Row) -> str:
    """The finding in a word or two."""
    if row.finding == "regression":
        return "regression" if row.decides else "worse"
    if row.again is not None:
        return "not confirmed"
    return NONE if row.finding == "told" else row.finding


def subject(row: Row) -> str:
    """`Server CPU per token, cold, p50, sse-aiohttp`: what was measured, and where."""
    return ", ".join(part for part in (row.title, row.where, row.arm) if part)


def values(row: Row) -> tuple[str, str]:
    """Base and head in one precision, without their unit."""
    known = [v for v in (row.base, row.head) if is_number(v)]
    whole = all(float(v).is_integer() for v in known)
    places = 0 if whole else _FINEST["count"] if row.kind == "count" else max(map(decimals, known))

    def shown(value: float | None) -> str:
        return number(value, places) if is_number(value) else NONE

    return shown(row.base), shown(row.head)


def unit_of(row: Row) -> str:
    """The unit of the effect as text."""
    return "%" if row.scale == "ratio" else row.unit


def effect(row: Row) -> str:
    """`+5.3 %`, `−0.12 ms`, `+3`; a dash where there is none."""
    if not is_number(row.effect):
        return NONE
    return _with_unit(row, _signed(row, row.effect))


def interval(row: Row) -> str:
    """`+3.1 to +7.4`, in the unit of the effect; empty where there is none."""
    if not (is_number(row.low) and is_number(row.high)):
        return ""
    return f"{_signed(row, row.low)} to {_signed(row, row.high)}"


def smallest(row: Row) -> str:
    """What counts as worse: `3 %`, `0.1 ms`."""
    if not is_number(row.smallest_effect):
        return NONE
    return _with_unit(row, f"{row.smallest_effect * _factor(row):g}")


def chart(row: Row) -> str:
    """The interval and its estimate from -2 to +2 times the smallest effect, right being worse.

    `│` is no effect, `┊` the smallest that counts, on either side. What lies beyond the ends is an arrow. Empty where
    there is no interval.
    """
    if row.kind == "count" or not row.smallest_effect:
        return ""
    if not (is_number(row.low) and is_number(row.high) and is_number(row.effect)):
        return ""
    worse = -1.0 if row.more_is_better else 1.0
    low, middle, high = sorted(worse * v / row.smallest_effect for v in (row.low, row.effect, row.high))
    cells = ["·"] * _CELLS
    for mark, sign in ((-1.0, "┊"), (0.0, "│"), (1.0, "┊")):
        cells[_cell(mark)] = sign
    if high >= -_REACH and low <= _REACH:
        for i in range(_cell(low), _cell(high) + 1):
            cells[i] = "━" if cells[i] == "·" else "┿"
        if abs(middle) <= _REACH:
            cells[_cell(middle)] = "●"
    if low < -_REACH:
        cells[0] = "◀"
    if high > _REACH:
        cells[-1] = "▶"
    return "".join(cells)


def headline(gate: Gate) -> str:
    """What the gate comes to, and the most important reason."""
    return " ".join([f"Gate: {gate.decision}.", *gate.reasons[:1]])


def counted_as(gate: Gate) -> str:
    """What an inconclusive gate was told to count as; empty where that needs no word."""
    if gate.decision != "inconclusive" or gate.exit_code not in (0, 1):
        return ""
    return f"Inconclusive counts as a {'pass' if gate.exit_code == 0 else 'failure'} here."


def tally(rows: Iterable[Row]) -> str:
    """`14 timings and 38 exact counts decide: 1 regression, 49 same`."""
    deciding = [row for row in rows if row.decides]
    kinds = Counter(row.kind for row in deciding)
    names = {"timing": "timing", "count": "exact count", "micro": "micro-benchmark"}
    what = listed([count(kinds[kind], names[kind]) for kind in ("timing", "count", "micro") if kinds[kind]])
    many = {"regression": "regressions", "improvement": "improvements"}
    words = Counter(map(label, deciding)).items()
    found = ", ".join(f"{n} {many.get(word, word) if n > 1 else word}" for word, n in words)
    verb = "decides" if len(deciding) == 1 else "decide"
    return f"{what} {verb}: {found}" if deciding else "No measure decides"


def _cell(times: float) -> int:
    clipped = max(-_REACH, min(_REACH, times))
    return round((clipped + _REACH) / (2 * _REACH) * (_CELLS - 1))


def _factor(row: Row) -> float:
    return 100.0 if row.scale == "ratio" else 1.0


def _signed(row: Row, value: float) -> str:
    text = number(value * _factor(row), _places(row))
    return f"+{text}" if value > 0 and text.strip("0.") else text


def _places(row: Row) -> int:
    """Decimals for estimate and bounds alike, by the largest of them."""
    sizes = [abs(v) * _factor(row) for v in (row.effect, row.low, row.high) if is_number(v)]
    if row.scale == "count" and all(size.is_integer() for size in sizes):
        return 0
    return min(_FINEST[row.scale], decimals(max(sizes)))


def _with_unit(row: Row, text: str) -> str:
    unit = unit_of(row)
    return f"{text} {unit}" if unit else text
