"""Counts of durations that add up without loss: what two workers counted is what one would have counted of both.

Both signs, on two HdrHistograms. They count in nanoseconds, so that nothing is rounded before it is counted; what they
are asked for is in microseconds. Imported by processes that measure: standard library and hdrh only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate
from math import ceil
from typing import Any

from hdrh.histogram import HdrHistogram

LOWEST_NS, HIGHEST_NS, DIGITS = 1_000, 3_600_000_000_000, 3
"""1 us to 1 hour with three significant digits: cells of 512 ns below 1 ms, and of less than 0.1 % above."""
_EVEN_NS = (1 << 20) - 1
"""Up to here all cells are 512 ns wide."""


class Histogram:
    """How often which duration came. Of a value, precise to 1 us or 0.1 %, whichever is more; of sums, exact.

    What lies beyond an hour, on either side of zero, counts as an hour; `clamped` says how many those are.
    """

    __slots__ = ("_above", "_below", "_max_ns", "_min_ns", "_sum_ns", "clamped", "total")

    def __init__(self) -> None:
        self._above = _Side()
        self._below: _Side | None = None
        """What is below zero: most measures cannot be."""
        self._sum_ns = self._min_ns = self._max_ns = 0
        self.total = 0
        self.clamped = 0

    def add(self, value_us: int, count: int = 1) -> None:
        """Count a value, so many times."""
        self._extend([value_us * 1000], count)

    def add_ns(self, values_ns: Sequence[int]) -> None:
        """Count values in ns, each once."""
        if values_ns:
            self._extend(values_ns, 1)

    def _extend(self, values_ns: Sequence[int], count: int) -> None:
        """Count values, some at least, each so many times."""
        lowest, highest = min(values_ns), max(values_ns)
        if lowest < -HIGHEST_NS or highest > HIGHEST_NS:
            self.clamped += count * sum(abs(value) > HIGHEST_NS for value in values_ns)
            values_ns = [max(-HIGHEST_NS, min(value, HIGHEST_NS)) for value in values_ns]
            lowest, highest = min(values_ns), max(values_ns)
        self._min_ns = min(self._min_ns, lowest) if self.total else lowest
        self._max_ns = max(self._max_ns, highest) if self.total else highest
        self._sum_ns += sum(values_ns) * count
        self.total += len(values_ns) * count
        if lowest < 0:
            self._below = self._below or _Side()
            _count_both(self._above.cells, self._below.cells, values_ns, count)
        else:
            _count(self._above.cells, values_ns, count)

    @property
    def min_us(self) -> float | None:
        """The least value; None of none."""
        return self._min_ns / 1000 if self.total else None

    @property
    def max_us(self) -> float | None:
        """The greatest value; None of none."""
        return self._max_ns / 1000 if self.total else None

    @property
    def mean_us(self) -> float | None:
        """The mean of all values; None of none."""
        return self._sum_ns / self.total / 1000 if self.total else None

    def percentile(self, p: float) -> float | None:
        """The value (us) that `p` percent of all do not exceed, by nearest rank; None of none."""
        return self.percentiles([p])[0]

    def percentiles(self, ps: Iterable[float]) -> list[float | None]:
        """Several of `percentile`, for about the price of one."""
        if not self.total:
            return [None for _ in ps]
        above = list(accumulate(self._above.cells))
        below = list(accumulate(self._below.cells)) if self._below else [0]
        return [self._at(max(1, ceil(Fraction(str(p)) * self.total / 100)), above, below) for p in ps]

    def _at(self, rank: int, above: list[int], below: list[int]) -> float:
        """The value (us) at a rank from 1, by how many lie in each cell and those nearer to zero."""
        if rank == 1 or rank >= self.total:
            return (self._min_ns if rank == 1 else self._max_ns) / 1000
        if rank <= below[-1]:
            value = -self._above.middle_ns(bisect_left(below, below[-1] - rank + 1))
        else:
            value = self._above.middle_ns(bisect_left(above, rank - below[-1]))
        return max(self._min_ns, min(value, self._max_ns)) / 1000

    def counted(self) -> Iterator[tuple[float, int]]:
        """What stands for the values of a cell (us), and how many they are: of all cells that have any, upwards."""
        for sign, side in ((-1, self._below), (1, self._above)):
            cells = [(sign * self._above.middle_ns(i) / 1000, n) for i, n in enumerate(side.cells) if n] if side else []
            yield from cells[::sign]

    def merge(self, other: Histogram) -> None:
        """Take in what another has counted."""
        if not other.total:
            return
        self._min_ns = min(self._min_ns, other._min_ns) if self.total else other._min_ns
        self._max_ns = max(self._max_ns, other._max_ns) if self.total else other._max_ns
        self._sum_ns += other._sum_ns
        self.total += other.total
        self.clamped += other.clamped
        self._above.hdr.add(other._above.hdr)
        if other._below:
            self._below = self._below or _Side()
            self._below.hdr.add(other._below.hdr)

    def encode(self) -> dict[str, Any]:
        """Everything in types that JSON and msgpack have; both sides as other HdrHistograms write them (V2, base64)."""
        return {
            "total": self.total, "clamped": self.clamped, "sum_ns": self._sum_ns, "min_ns": self._min_ns,
            "max_ns": self._max_ns, "above": self._above.encode(max(0, self._max_ns)),
            "below": self._below.encode(-self._min_ns) if self._below else None,
        }  # fmt: skip

    @staticmethod
    def decode(encoded: Mapping[str, Any]) -> Histogram:
        """What `encode` gave. Raises `ValueError` with a line for people."""
        made = Histogram()
        try:
            made.total, made.clamped, made._sum_ns, made._min_ns, made._max_ns = (
                int(encoded[key]) for key in ("total", "clamped", "sum_ns", "min_ns", "max_ns")
            )
            made._above = _Side(HdrHistogram.decode(encoded["above"]))
            made._below = _Side(HdrHistogram.decode(encoded["below"])) if encoded["below"] else None
        except Exception as error:  # hdrh has no common base for its own errors
            raise ValueError(f"a histogram cannot be read: {type(error).__name__}: {error}") from error
        if sum(side.hdr.total_count for side in (made._above, made._below) if side) != made.total:
            raise ValueError(f"a histogram does not hold the {made.total} values it speaks of")
        return made


def precision_us(value_us: float) -> float:
    """How far from a true value one told by a histogram may be, in us."""
    return max(1.0, abs(value_us) / 1000)


def _count(cells: memoryview[int], values_ns: Sequence[int], count: int) -> None:
    """Count values from 0 to an hour. Once per token: HdrHistogram's own method takes ten times as long."""
    for value in values_ns:
        if value > _EVEN_NS:
            shift = value.bit_length() - 11
            cells[(shift - 9 << 10) + (value >> shift)] += count
        else:
            cells[value >> 9] += count


def _count_both(above: memoryview[int], below: memoryview[int], values_ns: Sequence[int], count: int) -> None:
    """The same for values of both signs."""
    for value in values_ns:
        if value >= 0:
            cells = above
        else:
            cells, value = below, -value
        if value > _EVEN_NS:
            shift = value.bit_length() - 11
            cells[(shift - 9 << 10) + (value >> shift)] += count
        else:
            cells[value >> 9] += count


class _Side:
    """Counts of one sign, in cells of an HdrHistogram that are reached without it."""

    __slots__ = ("cells", "hdr")

    def __init__(self, hdr: Any = None) -> None:
        self.hdr = hdr or HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
        self.cells: memoryview[int] = memoryview(self.hdr.counts).cast("B").cast("Q")
        limits = self.hdr.lowest_trackable_value, self.hdr.highest_trackable_value, self.hdr.significant_figures
        if limits != (LOWEST_NS, HIGHEST_NS, DIGITS):
            raise ValueError(f"its range and digits are {limits}, not {(LOWEST_NS, HIGHEST_NS, DIGITS)}")

    def encode(self, farthest_ns: int) -> str:
        """The counts, of which none lies beyond `farthest_ns`."""
        self.hdr.max_value, self.hdr.total_count = farthest_ns, 1  # how many they are, it finds when it is decoded
        return str(self.hdr.encode().decode("ascii"))

    def middle_ns(self, cell: int) -> float:
        """What stands for all values of a cell: zero for the first, in which are chunks that came together."""
        width = 512 << max(0, (cell >> 10) - 1)
        return float(self.hdr.get_value_from_index(cell)) + (width - 1) / 2 if cell else 0.0
