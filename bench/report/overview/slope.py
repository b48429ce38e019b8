"""How a difference grows with round-trip time: a straight line through the networks' estimates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from scipy.stats import t

FEWEST_NETWORKS = 3
"""Through two points there is always a line."""
CONFIDENCE = 0.95
CLOSE = 0.25
"""Of a round trip. An interval that keeps this close to a whole number of them says how many there are."""


class Slope(msgspec.Struct, frozen=True):
    """Ordinary least squares over networks, one point each.

    The interval is Student's, from how far the estimates are off the line: noise within a network, and all that sets
    networks apart besides their round-trip time, are both in it.
    """

    per_ms: Annotated[float, Meta(description="Growth per ms of round-trip time", extra_json_schema={"unit": "ms/ms"})]
    low: Annotated[float, Meta(description="95 % interval", extra_json_schema={"unit": "ms/ms"})]
    high: Annotated[float, Meta(description="Its upper end", extra_json_schema={"unit": "ms/ms"})]
    at_zero: Annotated[float, Meta(description="The line at no round-trip time", extra_json_schema={"unit": "ms"})]
    networks: Annotated[int, Meta(description="Networks it is from", extra_json_schema={"unit": "networks"})]

    @property
    def round_trips(self) -> int | None:
        """How many round trips more (or fewer, below zero) explain it; None where the interval does not tell."""
        whole = round(self.per_ms)
        return whole if whole - CLOSE <= self.low and self.high <= whole + CLOSE else None

    @property
    def supported(self) -> bool:
        """Whether anything can be said: zero is out of the question, or the number of round trips is known."""
        return self.low > 0 or self.high < 0 or self.round_trips is not None


def fitted(points: Sequence[tuple[float, float]]) -> Slope | None:
    """The line through (round-trip time, difference), both in ms; None where too few round-trip times tell of it."""
    if len({x for x, _ in points}) < FEWEST_NETWORKS:
        return None
    x, y = np.array(points, dtype=np.float64).T
    off = x - x.mean()
    spread = float((off**2).sum())
    per_ms = float((off * y).sum()) / spread
    at_zero = float(y.mean() - per_ms * x.mean())
    free = len(points) - 2
    error = float(np.sqrt(((y - at_zero - per_ms * x) ** 2).sum() / free / spread))
    half = float(t.ppf((1 + CONFIDENCE) / 2, free)) * error
    return Slope(per_ms, per_ms - half, per_ms + half, at_zero, len(points))
