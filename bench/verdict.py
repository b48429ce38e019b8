"""What two arms' measurements amount to: paired by block, tested, estimated, and put as one of four verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from scipy.stats import norm, trim_mean

from bench.measures import MEASURES, streams_of
from bench.metrics import Account, Comparison, Conclusions, Counter, Summary, Value, Verdict
from bench.paired import FEWEST_BLOCKS, Floats, estimate, holm, interval, sign_flip_p
from bench.scenario import Contrast, Primary

ALPHA = 0.05
"""Chance of any wrong `faster` or `slower` in a run, over all its primary comparisons together."""
ENOUGH_FOR_P99 = 1000
"""Samples a trial needs for a p99 with ten beyond it; on fewer it is advisory. A p99.9 needs ten times as many."""
MOST_BLOCKS = 1000
COUNTED = ("lost", "repeated", "reordered", "corrupted", "failed")

Kind = Literal["difference", "ratio"]


class Judged(NamedTuple):
    """A primary comparison's verdict."""

    verdict: Verdict
    blocks_to_decide: int | None


def conclude(
    summary: Summary, contrasts: Mapping[str, Contrast], primary: Mapping[str, Primary], whole: set[int]
) -> Conclusions:
    """Compare the arms of every contrast, over the blocks in `whole`: those with a valid trial of every arm."""
    decided, explored = [], []
    names = {(p.phase, _temperature(summary, p), p.measure, p.statistic): name for name, p in primary.items()}
    for contrast_name, contrast in contrasts.items():
        for value in summary.values:
            if value.arm != contrast.baseline or value.users:
                continue
            other = summary.get(value.phase, contrast.other, value.temperature, value.measure, value.statistic)
            compared = _compare(contrast_name, value, other, whole) if other else None
            if compared is None:
                continue
            name = names.get((value.phase, value.temperature, value.measure, value.statistic))
            if name is None:
                explored.append(compared)
            else:
                effect = primary[name].smallest_effect
                decided.append(msgspec.structs.replace(compared, primary=name, smallest_effect=effect))
    return Conclusions(
        alpha=ALPHA,
        blocks=len(whole),
        fewest_blocks=FEWEST_BLOCKS,
        primary=_decide(decided),
        counters=[c for name, contrast in contrasts.items() for c in _counters(summary, name, contrast)],
        exploratory=explored,
    )


def conclude_run(summary: Summary, scenario: Mapping[str, Any]) -> Conclusions:
    """The conclusions of a run whose run.json has this `scenario`, over the blocks that have a trial of every arm."""
    contrasts = msgspec.convert(scenario.get("contrasts") or {}, dict[str, Contrast])
    primary = msgspec.convert(scenario.get("primary") or {}, dict[str, Primary])
    return conclude(summary, contrasts, primary, whole_blocks(summary))


def whole_blocks(summary: Summary) -> set[int]:
    """The blocks with a figure of every arm that are not void."""
    by_arm: dict[str, set[int]] = {arm.name: set() for arm in summary.arms}
    for value in summary.values:
        by_arm[value.arm] |= set(value.blocks)
    whole = set.intersection(*by_arm.values()) if by_arm else set()
    return whole - {void.block for void in summary.voids}


def _temperature(summary: Summary, primary: Primary) -> str:
    phase = next(p for p in summary.phases if p.name == primary.phase)
    return streams_of(primary.measure, primary.temperature, str(phase.settings["connections"]))


def paired(baseline: Value, other: Value, whole: set[int], kind: Kind) -> tuple[list[int], Floats]:
    """The blocks that both have and their differences: other - baseline, or the logarithm of other / baseline.

    Where a phase was in slices, the logarithm is that of its typical pair of slices: arms took turns, so that the k-th
    of one stands next to the k-th of the other in time, and what slowed the machine for a moment slowed both.
    """
    there = [block for block in baseline.blocks if block in set(other.blocks) & whole]
    a, b = (_of_blocks(value, there) for value in (baseline, other))
    if kind == "difference":
        return there, np.array([y - x for (x, _), (y, _) in zip(a, b, strict=True)], dtype=np.float64)
    if any(min(x, y, *xs, *ys) <= 0 for (x, xs), (y, ys) in zip(a, b, strict=True)):
        return [], np.empty(0)  # a ratio to nothing is no figure
    return there, np.array([_log_ratio(*one, *two) for one, two in zip(a, b, strict=True)], dtype=np.float64)


def _of_blocks(value: Value, blocks: Sequence[int]) -> list[tuple[float, list[float]]]:
    """The figure of some blocks, and the figures of their slices, if there are any."""
    slices = value.per_slice or [[] for _ in value.blocks]
    known = dict(zip(value.blocks, zip(value.per_trial, slices, strict=True), strict=True))
    return [known[block] for block in blocks]


def _log_ratio(baseline: float, its_slices: list[float], other: float, slices: list[float]) -> float:
    """log(other / baseline): of pairs of slices the mean of the middle half, where there are at least four pairs."""
    if len(slices) != len(its_slices) or len(slices) < 4:
        return math.log(other / baseline)
    return float(trim_mean(np.log(np.array(slices) / np.array(its_slices)), 0.25))


def _compare(name: str, baseline: Value, other: Value, whole: set[int]) -> Comparison | None:
    measure = MEASURES[baseline.measure]
    if measure.scale != "difference" and measure.scale != "ratio":
        return None
    kind: Kind = measure.scale
    blocks, differences = paired(baseline, other, whole, kind)
    if not blocks:
        return None

    def shown(value: float) -> float:
        return value if kind == "difference" else math.expm1(value)

    wide, narrow = interval(differences, 0.95), interval(differences, 0.90)
    return Comparison(
        contrast=name,
        baseline=baseline.arm,
        other=other.arm,
        phase=baseline.phase,
        temperature=baseline.temperature,
        measure=measure.key,
        statistic=baseline.statistic,
        scale=kind,
        unit=measure.unit if kind == "difference" else "",
        more_is_better=measure.more_is_better,
        estimate=shown(estimate(differences)),
        low=shown(wide[0]) if wide else None,
        high=shown(wide[1]) if wide else None,
        low90=shown(narrow[0]) if narrow else None,
        high90=shown(narrow[1]) if narrow else None,
        per_block=[shown(float(d)) for d in differences],
        blocks=blocks,
        advisory=_advisory(baseline) or _advisory(other),
    )


def _advisory(value: Value) -> bool:
    """Whether a high percentile rests on few samples a trial. The bar rises with the percentile: p99.9 needs 10,000."""
    if not value.statistic.startswith("p"):
        return False
    beyond = 1 - float(value.statistic[1:]) / 100
    return beyond < 0.0101 and value.samples / len(value.per_trial) * beyond < ENOUGH_FOR_P99 * 0.01 - 1e-6


def _decide(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Give every primary comparison its verdict; Holm is over those with enough blocks for one."""
    enough = [c for c in comparisons if len(c.blocks) >= FEWEST_BLOCKS]
    p_values = [sign_flip_p(_differences(c)) for c in enough]
    adjusted = dict(zip(map(id, enough), zip(p_values, holm(p_values), strict=True), strict=True))
    decided = []
    for comparison in comparisons:
        if id(comparison) not in adjusted:
            decided.append(comparison)
            continue
        p, p_holm = adjusted[id(comparison)]
        judged = judge(comparison, p_holm, len(enough))
        decided.append(
            msgspec.structs.replace(
                comparison, p=p, p_holm=p_holm, verdict=judged.verdict, blocks_to_decide=judged.blocks_to_decide
            )
        )
    return decided


def _differences(comparison: Comparison) -> Floats:
    found = np.array(comparison.per_block, dtype=np.float64)
    return found if comparison.scale == "difference" else np.log1p(found)


def judge(comparison: Comparison, p_holm: float, tests: int) -> Judged:
    """The verdict of a primary comparison of at least `FEWEST_BLOCKS` blocks, one of `tests` in Holm's procedure."""
    differences = _differences(comparison)
    smallest = comparison.smallest_effect
    assert smallest is not None
    bound = smallest if comparison.scale == "difference" else math.log1p(smallest)
    middle, narrow = estimate(differences), interval(differences, 0.90)
    assert narrow is not None
    if p_holm <= ALPHA and abs(middle) > bound:
        return Judged("faster" if (middle > 0) == comparison.more_is_better else "slower", None)
    if -bound < narrow[0] and narrow[1] < bound:
        return Judged("equivalent", None)
    return Judged("inconclusive", _to_decide(differences, middle, bound, tests))


def _to_decide(differences: Floats, middle: float, bound: float, tests: int) -> int | None:
    """How many blocks would probably decide, if they went on like these; None for more than `MOST_BLOCKS`.

    A difference beyond the bound has to be significant after Holm, one within it has to leave room for the interval at
    either end; with chance 0.8, by the normal approximation.
    """
    low, high = interval(differences, 0.90) or (0.0, 0.0)
    n = len(differences)
    spread = (high - low) / 2 / norm.ppf(0.95) * math.sqrt(n)
    if abs(middle) > bound:
        needed = ((norm.ppf(1 - ALPHA / tests / 2) + norm.ppf(0.8)) * spread / abs(middle)) ** 2
    else:
        room = max(bound - abs(middle), bound * 1e-3)
        needed = ((norm.ppf(0.95) + norm.ppf(0.9)) * spread / room) ** 2
    found = max(n + 1, math.ceil(needed))
    return found if found <= MOST_BLOCKS else None


def _counters(summary: Summary, name: str, contrast: Contrast) -> Iterator[Counter]:
    """What can be counted exactly: bytes and segments where every block agrees to the digit, and tokens amiss."""
    for value in summary.values:
        if value.arm != contrast.baseline or value.users or MEASURES[value.measure].scale != "exact":
            continue
        other = summary.get(value.phase, contrast.other, value.temperature, value.measure, value.statistic)
        if other is not None:
            yield _counter(name, contrast, value, other)
    for phase in summary.phases:
        a, b = (summary.account(phase.name, arm) for arm in (contrast.baseline, contrast.other))
        if a and b:
            for key in COUNTED:
                yield _tally(name, contrast, key, a, b)


def _counter(name: str, contrast: Contrast, a: Value, b: Value) -> Counter:
    exact = all(v.min == v.max for v in (a, b))
    apart = a.max < b.min or b.max < a.min
    return Counter(
        contrast=name,
        baseline=contrast.baseline,
        other=contrast.other,
        phase=a.phase,
        temperature=a.temperature,
        measure=a.measure,
        baseline_value=a.median,
        other_value=b.median,
        finding=_finding(a.median, b.median) if exact or apart else "varies",
        exact=exact,
    )


def _tally(name: str, contrast: Contrast, key: str, a: Account, b: Account) -> Counter:
    mine, theirs = float(getattr(a, key)), float(getattr(b, key))
    return Counter(name, contrast.baseline, contrast.other, a.phase, "all", key, mine, theirs, _finding(mine, theirs))


def _finding(mine: float, theirs: float) -> Literal["same", "more", "fewer"]:
    return "same" if mine == theirs else "more" if theirs > mine else "fewer"
