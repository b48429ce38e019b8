"""Arrivals: absolute offsets, the same for the same seed, at the rate asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.arrivals import NS, derive_seed, open_offsets, ramp_offsets

GOLDEN = [27176230, 105752758, 151949188, 244563104, 342838296, 349615749, 350941295]


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert open_offsets("constant", 4, 1.0, seed=1) == [0, NS // 4, NS // 2, 3 * NS // 4]


def test_poisson_arrivals_are_golden() -> None:
    assert open_offsets("poisson", 10, 0.5, seed=3) == GOLDEN


def test_poisson_arrivals_keep_the_rate_and_the_spread() -> None:
    offsets = open_offsets("poisson", 1000, 100.0, seed=5)
    # 100,000 expected: the standard deviation of the count is 316, five of them is 1,581.
    assert abs(len(offsets) - 100_000) < 1_581
    gaps = [b - a for a, b in pairwise(offsets)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(1.0, abs=0.03)  # exponential gaps


@given(st.floats(0.1, 500), st.floats(0.01, 3), st.integers(0, 2**53), st.sampled_from(["constant", "poisson"]))
def test_offsets_stay_inside_the_window_and_never_go_back(rate: float, duration: float, seed: int, kind: str) -> None:
    offsets = open_offsets(kind, rate, duration, seed)  # type: ignore[arg-type]
    assert offsets == sorted(offsets)
    assert all(0 <= offset < duration * NS for offset in offsets)


def test_users_are_spread_over_the_ramp() -> None:
    assert ramp_offsets(4, 1.0) == [0, NS // 4, NS // 2, 3 * NS // 4]
    assert ramp_offsets(3, 0.0) == [0, 0, 0]


@given(st.integers(0, 2**53), st.text(), st.integers(0, 10**6))
def test_seeds_have_one_width(run_seed: int, phase: str, ordinal: int) -> None:
    assert len(str(derive_seed(run_seed, phase, ordinal))) == 15


def test_seeds_are_golden_and_distinct() -> None:
    assert derive_seed(1, "chat", 0, 7) == 679514468873417
    seeds = {derive_seed(run, phase, n) for run in range(3) for phase in ("a", "b") for n in range(500)}
    assert len(seeds) == 3000
