"""What clients that read slowly do to the server and to the other streams."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta

from bench.measures import FEWEST_BEYOND
from bench.metrics.over_trials import OverTrials, over_trials
from bench.metrics.seen import Seen
from bench.metrics.trial import floats

_MIB = 2**20
_P99 = 0.99


class SlowReaders(msgspec.Struct, frozen=True):
    """Of one arm in one phase, over all trials. The reference is the phase of the same profile without slow readers.

    Prompt streams are those whose clients read as fast as they can.
    """

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    reference: Annotated[str, Meta(description="Phase without slow readers, of the same profile; empty without any")]
    bytes_per_s: Annotated[
        float, Meta(description="What a slow client reads at most", extra_json_schema={"unit": "B/s"})
    ]
    slow: Annotated[int, Meta(description="Streams read slowly", extra_json_schema={"unit": "streams"})]
    slow_complete: Annotated[int, Meta(description="Of those, complete", extra_json_schema={"unit": "streams"})]
    prompt: Annotated[int, Meta(description="Prompt streams", extra_json_schema={"unit": "streams"})]
    prompt_complete: Annotated[int, Meta(description="Of those, complete", extra_json_schema={"unit": "streams"})]
    slow_open: Annotated[
        OverTrials | None, Meta(description="Slow streams of a trial", extra_json_schema={"unit": "streams"})
    ]
    gap_p50_ms: Annotated[
        OverTrials | None, Meta(description="Gap excess of prompt streams, median", extra_json_schema={"unit": "ms"})
    ]
    gap_p99_ms: Annotated[
        OverTrials | None, Meta(description="Gap excess of prompt streams, p99", extra_json_schema={"unit": "ms"})
    ]
    reference_gap_p50_ms: Annotated[
        OverTrials | None, Meta(description="The same in the reference", extra_json_schema={"unit": "ms"})
    ]
    reference_gap_p99_ms: Annotated[
        OverTrials | None, Meta(description="The same in the reference", extra_json_schema={"unit": "ms"})
    ]
    gap_p99_more_ms: Annotated[
        OverTrials | None,
        Meta(description="p99 less that in the reference of the same trial", extra_json_schema={"unit": "ms"}),
    ]
    memory_mib: Annotated[
        OverTrials | None, Meta(description="Peak of server memory", extra_json_schema={"unit": "MiB"})
    ]
    reference_memory_mib: Annotated[
        OverTrials | None, Meta(description="The same in the reference", extra_json_schema={"unit": "MiB"})
    ]
    memory_more_mib: Annotated[
        OverTrials | None,
        Meta(
            description="Peak less that in the reference of the same trial; null where the reference ran later, as a "
            "process hardly gives memory back",
            extra_json_schema={"unit": "MiB"},
        ),
    ]
    memory_per_slow_kib: Annotated[
        OverTrials | None,
        Meta(description="That for each slow stream", extra_json_schema={"unit": "KiB per stream"}),
    ]
    held_back_ms: Annotated[
        OverTrials | None,
        Meta(
            description="Lateness of the server's last chunk of a slow stream, median within a trial: how long it was "
            "kept waiting",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    held_back_max_ms: Annotated[float | None, Meta(description="The longest", extra_json_schema={"unit": "ms"})]
    behind_ms: Annotated[
        OverTrials | None,
        Meta(
            description="From when the last chunk of a slow stream was due to its receipt, median within a trial",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    prompt_late_ms: Annotated[
        OverTrials | None,
        Meta(
            description="Lateness of the server's last chunk of a prompt stream, median within a trial",
            extra_json_schema={"unit": "ms"},
        ),
    ]


class _Trial(msgspec.Struct):
    """One phase of one trial; NaN for what cannot be known."""

    slow: int
    slow_complete: int
    prompt: int
    prompt_complete: int
    gap_p50: float
    gap_p99: float
    began_ns: int
    memory_peak: int
    held_back: float
    held_back_max: float
    behind: float
    prompt_late: float


class SlowReadings:
    """Collects it, trial by trial."""

    def __init__(self) -> None:
        self._trials: dict[tuple[str, str], dict[int, _Trial]] = {}
        self._paces: dict[str, float] = {}
        """Bytes per second, by phase with slow readers."""
        self._references: dict[str, str] = {}

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""
        phases = seen.scenario["phases"]
        profiles = {p["profile"]: name for name, p in phases.items() if p.get("slow")}
        if seen.settings["profile"] not in profiles:
            return
        slow = seen.settings.get("slow")
        if slow:
            self._paces[seen.phase] = float(slow["bytes_per_s"])
            self._references[seen.phase] = _reference(phases, seen.phase)
        self._trials.setdefault((seen.phase, seen.arm), {})[seen.block] = _taken(seen)

    def found(self) -> list[SlowReaders]:
        """One entry per phase and arm."""
        return [
            _readers(phase, arm, self._references[phase], self._paces[phase], trials, self._of(phase, arm))
            for (phase, arm), trials in self._trials.items()
            if phase in self._paces
        ]

    def _of(self, phase: str, arm: str) -> dict[int, _Trial]:
        """The reference's trials, by block."""
        return self._trials.get((self._references[phase], arm), {})


def _reference(phases: Any, phase: str) -> str:
    """The first other phase of that profile in which nobody reads slowly; "" for none."""
    same = (n for n, p in phases.items() if p["profile"] == phases[phase]["profile"] and not p.get("slow"))
    return next(same, "")


def _taken(seen: Seen) -> _Trial:
    first = seen.streams[seen.streams["attempt"] == 0]
    slow = first["slow"].astype(bool)
    complete = first["outcome"].astype(str) == "complete"
    mine = seen.chunks["stream"].isin(first["stream"][~slow])
    gaps = floats(seen.chunks["gap_excess"][mine])
    gaps = gaps[~np.isnan(gaps)]
    last = seen.chunks.drop_duplicates("stream", keep="last")
    of_slow = last["stream"].isin(first["stream"][slow & complete])
    of_prompt = last["stream"].isin(first["stream"][~slow & complete])
    held, overdue = last[of_slow]["lateness"], last[of_slow]["received_ns"] - last[of_slow]["due_ns"]
    return _Trial(
        slow=int(slow.sum()),
        slow_complete=int((slow & complete).sum()),
        prompt=int((~slow).sum()),
        prompt_complete=int((~slow & complete).sum()),
        gap_p50=float(np.quantile(gaps, 0.5)) if len(gaps) else np.nan,
        gap_p99=float(np.quantile(gaps, _P99)) if (1 - _P99) * len(gaps) >= FEWEST_BEYOND - 1e-9 else np.nan,
        began_ns=int(seen.facts["window_start_ns"]),
        memory_peak=int(seen.facts["server_rss_peak"]),
        held_back=_middle(held),
        held_back_max=float(held.max()) if held.notna().any() else np.nan,
        behind=_middle(overdue) / 1e6,
        prompt_late=_middle(last[of_prompt]["lateness"]),
    )


def _middle(values: pd.Series[Any]) -> float:
    known = floats(values)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else np.nan


def _readers(
    phase: str, arm: str, reference: str, pace: float, trials: dict[int, _Trial], others: dict[int, _Trial]
) -> SlowReaders:
    """`others` are those of the reference, by block."""
    own, before = list(trials.values()), list(others.values())
    pairs = [(one, others[block]) for block, one in trials.items() if block in others]
    more = [(one.memory_peak - other.memory_peak, one.slow) for one, other in pairs if other.began_ns < one.began_ns]
    longest = [t.held_back_max for t in own if np.isfinite(t.held_back_max)]
    return SlowReaders(
        phase,
        arm,
        reference,
        bytes_per_s=pace,
        slow=sum(t.slow for t in own),
        slow_complete=sum(t.slow_complete for t in own),
        prompt=sum(t.prompt for t in own),
        prompt_complete=sum(t.prompt_complete for t in own),
        slow_open=over_trials([t.slow for t in own]),
        gap_p50_ms=over_trials([t.gap_p50 for t in own]),
        gap_p99_ms=over_trials([t.gap_p99 for t in own]),
        reference_gap_p50_ms=over_trials([t.gap_p50 for t in before]),
        reference_gap_p99_ms=over_trials([t.gap_p99 for t in before]),
        gap_p99_more_ms=over_trials([one.gap_p99 - other.gap_p99 for one, other in pairs]),
        memory_mib=over_trials([t.memory_peak / _MIB for t in own]),
        reference_memory_mib=over_trials([t.memory_peak / _MIB for t in before]),
        memory_more_mib=over_trials([grown / _MIB for grown, _ in more]),
        memory_per_slow_kib=over_trials([grown / slow / 1024 for grown, slow in more if slow]),
        held_back_ms=over_trials([t.held_back for t in own]),
        held_back_max_ms=max(longest, default=None),
        behind_ms=over_trials([t.behind for t in own]),
        prompt_late_ms=over_trials([t.prompt_late for t in own]),
    )
