"""What charts need beyond a few percentiles, reduced trial by trial so that memory stays that of one trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.measures import FEWEST_BEYOND
from bench.metrics.trial import Floats, breakdowns, excess_of, floats

_DECADES, _PER_DECADE = 9, 60
_UP = np.power(10.0, np.arange(_DECADES * _PER_DECADE + 1) / _PER_DECADE - 3)
EDGES: Floats = np.concatenate([-_UP[::-1], np.array([0.0]), _UP])
"""Edges in ms: sixty to the decade from 1 µs to 10^6 ms on both sides of zero, so that a bin is 4 % wide."""

SPECTRUM: Floats = 1 - np.power(10.0, -np.linspace(np.log10(2), 4, 41))
"""Fractions from the median to p99.99, evenly spaced by how rare what lies beyond is."""

SAMPLE_STREAMS, SAMPLE_CHUNKS = 2, 48
_TIME_BINS = 30


class Group(NamedTuple):
    """What is never pooled."""

    phase: str
    arm: str
    temperature: str


class Sample(NamedTuple):
    """One stream of the timeline, ms after its clock start."""

    due: Floats
    received: Floats


class OverTime(NamedTuple):
    """Middle of each slice of the window (s) and, over trials, the median of its percentile (ms); NaN where too few."""

    seconds: Floats
    p50: Floats
    p99: Floats


@dataclass
class Shapes:
    """Distributions, spectra, the steps of first token and gap, sample streams and the course of a phase."""

    counts: dict[tuple[Group, str], Floats] = field(default_factory=dict)
    spectra: dict[tuple[Group, str], list[Floats]] = field(default_factory=dict)
    steps: dict[tuple[Group, str], dict[int, dict[str, float]]] = field(default_factory=dict)
    """What `breakdowns` found (`first`, `gap`, `gap_p99`), by block: equal blocks are pairs."""
    samples: dict[tuple[Group, int], Sample] = field(default_factory=dict)
    slice_s: dict[str, float] = field(default_factory=dict)
    courses: dict[tuple[Group, str], list[tuple[Floats, Floats]]] = field(default_factory=dict)

    def add(
        self,
        group: Group,
        streams: pd.DataFrame,
        chunks: pd.DataFrame,
        turns: Sequence[tuple[int, int]],
        *,
        sample: bool,
    ) -> None:
        """Take in the streams and chunks of one trial in one group; `sample` keeps the first for the timeline."""
        for measure, frame in (("ttft_excess", streams), ("gap_excess", chunks)):
            self._count((group, measure), floats(frame[measure]))
        for measure in ("gap_excess", "lateness", "delivery"):
            values = floats(chunks[measure])
            values = values[~np.isnan(values)]
            if len(values):
                found = np.quantile(values, SPECTRUM)
                found[(1 - SPECTRUM) * len(values) < FEWEST_BEYOND - 1e-9] = np.nan
                self.spectra.setdefault((group, measure), []).append(found)
        for whole, steps in breakdowns(streams, chunks).items():
            self.steps.setdefault((group, whole), {})[int(streams["block"].iloc[0])] = steps
        self._course(group, chunks, turns)
        if sample:
            self._sample(group, streams, chunks)

    def _count(self, key: tuple[Group, str], values: Floats) -> None:
        values = np.clip(values[~np.isnan(values)], EDGES[0], EDGES[-1])
        counted = np.histogram(values, EDGES)[0].astype(np.float64)
        self.counts[key] = self.counts[key] + counted if key in self.counts else counted

    def _course(self, group: Group, chunks: pd.DataFrame, turns: Sequence[tuple[int, int]]) -> None:
        if chunks.empty:
            return
        second = _own_seconds(chunks["received_ns"].to_numpy(dtype=np.int64), turns)
        width = self.slice_s.setdefault(group.phase, _nice(float(second.max()) / _TIME_BINS))
        place = np.floor(np.maximum(second, 0) / width).astype(np.int64)
        for measure in ("lateness", "delivery"):
            slices = chunks[measure].groupby(place)
            enough = slices.count() * 0.01 >= FEWEST_BEYOND
            whole = range(int(place.max()) + 1)
            p50 = floats(slices.quantile(0.5).reindex(whole))
            p99 = floats(slices.quantile(0.99).where(enough).reindex(whole))
            self.courses.setdefault((group, measure), []).append((p50, p99))

    def _sample(self, group: Group, streams: pd.DataFrame, chunks: pd.DataFrame) -> None:
        for number, (stream, row) in enumerate(streams.sort_values("ordinal").iterrows()):
            if number == SAMPLE_STREAMS:
                return
            own: Any = chunks[chunks["stream"] == stream].head(SAMPLE_CHUNKS)
            due, received = (floats(own[c] - row["started_ns"]) / 1e6 for c in ("due_ns", "received_ns"))
            if len(own) > 1:
                self.samples[group, int(row["ordinal"])] = Sample(due, received)

    def course(self, group: Group, measure: str) -> OverTime | None:
        """The course of a measure through the phase, or None where there is none."""
        trials = self.courses.get((group, measure))
        if not trials:
            return None
        longest = max(len(p50) for p50, _ in trials)
        p50, p99 = (_over_trials([_padded(t[i], longest) for t in trials])[1] for i in (0, 1))
        seconds: Floats = (np.arange(longest, dtype=np.float64) + 0.5) * self.slice_s[group.phase]
        return OverTime(seconds, p50, p99)

    def typical(self, group: Group, whole: str) -> dict[str, float] | None:
        """Steps (ms) that add up: each the mean over the middle half of the trials by their excess; None without any.

        The middle half, so that one disturbed trial cannot carry the picture away from the median over trials.
        """
        trials = sorted(self.steps.get((group, whole), {}).values(), key=excess_of)
        half = trials[len(trials) // 4 : len(trials) - len(trials) // 4]
        return {step: sum(t[step] for t in half) / len(half) for step in half[0]} if half else None

    def spectrum(self, group: Group, measure: str) -> tuple[Floats, Floats, Floats] | None:
        """Lowest, median and highest trial (ms) at every fraction of `SPECTRUM`; NaN where a trial has too few."""
        trials = self.spectra.get((group, measure))
        return _over_trials(trials, every=True) if trials else None


def _own_seconds(stamps_ns: npt.NDArray[np.int64], turns: Sequence[tuple[int, int]]) -> Floats:
    """When, in seconds of the arm's own time: its turns of the phase (start and end, ns) put one after another."""
    starts, ends = (np.array(side, dtype=np.int64) for side in zip(*turns, strict=True))
    before = np.concatenate(([0], np.cumsum(ends - starts)[:-1]))
    turn = np.maximum(np.searchsorted(starts, stamps_ns, side="right") - 1, 0)
    own: Floats = (before[turn] + stamps_ns - starts[turn]) / 1e9
    return own


def _over_trials(trials: list[Floats], *, every: bool = False) -> tuple[Floats, Floats, Floats]:
    table = np.vstack(trials)
    known = np.isnan(table).sum(axis=0) == 0 if every else ~np.isnan(table).all(axis=0)
    low, middle_, high = (np.full(table.shape[1], np.nan) for _ in range(3))
    low[known] = np.nanmin(table[:, known], axis=0)
    middle_[known] = np.nanmedian(table[:, known], axis=0)
    high[known] = np.nanmax(table[:, known], axis=0)
    return low, middle_, high


def _padded(values: Floats, length: int) -> Floats:
    return np.concatenate([values, np.full(length - len(values), np.nan)])


def _nice(seconds: float) -> float:
    """Round a width up to 1, 2 or 5 times a power of ten, at least 0.1 s."""
    power = 10 ** np.floor(np.log10(max(seconds, 0.1)))
    return float(next(power * step for step in (1, 2, 5, 10) if power * step >= max(seconds, 0.1) * 0.999))
