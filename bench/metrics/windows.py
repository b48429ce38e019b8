"""What a phase's windows cost and yielded: one figure a trial, and the same slice by slice, which is what is paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MEMORY_FROM_OPEN = 50
"""Open streams that memory is divided by, at least."""

Facts = Mapping[str, Any]


class Windowed(NamedTuple):
    """A measure of a trial's phase. `slices` has its figure in every slice, or nothing where slices cannot be told."""

    key: str
    value: float
    slices: list[float]


def window_measures(facts: Facts) -> Iterator[Windowed]:
    """The measures of a phase by its facts: rates, CPU per token, memory, loop lag; see `bench.measures`."""
    # Between slices and steps nothing is offered, so that its windows are shorter than from first to last.
    tokens, window_ns = facts["tokens"], facts.get("window_ns") or facts["window_end_ns"] - facts["window_start_ns"]
    if tokens and window_ns > 0 and not _held(facts):
        yield Windowed("throughput", tokens / window_ns * 1e9, _sliced(facts, tokens / window_ns * 1e9, _rate))
        for who in ("server", "driver"):
            yield _cost(facts, f"cpu_{who}", who, facts[f"{who}_cpu_ns"] / tokens / 1e3)
    if facts["peak_open"] >= MEMORY_FROM_OPEN and not facts.get("signalled_ns"):  # of one and the same server
        grown = facts["server_rss_peak"] - facts["server_rss_start"]
        yield Windowed("memory", grown / facts["peak_open"] / 1024, [])
    if facts.get("loop_lag_max_ns") is not None:
        yield Windowed("loop_lag_max", facts["loop_lag_max_ns"] / 1e6, [])


def stream_costs(facts: Facts, streams: int) -> Iterator[Windowed]:
    """CPU per stream of a phase in which so many streams ended, more than none."""
    if _held(facts):
        return
    for who in ("server", "driver"):
        yield _cost(facts, f"cpu_{who}_stream", who, facts[f"{who}_cpu_ns"] / streams / 1e6)


def _held(facts: Facts) -> bool:
    """Whether streams were held for a time that was asked for, so that what the phase took says only how long."""
    return bool(facts.get("held"))


def _cost(facts: Facts, key: str, who: str, value: float) -> Windowed:
    return Windowed(key, value, _sliced(facts, value, lambda one: one[f"{who}_cpu_ns"] / one["chunks"]))


def _rate(one: Facts) -> float:
    return float(one["chunks"] / (one["end_ns"] - one["start_ns"]))


def _sliced(facts: Facts, value: float, figure: Any) -> list[float]:
    """A figure per chunk in every slice, in the unit of `value`: scaled so that slices all alike would give it."""
    slices = facts.get("slices") or ()
    if len(slices) < 2 or not all(one["chunks"] and one["end_ns"] > one["start_ns"] for one in slices):
        return []
    total = {name: sum(one[name] for one in slices) for name in ("chunks", "server_cpu_ns", "driver_cpu_ns")}
    whole = figure({**total, "start_ns": 0, "end_ns": sum(one["end_ns"] - one["start_ns"] for one in slices)})
    return [float(f"{value * figure(one) / whole:.6g}") for one in slices] if whole > 0 else []
