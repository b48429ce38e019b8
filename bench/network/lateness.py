"""How late a relay was with what it passed on."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate

CEILING_US = 100_000
"""Anything later is counted as this late; the longest is kept exactly."""


class Lateness:
    """Every packet's time from when it was due until it was written, in buckets of a microsecond."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * (CEILING_US + 1)))
        self._longest_ns = 0

    def add(self, late_ns: int) -> None:
        """Count one packet."""
        self._counts[min(late_ns // 1000, CEILING_US)] += 1
        if late_ns > self._longest_ns:
            self._longest_ns = late_ns

    def summary(self) -> dict[str, float] | None:
        """Median, 99th percentile and longest, in us, the first two rounded up; None before the first packet."""
        seen = list(accumulate(self._counts[: self._longest_ns // 1000 + 1]))
        if not seen[-1]:
            return None
        p50, p99 = (bisect_left(seen, share * seen[-1]) + 1 for share in (0.5, 0.99))
        return {"p50": p50, "p99": p99, "max": self._longest_ns / 1000}
