"""Change points of a series: where its level moved, tested by permutation.

Were nothing to change, any order of the figures would be as likely as the one seen. The statistic of a split is the
share of the scatter that two levels, before and after, explain; that of a series is its best split's. How often chance
order has as good a split is the p-value, so that the search for the split is part of what is tested: in a series whose
figures are exchangeable, any change point at all is found with a chance of at most `ALPHA`. A split found, the parts
before and after it are searched likewise (binary segmentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import permutation_test

from bench.paired import Floats

ALPHA = 0.01
"""Chance of any change point in a series where nothing changed."""
FEWEST = 12
"""With fewer points not even a clear step is rare enough in chance order, unless it is in the very middle."""
FEWEST_BESIDE = 3
"""On either side of a change point: one wild run is no level."""
RESAMPLES = 1999
_SEED = 20261


class Change(NamedTuple):
    """A change of level."""

    at: int
    """The first point of the new level."""
    before: float
    """Median of the level that ended, from the change before it."""
    after: float
    """Median of the level that began, up to the next change."""
    p: float
    """By permutation: at least 1 / (`RESAMPLES` + 1)."""


def changes(values: Sequence[float]) -> list[Change] | None:
    """The change points of a series, in its order; None where it has fewer than `FEWEST` points.

    The same for the same values, every time.
    """
    series = np.array(values, dtype=np.float64)
    if len(series) < FEWEST:
        return None
    found = sorted(_split(series, 0))
    edges = [0, *(at for at, _ in found), len(series)]
    levels = [float(np.median(series[a:b])) for a, b in pairwise(edges)]
    return [Change(at, levels[i], levels[i + 1], p) for i, (at, p) in enumerate(found)]


def _split(series: Floats, offset: int) -> list[tuple[int, float]]:
    """Where a series splits, and its parts in turn, with p-values."""
    if len(series) < FEWEST or np.ptp(series) == 0:
        return []
    tested = permutation_test(
        (series,), _best, permutation_type="pairings", vectorized=True, n_resamples=RESAMPLES, alternative="greater",
        rng=np.random.default_rng(_SEED),
    )  # fmt: skip
    p = float(tested.pvalue)
    if p > ALPHA:
        return []
    at = FEWEST_BESIDE + int(np.argmax(_explained(series)))
    return [(offset + at, p), *_split(series[:at], offset), *_split(series[at:], offset + at)]


def _best(series: Floats, axis: int = -1) -> Any:
    """The statistic of the best split."""
    return _explained(np.moveaxis(series, axis, -1)).max(axis=-1)


def _explained(series: Floats) -> Floats:
    """Of every split that leaves enough on either side, the share of the scatter between its two levels."""
    n = series.shape[-1]
    centred = series - series.mean(axis=-1, keepdims=True)
    sizes = np.arange(FEWEST_BESIDE, n - FEWEST_BESIDE + 1)
    sums = np.cumsum(centred, axis=-1)[..., sizes - 1]
    share: Floats = sums**2 * n / (sizes * (n - sizes)) / (centred**2).sum(axis=-1, keepdims=True)
    return share
