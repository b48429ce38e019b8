"""Histograms of two signs: as precise as they say, and two of them added up are one of all."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil

import msgspec
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from bench.swarm.histogram import HIGHEST_NS, Histogram, precision_us

HOUR_US = HIGHEST_NS // 1000
PERCENTILES = (0, 1, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
# Of every size up to an hour, not only large ones.
SIZES = st.integers(0, 42).flatmap(lambda bits: st.integers(0, min(2**bits, HIGHEST_NS)))
SIGNED_NS = st.builds(lambda size, sign: size * sign, SIZES, st.sampled_from((1, -1)))
RECORDS = st.lists(SIGNED_NS, min_size=1, max_size=300)


def of(*values_us: int) -> Histogram:
    made = Histogram()
    for value in values_us:
        made.add(value)
    return made


def true_percentile_us(records_ns: list[int], p: float) -> float:
    rank = max(1, ceil(Fraction(str(p)) * len(records_ns) / 100))
    return sorted(records_ns)[rank - 1] / 1000


@given(RECORDS)
def test_every_percentile_is_within_the_stated_precision(records_ns: list[int]) -> None:
    made = Histogram()
    made.add_ns(records_ns)
    for p, told in zip(PERCENTILES, made.percentiles(PERCENTILES), strict=True):
        true = true_percentile_us(records_ns, p)
        assert told == made.percentile(p)
        assert told is not None
        assert abs(told - true) <= precision_us(true), p
    assert made.min_us == min(records_ns) / 1000
    assert made.max_us == max(records_ns) / 1000
    assert made.mean_us == sum(records_ns) / len(records_ns) / 1000


@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_what_was_sent_and_merged_equals_the_records_pooled(workers: list[list[int]]) -> None:
    pooled, merged = Histogram(), Histogram()
    for records in workers:
        one = Histogram()
        one.add_ns(records)
        merged.merge(Histogram.decode(msgspec.msgpack.decode(msgspec.msgpack.encode(one.encode()))))
        pooled.add_ns(records)
    assert merged.encode() == pooled.encode()
    assert merged.percentiles(PERCENTILES) == pooled.percentiles(PERCENTILES)
    assert (merged.total, merged.mean_us) == (pooled.total, pooled.mean_us)


@given(st.lists(SIZES, min_size=1, max_size=50))
def test_values_lie_in_the_cells_that_hdrhistogram_gives_them(records_ns: list[int]) -> None:
    made, theirs = Histogram(), HdrHistogram(1000, HIGHEST_NS, 3)
    made.add_ns(records_ns)
    for value in records_ns:
        theirs.record_value(value)
    assert made.encode()["above"] == theirs.encode().decode()


def test_counts_add_up_in_whole_microseconds() -> None:
    made = Histogram()
    made.add(3, 10)
    made.add(-2, 5)
    assert (made.total, made.min_us, made.max_us, made.mean_us) == (15, -2.0, 3.0, 20 / 15)
    assert made.percentile(33) == pytest.approx(-2.0, abs=0.5)
    assert made.percentile(34) == pytest.approx(3.0, abs=0.5)


def test_ranks_are_exact_at_percentiles_that_floats_do_not_hold() -> None:
    made = of(*range(1, 1001))
    assert made.percentile(99.9) == pytest.approx(999, abs=0.5)
    assert made.percentile(100) == 1000


def test_cells_are_told_from_the_least_up() -> None:
    made = of(70, -3, 5, -900, 5)
    told = list(made.counted())
    assert [count for _, count in told] == [1, 1, 2, 1]
    assert [value for value, _ in told] == pytest.approx([-900, -3, 5, 70], abs=0.5)
    assert sum(count for _, count in told) == made.total


def test_chunks_that_came_together_are_zero_apart() -> None:
    made = Histogram()
    made.add_ns([0] * 8 + [20_000_000])
    assert made.percentile(50) == 0.0


def test_what_lies_beyond_an_hour_counts_as_an_hour_and_is_told() -> None:
    made = of(HOUR_US + 1, -2 * HOUR_US, 5)
    made.add(HOUR_US * 3, 2)
    assert made.clamped == 4
    assert (made.min_us, made.max_us) == (-HOUR_US, HOUR_US)
    again = Histogram.decode(made.encode())
    again.merge(of(2 * HOUR_US))
    assert (again.clamped, again.total) == (5, 6)


def test_nothing_has_no_figures_and_changes_nothing() -> None:
    empty = Histogram()
    empty.add_ns([])
    assert (empty.percentile(50), empty.min_us, empty.max_us, empty.mean_us) == (None, None, None, None)
    some = of(7)
    some.merge(Histogram.decode(empty.encode()))
    empty.merge(some)
    assert some.encode() == empty.encode() == of(7).encode()


def test_it_is_json() -> None:
    encoded = of(-3, 0, 12_345_678).encode()
    assert json.loads(json.dumps(encoded)) == encoded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"above": "abc"}, "cannot be read"),
        ({"above": HdrHistogram(1, 1000, 2).encode().decode()}, "its range and digits are"),
        ({"total": 3}, "does not hold the 3 values"),
        ({"sum_ns": None}, "cannot be read"),
    ],
)
def test_what_is_no_histogram_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Histogram.decode(of(1, 2).encode() | change)
