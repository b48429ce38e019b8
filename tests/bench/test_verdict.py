"""Verdicts on made-up figures with a known answer, and how often they are right when made many times over."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import binomtest

from bench.metrics import Account, Conclusions, Value
from bench.paired import FEWEST_BLOCKS, estimate
from bench.scenario import Contrast, Primary
from bench.verdict import ALPHA, conclude

CONTRAST = {"protocol": Contrast("a", "b")}
LATENCY = {"first": Primary("p", "ttft_excess", 0.1, "p50")}
CPU = {"cpu": Primary("p", "cpu_server", 0.03)}
RATE = {"rate": Primary("p", "throughput", 0.03)}


def value(arm: str, figures: Sequence[float], measure: str = "ttft_excess", samples: int = 100_000) -> Value:
    latency = measure in ("ttft_excess", "gap_excess")
    figures = list(map(float, figures))
    return Value(
        "p", arm, "cold" if latency else "all", 0, measure, "p50" if latency else "value", "ms" if latency else "",
        float(np.median(figures)), min(figures), max(figures), figures, list(range(1, len(figures) + 1)), [], samples,
    )  # fmt: skip


def summary_of(values: list[Value], accounts: Sequence[Account] = ()) -> Any:
    index = {(v.phase, v.arm, v.temperature, v.measure, v.statistic): v for v in values}
    phase = SimpleNamespace(name="p", settings={"connections": "cold"})
    return SimpleNamespace(
        values=values,
        phases=[phase],
        get=lambda *key: index.get(key),
        account=lambda p, arm: next((a for a in accounts if (a.phase, a.arm) == (p, arm)), None),
    )


def verdict_of(a: Any, b: Any, primary: dict[str, Primary] = LATENCY) -> Any:
    [one] = primary.values()
    found = conclude(
        summary_of([value("a", a, one.measure), value("b", b, one.measure)]), CONTRAST, primary, set(range(1, 100))
    )
    [compared] = found.primary
    return compared


NOISE = np.array([0.00, 0.01, -0.01, 0.02, -0.02, 0.015, -0.015, 0.005, -0.005, 0.012])


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.3, "slower"), (-0.3, "faster"), (0.0, "equivalent"), (0.05, "equivalent")]
)
def test_a_difference_is_one_only_beyond_the_smallest_effect(shift: float, verdict: str) -> None:
    compared = verdict_of(np.full(10, 1.0), 1.0 + shift + NOISE)
    assert compared.verdict == verdict
    assert compared.estimate == pytest.approx(shift, abs=0.01)
    assert compared.low <= compared.low90 <= compared.estimate <= compared.high90 <= compared.high


def test_too_small_to_matter_is_equivalent_even_when_it_is_certain() -> None:
    compared = verdict_of(np.full(10, 1.0), 1.05 + NOISE)
    assert compared.p_holm < 0.01
    assert compared.low90 > 0
    assert compared.verdict == "equivalent"


def test_what_is_neither_is_inconclusive_and_says_how_many_blocks_would_decide() -> None:
    compared = verdict_of(np.full(10, 1.0), 1.0 + 20 * NOISE)
    assert compared.verdict == "inconclusive"
    assert compared.blocks_to_decide > 10


def test_a_difference_at_the_bound_may_never_be_decided() -> None:
    assert verdict_of(np.full(10, 1.0), 1.1 + 20 * (NOISE - NOISE.mean())).blocks_to_decide is None


def test_the_blocks_that_would_decide_decide() -> None:
    rng = np.random.default_rng(5)
    pilot = rng.normal(0, 0.3, 10)
    pilot -= estimate(pilot)
    needed = verdict_of(np.full(10, 1.0), 1.0 + pilot).blocks_to_decide
    assert needed is not None
    decided = [
        verdict_of(np.full(needed, 1.0), 1.0 + rng.normal(0, 0.3, needed)).verdict == "equivalent" for _ in range(60)
    ]
    assert np.mean(decided) > 0.6


@pytest.mark.parametrize(("blocks", "verdict"), [(FEWEST_BLOCKS - 1, "none"), (FEWEST_BLOCKS, "slower")])
def test_under_eight_blocks_there_is_no_verdict(blocks: int, verdict: str) -> None:
    compared = verdict_of(np.full(blocks, 1.0), 2.0 + NOISE[:blocks])
    assert compared.verdict == verdict
    assert (compared.p is None) == (verdict == "none")


@pytest.mark.parametrize(("primary", "better"), [(CPU, "slower"), (RATE, "faster")])
def test_ratios_know_whether_more_is_better(primary: dict[str, Primary], better: str) -> None:
    compared = verdict_of(np.full(10, 20.0), 22.0 * np.exp(NOISE / 10), primary)
    assert compared.estimate == pytest.approx(0.1, abs=0.002)  # a share: 10 % more
    assert compared.verdict == better


def test_ratios_do_not_depend_on_the_speed_of_a_block() -> None:
    speed = np.linspace(1.0, 2.0, 10)
    compared = verdict_of(20.0 * speed, 21.0 * speed, CPU)
    assert compared.per_block == pytest.approx([0.05] * 10)
    assert compared.verdict == "slower"


def sliced(arm: str, slices: list[list[float]]) -> Value:
    totals = [float(np.mean(one)) for one in slices]
    return msgspec.structs.replace(value(arm, totals, "cpu_server"), per_slice=slices)


def ratio_of(a: list[list[float]], b: list[list[float]]) -> Any:
    found = conclude(summary_of([sliced("a", a), sliced("b", b)]), CONTRAST, CPU, set(range(1, 100)))
    return found.primary[0] if found.primary else None


def test_slices_are_paired_so_that_what_slows_both_slows_neither() -> None:
    weather = [[1.0, 1.3, 0.9, 1.6, 1.0, 2.0, 1.1, 1.0] for _ in range(10)]
    compared = ratio_of([[10 * w for w in one] for one in weather], [[10.5 * w for w in one] for one in weather])
    assert compared.per_block == pytest.approx([0.05] * 10)


def test_a_disturbed_slice_moves_no_block() -> None:
    b = [[10.5] * 8 for _ in range(10)]
    for one in b:
        one[3] = 40.0
    assert ratio_of([[10.0] * 8 for _ in range(10)], b).per_block == pytest.approx([0.05] * 10)


def test_few_slices_or_other_numbers_of_them_are_compared_as_a_whole() -> None:
    assert ratio_of([[10.0, 30.0]] * 10, [[11.0, 31.0]] * 10).per_block == pytest.approx([0.05] * 10)
    assert ratio_of([[20.0] * 4] * 10, [[21.0] * 5] * 10).per_block == pytest.approx([0.05] * 10)


def test_a_ratio_to_nothing_is_not_compared() -> None:
    assert ratio_of([[0.0] * 8] * 10, [[1.0] * 8] * 10) is None


def test_only_whole_blocks_count_and_pairs_are_by_block() -> None:
    a, b = value("a", np.arange(1.0, 11.0)), value("b", np.arange(1.0, 11.0) + 0.5)
    found = conclude(summary_of([a, b]), CONTRAST, LATENCY, set(range(1, 10)) - {4})
    assert found.primary[0].blocks == [1, 2, 3, 5, 6, 7, 8, 9]
    assert found.blocks == 8


def test_holm_is_over_primary_measures_and_contrasts() -> None:
    rng = np.random.default_rng(1)
    values = [
        value(arm, 1.0 + shift + rng.normal(0, 0.01, 9), measure)
        for arm, shift in (("a", 0.0), ("b", 0.5), ("c", 0.5))
        for measure in ("ttft_excess", "cpu_server", "throughput")
    ]
    contrasts = {"one": Contrast("a", "b"), "two": Contrast("b", "c")}
    found = conclude(summary_of(values), contrasts, {**LATENCY, **CPU, **RATE}, set(range(1, 10)))
    assert len(found.primary) == 6
    strongest = min(c.p for c in found.primary)
    assert strongest == 2 / 2**9
    assert min(c.p_holm for c in found.primary) == pytest.approx(6 * strongest)


def test_what_is_not_primary_is_exploratory_and_has_no_verdict() -> None:
    values = [value(arm, 1.0 + NOISE, measure) for arm in "ab" for measure in ("ttft_excess", "cpu_server")]
    found = conclude(summary_of(values), CONTRAST, LATENCY, set(range(1, 11)))
    assert [c.measure for c in found.exploratory] == ["cpu_server"]
    assert found.exploratory[0].verdict == "none"
    assert found.exploratory[0].low is not None


def test_high_percentiles_from_few_samples_are_advisory() -> None:
    def advisory(samples: int) -> bool:
        p99 = [
            Value(
                "p", arm, "cold", 0, "gap_excess", "p99", "ms", 1.0, 1.0, 1.0, [1.0] * 10, list(range(10)), [], samples
            )
            for arm in "ab"
        ]
        return conclude(summary_of(p99), CONTRAST, {}, set(range(10))).exploratory[0].advisory

    assert advisory(9_000)
    assert not advisory(10_000)  # a thousand a trial: ten beyond each p99


def exact(a: Sequence[float], b: Sequence[float], *accounts: Account) -> Conclusions:
    values = [value("a", a, "wire_bytes"), value("b", b, "wire_bytes")]
    return conclude(summary_of(values, accounts), CONTRAST, {}, set(range(1, 100)))


@pytest.mark.parametrize(
    ("a", "b", "finding"),
    [
        ([200.0] * 3, [200.0] * 3, "same"),
        ([200.0] * 3, [200.001] * 3, "more"),
        ([200.0] * 3, [199.0] * 3, "fewer"),
        ([200.0, 200.0, 201.0], [200.0] * 3, "varies"),
        ([200.0, 200.0, 201.0], [400.0] * 3, "more"),  # not to the digit, and beyond doubt
    ],
)
def test_counters_are_compared_to_the_digit(a: list[float], b: list[float], finding: str) -> None:
    [counter] = exact(a, b).counters
    assert counter.finding == finding
    assert counter.exact == (len(set(a)) == len(set(b)) == 1)


def test_one_lost_token_is_seen() -> None:
    accounts = Account("p", "a", 10, {"complete": 10}, 100_000), Account("p", "b", 10, {"complete": 10}, 99_999, lost=1)
    found = {c.measure: (c.baseline_value, c.other_value, c.finding) for c in exact([1.0], [1.0], *accounts).counters}
    assert found["lost"] == (0, 1, "more")
    assert found["repeated"] == (0, 0, "same")


def test_over_many_experiments_wrong_verdicts_stay_at_the_stated_rate() -> None:
    """Three primary measures and two contrasts without any difference: any `faster` or `slower` is wrong."""
    rng = np.random.default_rng(11)
    contrasts = {"one": Contrast("a", "b"), "two": Contrast("b", "c")}
    tiny = {name: Primary(p.phase, p.measure, 1e-6, p.statistic) for name, p in {**LATENCY, **CPU, **RATE}.items()}
    wrong = 0
    for _ in range(300):
        values = [
            value(arm, 100 + rng.standard_t(3, 10), measure)
            for arm in "abc"
            for measure in ("ttft_excess", "cpu_server", "throughput")
        ]
        found = conclude(summary_of(values), contrasts, tiny, set(range(1, 11)))
        wrong += any(c.verdict in ("faster", "slower") for c in found.primary)
    assert binomtest(wrong, 300, ALPHA, alternative="greater").pvalue > 0.01
