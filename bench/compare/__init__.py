"""Two stored runs beside each other: what differs about them, and what their figures say of that.

They did not run interleaved, so that no verdict is given: a machine that drifts looks like a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from bench.compare.facts import Fact, facts
from bench.compare.shift import estimate, interval
from bench.measures import MEASURES
from bench.metrics import Account, Comparison, Results, Value
from bench.stored import Stored, read_stored

__all__ = ["Compared", "Count", "Fact", "Ratio", "Shift", "Side", "compare"]

CONFIDENCE = 0.95
COUNTED = ("lost", "repeated", "reordered", "corrupted", "failed")

WARNING = (
    "The two runs were not interleaved, so that a drift of the machine between them cannot be told from a change. This "
    "is no verdict: `tokenwire gate` interleaves two revisions and gives one."
)


class Side(msgspec.Struct, frozen=True):
    """One of the two runs."""

    run: Annotated[str, Meta(description="Name of the run")]
    scenario: Annotated[str, Meta(description="Name of its scenario")]
    created: Annotated[str, Meta(description="When it began, ISO 8601")]
    state: Annotated[str, Meta(description="running, finished, interrupted, failed or invalid")]
    blocks: Annotated[int, Meta(description="Whole, valid blocks", extra_json_schema={"unit": "blocks"})]
    revision: Annotated[str, Meta(description="Commit of the project it ran, + where files had changed; or empty")]


class Shift(msgspec.Struct, frozen=True):
    """One measure of one arm in the second run against the first; blocks are independent samples, not pairs."""

    arm: Annotated[str, Meta(description="Arm")]
    phase: Annotated[str, Meta(description="Phase")]
    temperature: Annotated[str, Meta(description="cold, warm or all")]
    measure: Annotated[str, Meta(description="Measure")]
    statistic: Annotated[str, Meta(description="Percentile taken within a trial, or `value`")]
    unit: Annotated[str, Meta(description="Of first and second, and of a difference")]
    first: Annotated[float, Meta(description="Median over trials of the first run")]
    second: Annotated[float, Meta(description="Of the second")]
    scale: Annotated[
        Literal["difference", "ratio"],
        Meta(description="difference: second - first, in `unit`; ratio: second / first - 1, a share"),
    ]
    estimate: Annotated[float, Meta(description="Hodges-Lehmann shift")]
    low: Annotated[float | None, Meta(description="95 % interval by the rank sum test; null where blocks are too few")]
    high: Annotated[float | None, Meta(description="Its upper end")]
    blocks: Annotated[tuple[int, int], Meta(description="Of the first and the second")]
    beyond: Annotated[
        bool | None,
        Meta(description="Whether it is beyond what either run's blocks scatter: 0 is outside the interval"),
    ]


class Count(msgspec.Struct, frozen=True):
    """What must be exact, of one arm in both runs."""

    arm: Annotated[str, Meta(description="Arm")]
    phase: Annotated[str, Meta(description="Phase")]
    temperature: Annotated[str, Meta(description="cold, warm or all")]
    measure: Annotated[str, Meta(description="wire_bytes, segments, lost, repeated, reordered, corrupted or failed")]
    first: Annotated[float, Meta(description="In every block the same, or over all trials")]
    second: Annotated[float, Meta(description="The same of the second")]
    trials: Annotated[tuple[int, int], Meta(description="Of either run, for what is over all trials; else 1 and 1")]
    finding: Annotated[
        Literal["same", "more", "fewer"], Meta(description="Of the second; by trial where that is over all of them")
    ]


class Ratio(msgspec.Struct, frozen=True):
    """Of two arms of a run, in both runs: paired within each, as its arms ran side by side."""

    baseline: Annotated[str, Meta(description="Arm")]
    other: Annotated[str, Meta(description="Arm")]
    phase: Annotated[str, Meta(description="Phase")]
    temperature: Annotated[str, Meta(description="cold, warm or all")]
    measure: Annotated[str, Meta(description="Measure")]
    statistic: Annotated[str, Meta(description="Percentile, or `value`")]
    first: Annotated[float, Meta(description="other / baseline - 1 in the first run, a share")]
    first_interval: Annotated[tuple[float, float] | None, Meta(description="95 %; null under six blocks")]
    second: Annotated[float, Meta(description="The same in the second run")]
    second_interval: Annotated[tuple[float, float] | None, Meta(description="95 %; null under six blocks")]


class Compared(msgspec.Struct, frozen=True):
    """Two runs beside each other."""

    format: Annotated[int, Meta(description="Raised when a field changes its meaning")]
    warning: Annotated[str, Meta(description="What no comparison of two runs can tell")]
    first: Side
    second: Side
    full: Annotated[list[str], Meta(description="Arms whose figures are of one kind in both: compared in full")]
    facts: Annotated[list[Fact], Meta(description="What differs about the runs, what weighs most first")]
    cautions: Annotated[list[str], Meta(description="Of either run, a sentence each")]
    shifts: Annotated[list[Shift], Meta(description="Every measure of the arms in `full`")]
    counters: Annotated[list[Count], Meta(description="Exact counters of every arm that both have")]
    ratios: Annotated[list[Ratio], Meta(description="Advice where an arm is not compared in full; else empty")]


def compare(first: Path, second: Path) -> Compared:
    """Compare two stored runs. Raises `bench.record.RecordError` where either is none: one line for the user."""
    a, b = read_stored(first), read_stored(second)
    found = facts(a, b)
    common = [arm for arm in a.scenario.arms if arm in b.scenario.arms]
    alike = not any(fact.kind in ("machine", "work") for fact in found)
    full = [arm for arm in common if alike and not any(fact.kind == "arm" and fact.arm == arm for fact in found)]
    return Compared(
        format=1,
        warning=WARNING,
        first=_side(a),
        second=_side(b),
        full=full,
        facts=found,
        cautions=[caution for run in (a, b) for caution in _cautions(run)],
        shifts=list(_shifts(a.results, b.results, full)),
        counters=[*_exact(a.results, b.results, common), *_tallies(a.results, b.results, common)],
        ratios=[] if full and full == common else list(_ratios(a.results, b.results)),
    )


def _side(run: Stored) -> Side:
    kept = run.info.get("revision") or {}
    revision = f"{kept.get('commit', '')}{'+' if kept.get('changed') else ''}"
    r = run.results
    return Side(r.run, r.scenario, r.created, r.state, r.blocks_whole, revision)


def _cautions(run: Stored) -> Iterator[str]:
    state = run.results.state
    if state == "invalid":
        yield f"{run.results.run} is invalid, as too many of its blocks were void: its figures are not to be relied on."
    elif state != "finished":
        yield f"{run.results.run} is {state}: it has {run.results.blocks_whole} of {run.results.blocks_planned} blocks."


_Key = tuple[str, str, str, str, str]


def _values(results: Results, arms: list[str]) -> dict[_Key, Value]:
    """Figures of whole phases, by phase, arm, streams, measure and statistic."""
    return {
        (v.phase, v.arm, v.temperature, v.measure, v.statistic): v
        for v in results.values
        if v.arm in arms and not v.users and v.per_trial and v.measure in MEASURES
    }


def _shifts(first: Results, second: Results, arms: list[str]) -> Iterator[Shift]:
    theirs = _values(second, arms)
    for key, a in _values(first, arms).items():
        b = theirs.get(key)
        scale = MEASURES[a.measure].scale
        if b is None or (scale != "difference" and scale != "ratio"):
            continue
        shift = _shift(a, b, scale)
        if shift is not None:
            yield shift


def _shift(a: Value, b: Value, scale: Literal["difference", "ratio"]) -> Shift | None:
    mine, theirs = (np.array(value.per_trial, dtype=np.float64) for value in (a, b))
    if scale == "ratio":
        if min(mine.min(), theirs.min()) <= 0:
            return None  # a ratio to nothing is no figure
        mine, theirs = np.log(mine), np.log(theirs)
    bounds = interval(mine, theirs, CONFIDENCE)
    shown = np.expm1 if scale == "ratio" else np.float64
    low, high = (float(shown(bound)) for bound in bounds) if bounds else (None, None)
    return Shift(
        arm=a.arm,
        phase=a.phase,
        temperature=a.temperature,
        measure=a.measure,
        statistic=a.statistic,
        unit=a.unit,
        first=a.median,
        second=b.median,
        scale=scale,
        estimate=float(shown(estimate(mine, theirs))),
        low=low,
        high=high,
        blocks=(len(mine), len(theirs)),
        beyond=None if bounds is None else not bounds[0] <= 0 <= bounds[1],
    )


def _exact(first: Results, second: Results, arms: list[str]) -> Iterator[Count]:
    """Bytes and segments where every block of either run agrees to the digit."""
    theirs = _values(second, arms)
    for key, a in _values(first, arms).items():
        b = theirs.get(key)
        if b is None or MEASURES[a.measure].scale != "exact" or not (_agreed(a) and _agreed(b)):
            continue
        finding = _finding(a.median, b.median)
        yield Count(a.arm, a.phase, a.temperature, a.measure, a.median, b.median, (1, 1), finding)


def _agreed(value: Value) -> bool:
    """Whether blocks agree to the digit; one alone has none to agree with."""
    return value.min == value.max and len(value.per_trial) > 1


def _tallies(first: Results, second: Results, arms: list[str]) -> Iterator[Count]:
    """Tokens amiss and streams that failed, over all trials; compared by trial."""
    theirs = {(account.phase, account.arm): account for account in second.accounts}
    for a in first.accounts:
        b = theirs.get((a.phase, a.arm))
        if b is None or a.arm not in arms:
            continue
        trials = _trials(first, a), _trials(second, b)
        if not all(trials):
            continue
        for key in COUNTED:
            mine, other = float(getattr(a, key)), float(getattr(b, key))
            finding = _finding(mine * trials[1], other * trials[0])
            yield Count(a.arm, a.phase, "all", key, mine, other, trials, finding)


def _trials(results: Results, account: Account) -> int:
    return next((arm.trials for arm in results.arms if arm.name == account.arm), 0)


def _finding(mine: float, theirs: float) -> Literal["same", "more", "fewer"]:
    return "same" if mine == theirs else "more" if theirs > mine else "fewer"


def _ratios(first: Results, second: Results) -> Iterator[Ratio]:
    theirs = _within(second)
    for key, a in _within(first).items():
        b = theirs.get(key)
        if b is not None:
            yield Ratio(*key, a.estimate, _bounds(a), b.estimate, _bounds(b))


def _within(results: Results) -> dict[tuple[str, str, str, str, str, str], Comparison]:
    conclusions = results.conclusions
    return {
        (c.baseline, c.other, c.phase, c.temperature, c.measure, c.statistic): c
        for c in ((*conclusions.primary, *conclusions.exploratory) if conclusions else ())
        if c.scale == "ratio"
    }


def _bounds(c: Comparison) -> tuple[float, float] | None:
    return None if c.low is None or c.high is None else (c.low, c.high)
