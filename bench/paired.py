"""Statistics of paired differences, one per block: an exact test, an estimate and intervals that agree with each other.

All three rest on one fact: if two arms do not differ, then within a block either could have been the other, so that a
difference is as likely to have either sign. The test flips the signs of ranked differences (Wilcoxon 1945), the
estimate is the shift that the test finds least reason to doubt (Hodges and Lehmann 1963), and an interval holds the
shifts that the test does not reject. None asks that the differences be normal; one wild block moves none of them far.
`docs/method.md` compares them with the paired t and the bootstrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]

FEWEST_BLOCKS = 8
"""Under this many no verdict is given: with 7 no p-value can stay below 0.05 / 6, six being three primary measures
times two contrasts (2 / 2^7 = 0.016; 2 / 2^8 = 0.0078)."""


def sign_flip_p(differences: Floats) -> float:
    """Two-sided p-value of "no difference": the share of all sign assignments with a rank sum at least as extreme.

    Exact for any number of differences and with ties (mid-ranks); zeros keep their rank and count for neither side
    (Pratt 1959).
    """
    ranks = _doubled_ranks(differences)
    if not len(ranks):
        return 1.0
    signs = differences[differences != 0] > 0
    chances = _rank_sum_chances(ranks)
    total = int(ranks.sum())
    extreme = abs(2 * int(ranks[signs].sum()) - total)
    distance = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chances[distance >= extreme].sum()))


def _doubled_ranks(differences: Floats) -> npt.NDArray[np.int64]:
    """Ranks of the magnitudes, doubled so that mid-ranks are whole; zeros left out."""
    ranks = np.rint(2 * rankdata(np.abs(differences))).astype(np.int64)
    kept: npt.NDArray[np.int64] = ranks[differences != 0]
    return kept


def _rank_sum_chances(ranks: npt.NDArray[np.int64]) -> Floats:
    """The chance of each sum of ranks when every rank is in it or not with even odds: index i is the sum i."""
    chances = np.ones(1)
    for rank in ranks:
        grown = np.zeros(len(chances) + int(rank))
        grown[: len(chances)] += chances
        grown[int(rank) :] += chances
        chances = grown / 2
    return chances


def estimate(differences: Floats) -> float:
    """The typical difference: the median of the means of all pairs of differences, each with itself included."""
    return float(np.median(_walsh(differences)))


def _walsh(differences: Floats) -> Floats:
    """The means of all pairs, along the last axis, each with itself included; sorted."""
    first, second = np.triu_indices(differences.shape[-1])
    means: Floats = np.sort((differences[..., first] + differences[..., second]) / 2, axis=-1)
    return means


def interval(differences: Floats, confidence: float) -> tuple[float, float] | None:
    """The differences that the test does not reject at level 1 - `confidence`; None where so few blocks cannot tell.

    Its confidence is at least what is asked for: with few blocks a little more.
    """
    bounds = _intervals(np.asarray(differences, dtype=np.float64), confidence)
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))


def _intervals(samples: Floats, confidence: float) -> tuple[Any, Any] | None:
    """Bounds of the interval of every sample along the last axis."""
    n = samples.shape[-1]
    if not n:
        return None
    chances = np.cumsum(_rank_sum_chances(np.arange(1, n + 1)))
    # The largest c with P(rank sum <= c) <= half the level: so many means may be left out at either end.
    outside = int(np.searchsorted(chances, (1 - confidence) / 2 + 1e-12, side="right")) - 1
    if outside < 0:
        return None
    means = _walsh(samples)
    return means[..., outside], means[..., means.shape[-1] - 1 - outside]


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p-values: at or below alpha is what Holm's step-down procedure rejects (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[int(index)]))
        adjusted[int(index)] = highest
    return adjusted


def noise_floor(differences: Floats, blocks: int, power: float = 0.8, draws: int = 4000) -> float | None:
    """The smallest effect of interest that `blocks` blocks can work with, from differences of an arm against itself.

    It is the one that an experiment of so many blocks would call equivalent with chance `power` were there no
    difference: the bound that in so many of `draws` experiments, made of these differences with random signs, the whole
    90 % interval keeps to. The same draws every time. None where so few blocks cannot tell.
    """
    rng = np.random.default_rng(20261)
    signs = rng.choice([-1.0, 1.0], size=(draws, blocks))
    bounds = _intervals(rng.choice(np.abs(differences), size=(draws, blocks)) * signs, 0.90)
    if bounds is None:
        return None
    return float(np.quantile(np.maximum(np.abs(bounds[0]), np.abs(bounds[1])), power))
