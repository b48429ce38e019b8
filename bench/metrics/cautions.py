"""What explains a figure without voiding it, worked out from the records of a trial; and whether its server kept up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd

from bench.metrics.trial import Floats, floats
from bench.validity import BEHIND, STRAINED_CPU, strained

MODE_MS = (38.0, 46.0)
"""Linux delays an ACK by 40 ms at least; the timer's tick and a wake-up come on top."""
_BESIDE_MS = ((30.0, 38.0), (46.0, 54.0))
MODE_SHARE = 0.005
MODE_RATIO = 3.0
"""How much denser than beside it a mode must be: 3.2 and more where it was made on purpose, 1.2 at most otherwise."""
_FEWEST = 10
"""Values that make a mode, or pairs that make a share, in a trial of few tokens."""
_OWN_GAP_MS = 5.0
"""A gap this close to what was due is the schedule's, whatever its length."""
APART_MS = 1.0
TOGETHER_SHARE = 0.01
GROWTH, GROWTH_MS = 2.0, 20.0
"""Lateness grows when its p99 in a phase's last third is both so many times and so much above that of the first."""
LATE_FEWEST = 300
"""Chunks in a third of a phase, for its p99 to mean something."""


class Caution(msgspec.Struct, frozen=True):
    """Something seen in one trial that explains its figures."""

    kind: str
    """A key of `KINDS`."""
    phase: str
    arm: str
    block: int
    seen: float
    """A share, 0 to 1; what it is of, the kind's text says."""
    text: str


class Merged(NamedTuple):
    """The cautions of one kind, phase and arm, over blocks."""

    kind: str
    phase: str
    arm: str
    trials: int
    """That show it."""
    seen: float
    """The median over them."""
    text: str


class _Kind(NamedTuple):
    what: str
    """With the share as `{}`."""
    advice: str


KINDS: dict[str, _Kind] = {
    "over_capacity": _Kind(
        "the server could not keep up: its lateness grew, and it wrote tokens at {} of the rate at which they were due",
        "This is a result about this load; use fewer users or a lower rate to compare latencies.",
    ),
    "mode_40ms": _Kind(
        "{} of its gaps or deliveries took 38 to 46 ms, far more than took a little less or more, as when Nagle's "
        "algorithm waits for a delayed ACK",
        "Set TCP_NODELAY on the sending socket, and write each token in one piece and flush it.",
    ),
    "together": _Kind(
        "{} of neighbouring tokens were written over 1 ms apart and received in one read, so something between buffers",
        "Look for buffering in the server's library or in a proxy, and flush after each token.",
    ),
    "rate": _Kind(
        "streams received their tokens at {} of the rate of their schedule, though the server wrote them on time",
        "Look at what lies between, network or proxy; totals are of this rate and not of the one asked for.",
    ),
    "starts": _Kind(
        "{} of the streams that were to start did; the driver dropped the others, as max_open streams were open",
        "Lower the rate or raise max_open, or read the figures as those of the load that was achieved.",
    ),
}
"""What can be seen, in the order in which it is told."""


def over_capacity(
    phase: str, arm: str, block: int, chunks: pd.DataFrame, facts: Mapping[str, Any], settings: Mapping[str, Any]
) -> Caution | None:
    """Whether the server fell behind in a paced phase, by `chunks_of` its frame: a result, of kind `over_capacity`.

    It did when it wrote its streams' tokens slower than they were due (due span over written span below `BEHIND`, the
    median over streams), or when it was at the end of its strength and lateness kept growing, from the first third of
    the phase to the last: a queue that only bursts is worked off again. Ladders go past capacity on purpose.
    """
    if settings.get("load") == "steps":
        return None
    pace = _pace(chunks, "written_ns")
    if pace is None:
        return None
    window_ns = facts.get("window_ns") or 0
    busy = window_ns > 0 and facts.get("server_cpu_ns", 0) / window_ns > STRAINED_CPU
    if pace < BEHIND or (busy and _falls_behind(chunks)):
        return _caution("over_capacity", phase, arm, block, min(pace, 1.0))
    return None


def cautions_of(
    phase: str,
    arm: str,
    block: int,
    streams: pd.DataFrame,
    chunks: pd.DataFrame,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    paced: bool,
) -> list[Caution]:
    """What explains the figures of one phase of one trial, by its frames `streams_of` and `chunks_of`.

    Without what a server that is over capacity, or close to it, brings about by itself: that is said of the server.
    """
    found: dict[str, float | None] = {}
    behind = over_capacity(phase, arm, block, chunks, facts, settings) if paced else None
    if paced and behind is None:
        if not strained(facts):
            found["mode_40ms"] = _mode(chunks)
            found["together"] = _together(chunks)
        if settings.get("load") != "steps":
            pace = _pace(chunks, "received_ns")
            found["rate"] = pace if pace is not None and pace < BEHIND else None
    if settings.get("load") == "open" and len(streams):
        started = float((streams["outcome"].astype(str) != "dropped").mean())
        found["starts"] = started if started < 1 else None
    return [_caution(kind, phase, arm, block, seen) for kind, seen in found.items() if seen is not None]


def merge(cautions: Iterable[Caution]) -> list[Merged]:
    """One entry per kind, phase and arm, in the order of `KINDS`, then as they came."""
    groups: dict[tuple[str, str, str], list[Caution]] = {}
    for caution in cautions:
        groups.setdefault((caution.kind, caution.phase, caution.arm), []).append(caution)
    order = list(KINDS)
    merged = []
    for (kind, phase, arm), some in sorted(groups.items(), key=lambda group: order.index(group[0][0])):
        trials, seen = len({caution.block for caution in some}), median(caution.seen for caution in some)
        often = "1 trial" if trials == 1 else f"{trials} trials, the median of which is given"
        what, advice = KINDS[kind]
        text = f"{phase}, {arm}: {what.format(_percent(seen))} (in {often}). {advice}"
        merged.append(Merged(kind, phase, arm, trials, seen, text))
    return merged


def _caution(kind: str, phase: str, arm: str, block: int, seen: float) -> Caution:
    return Caution(kind, phase, arm, block, seen, f"{phase}, {arm}, block {block}: {_said(kind, seen)}.")


def _said(kind: str, seen: float) -> str:
    return KINDS[kind].what.format(_percent(seen))


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _pace(chunks: pd.DataFrame, stamp: str) -> float | None:
    """Due span over the span of `stamp`, first chunk to last, the median over streams; None where no span is due."""
    some = chunks[chunks["due_ns"].notna() & chunks[stamp].notna()]
    ends = some.groupby("stream", sort=False)[["due_ns", stamp]].agg(["first", "last"])
    due = floats(ends["due_ns", "last"] - ends["due_ns", "first"])
    took = floats(ends[stamp, "last"] - ends[stamp, "first"])
    known = due > 0
    return float(np.median(due[known] / np.maximum(took[known], 1))) if known.any() else None


def _falls_behind(chunks: pd.DataFrame) -> bool:
    """Whether lateness grew: by its p99 in the first and in the last third of the chunks, in order of due time."""
    late = floats(chunks.sort_values("due_ns", kind="stable")["lateness"])
    late = late[~np.isnan(late)]
    third = len(late) // 3
    if third < LATE_FEWEST:
        return False
    before, after = (float(np.quantile(part, 0.99)) for part in (late[:third], late[-third:]))
    return after >= GROWTH * before and after - before >= GROWTH_MS


def _mode(chunks: pd.DataFrame) -> float | None:
    """The share of values near 40 ms, in whichever series has most of it and is densest there; None without a mode.

    Where it shows depends on how tokens are written. In two pieces: the second of each waits, so deliveries take
    40 ms, or gaps are 40 ms too long when tokens pile up behind. In one: every other token waits, so that gaps that
    were due sooner become 40 ms.
    """
    icl = floats(chunks["icl"])
    not_due = np.abs(icl - floats(chunks["gap_due"])) > _OWN_GAP_MS
    gaps = int(np.count_nonzero(~np.isnan(icl)))
    series = (
        (floats(chunks["gap_excess"]), gaps),
        (icl[not_due], gaps),
        (floats(chunks["delivery"]), int(chunks["delivery"].notna().sum())),
    )
    shares = [share for values, of in series if (share := _near_40(values, of)) is not None]
    return max(shares, default=None)


def _near_40(values: Floats, of: int) -> float | None:
    def count(low: float, high: float) -> int:
        return int(np.count_nonzero((values >= low) & (values < high)))

    near, beside = count(*MODE_MS), sum(count(*band) for band in _BESIDE_MS) / len(_BESIDE_MS)
    if near < _FEWEST or near < MODE_SHARE * of or near < MODE_RATIO * beside:
        return None
    return near / of


def _together(chunks: pd.DataFrame) -> float | None:
    """The share of neighbouring chunks of a stream that were written apart and came in one read, when it is large."""
    written_apart = floats(chunks["gap_due"] + chunks["gap_late"])
    neighbours = ~np.isnan(written_apart)
    one_read = np.concatenate(([False], np.diff(floats(chunks["read"])) == 0)) if len(chunks) else neighbours
    together = int(np.count_nonzero(neighbours & one_read & (written_apart > APART_MS)))
    of = int(np.count_nonzero(neighbours))
    return together / of if together >= _FEWEST and together >= TOGETHER_SHARE * of else None
