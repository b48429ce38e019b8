"""Statistics of two independent samples of blocks: how far one is shifted against the other, and between what bounds.

Beside `bench.paired`, for blocks that are no pairs since they did not run side by side. Estimate and interval are those
of the rank sum test (Mann and Whitney 1947, Hodges and Lehmann 1963): if nothing differs, every way to deal the figures
out to the two runs is as likely as any other. Blocks count as independent; a machine that drifts from one run to the
next looks like a shift, and no statistics can tell.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from bench.paired import Floats


def estimate(first: Floats, second: Floats) -> float:
    """The typical difference second - first: the median of the differences of all pairs, one block of each."""
    return float(np.median(_differences(first, second)))


def interval(first: Floats, second: Floats, confidence: float) -> tuple[float, float] | None:
    """The shifts that the rank sum test does not reject at level 1 - `confidence`; None where blocks are too few.

    Its confidence is at least what is asked for, ties or not: with few blocks a little more. Four blocks against four
    are the fewest for 95 %.
    """
    ways = _ways(len(first), len(second))
    # The largest c with P(U <= c) <= half the level: so many differences may be left out at either end.
    limit = (1 - confidence) / 2 + 1e-12
    outside = int(np.searchsorted(np.cumsum(ways), limit, side="right")) - 1
    if outside < 0:
        return None
    found = _differences(first, second)
    return float(found[outside]), float(found[len(found) - 1 - outside])


def _differences(first: Floats, second: Floats) -> Floats:
    found: Floats = np.sort(np.subtract.outer(second, first), axis=None)
    return found


@lru_cache
def _ways(n: int, m: int) -> Floats:
    """The chance of each value of Mann and Whitney's U, from 0 to n m, if nothing differs.

    The number of ways to each is a coefficient of a Gaussian binomial, the product over i <= n of (1 - q^(m + i)) by
    (1 - q^i); whole numbers of any size, since their differences cancel.
    """
    ways = np.zeros(n * m + 1, dtype=object)
    ways[0] = 1
    for i in range(1, n + 1):
        if m + i <= n * m:
            ways[m + i :] = ways[m + i :] - ways[: len(ways) - m - i]
        for start in range(min(i, len(ways))):
            ways[start::i] = np.cumsum(ways[start::i])
    total = int(ways.sum())
    return np.array([int(way) / total for way in ways], dtype=np.float64)
