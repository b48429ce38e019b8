"""Paired statistics: against scipy, by enumeration, and by how often they are right on made-up data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata, wilcoxon

from bench.paired import FEWEST_BLOCKS, estimate, holm, interval, noise_floor, sign_flip_p

NUMBERS = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


def by_enumeration(differences: np.ndarray) -> float:
    """The p-value by going through every assignment of signs, with the ranks that zeros take part in."""
    ranks = rankdata(np.abs(differences))[differences != 0]
    signs = np.sign(differences[differences != 0])
    seen = abs(float(np.sum(signs * ranks)))
    flips = [abs(float(np.sum(np.array(s) * ranks))) for s in itertools.product((-1, 1), repeat=len(ranks))]
    return float(np.mean([flip >= seen - 1e-9 for flip in flips]))


@given(st.lists(st.one_of(NUMBERS, st.sampled_from([0.0, 1.0, -1.0, 2.0])), min_size=1, max_size=9))
def test_the_test_is_that_of_all_sign_flips_with_ties_and_zeros(values: list[float]) -> None:
    differences = np.array(values)
    assert sign_flip_p(differences) == pytest.approx(by_enumeration(differences))


@pytest.mark.parametrize("n", [5, 8, 12, 30, 50])
def test_without_ties_it_is_the_exact_wilcoxon_test(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.4, 1, n)
    assert sign_flip_p(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


def test_known_answers() -> None:
    assert sign_flip_p(np.arange(1.0, 9.0)) == 2 / 2**8  # all eight of one sign
    assert sign_flip_p(np.array([-1.0, *np.arange(2.0, 9.0)])) == 4 / 2**8
    assert sign_flip_p(np.zeros(8)) == 1.0
    assert sign_flip_p(np.full(1000, 3.0)) == pytest.approx(0, abs=1e-100)
    assert estimate(np.array([1.0, 2.0, 30.0])) == 8.75  # means of pairs: 1, 1.5, 2, 15.5, 16, 30
    assert interval(np.arange(1.0, 6.0), 0.95) is None  # 2 / 2^5 is more than 5 %
    assert interval(np.arange(1.0, 7.0), 0.95) == (1.0, 6.0)


def test_the_fewest_blocks_are_those_that_six_tests_can_be_significant_with() -> None:
    assert 6 * 2 / 2**FEWEST_BLOCKS <= 0.05 < 6 * 2 / 2 ** (FEWEST_BLOCKS - 1)


@given(st.lists(NUMBERS, min_size=6, max_size=14, unique=True), NUMBERS)
def test_an_interval_holds_what_the_test_does_not_reject(values: list[float], shift: float) -> None:
    differences = np.array(values)
    sizes = np.abs(np.round(differences - shift, 6))
    assume(sizes.min() > 0)
    assume(len(np.unique(sizes)) == len(sizes))  # the interval is that of differences without ties
    bounds = interval(differences, 0.95)
    assert bounds is not None
    inside = bounds[0] < shift < bounds[1]
    outside = shift < bounds[0] or shift > bounds[1]
    p = sign_flip_p(np.round(differences - shift, 6))
    if inside:
        assert p > 0.05
    if outside:
        assert p <= 0.05


@given(st.lists(NUMBERS, min_size=6, max_size=12), st.integers(-1000, 1000))
def test_a_shift_moves_the_interval_and_not_its_width(values: list[float], shift: int) -> None:
    before, after = interval(np.array(values), 0.9), interval(np.array(values) + shift, 0.9)
    assert before is not None
    assert after is not None
    assert after[0] == pytest.approx(before[0] + shift, abs=1e-6)
    assert after[1] - after[0] == pytest.approx(before[1] - before[0], abs=1e-6)


SHAPES = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "heavy tails": lambda rng, size: rng.standard_t(2, size),
    "one block in ten disturbed": lambda rng, size: rng.standard_normal(size) * (1 + 20 * (rng.random(size) < 0.1)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [8, 10, 16])
def test_no_difference_is_found_at_no_more_than_the_stated_rate(shape: str, n: int) -> None:
    samples = SHAPES[shape](np.random.default_rng(n), (2000, n))
    wrong = sum(sign_flip_p(sample) <= 0.05 for sample in samples)
    missed = sum(not low <= 0 <= high for low, high in (interval(sample, 0.95) or (0, 0) for sample in samples))
    assert binomtest(wrong, 2000, 0.05, alternative="greater").pvalue > 1e-3
    assert binomtest(missed, 2000, 0.05, alternative="greater").pvalue > 1e-3
    assert wrong > 20  # and the test is not one that never speaks


def test_a_difference_is_found() -> None:
    samples = np.random.default_rng(1).normal(2.0, 1.0, (500, 10))
    assert np.mean([sign_flip_p(sample) <= 0.05 / 6 for sample in samples]) > 0.95


def test_one_wild_block_does_not_move_the_estimate_far() -> None:
    differences = np.random.default_rng(2).normal(1.0, 0.1, 10)
    wild = differences.copy()
    wild[3] = 1000.0
    assert abs(estimate(wild) - estimate(differences)) < 0.1
    assert wild.mean() > 100


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_between_one_test_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= min(1.0, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(a <= b for a, b in itertools.pairwise(adjusted[i] for i in order))
    assert adjusted[order[0]] == pytest.approx(min(1.0, len(p_values) * p_values[order[0]]))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_floor_is_what_equivalence_needs() -> None:
    rng = np.random.default_rng(3)
    recorded = rng.normal(0, 1, 400)
    floor = noise_floor(recorded, 10)
    assert floor is not None
    bounds = [interval(rng.normal(0, 1, 10), 0.90) or (-9.0, 9.0) for _ in range(2000)]
    equivalent = np.mean([max(abs(low), abs(high)) < floor for low, high in bounds])
    assert 0.75 < equivalent < 0.85
    assert noise_floor(recorded, 40) < floor / 1.7  # as the root of the number of blocks
    assert noise_floor(recorded, 4) is None
    assert noise_floor(3 * recorded, 10) == pytest.approx(3 * floor)
