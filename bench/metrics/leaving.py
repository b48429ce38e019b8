"""Clients that left: how soon the server stopped, and how much it made for nobody."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
from msgspec import Meta

from bench.measures import FEWEST_BEYOND
from bench.metrics.over_trials import OverTrials, over_trials
from bench.metrics.seen import Seen
from bench.metrics.trial import Floats, floats

LEFT = "left"
"""Why a stream was cancelled, and what it is counted as: its client was to leave."""
_PERCENTS = 101


class Leaving(msgspec.Struct, frozen=True):
    """Of one arm in one phase, over all trials. Counts are exact."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    by: Annotated[
        Literal["close", "cancel"],
        Meta(description="How clients left: by closing their connection, or by a message where the protocol has one"),
    ]
    trials: Annotated[int, Meta(description="Trials", extra_json_schema={"unit": "trials"})]
    streams: Annotated[int, Meta(description="Streams of the phase", extra_json_schema={"unit": "streams"})]
    leavers: Annotated[int, Meta(description="Streams whose client left", extra_json_schema={"unit": "streams"})]
    unknown: Annotated[
        int, Meta(description="Of those, without an end in the server's log", extra_json_schema={"unit": "streams"})
    ]
    to_the_end: Annotated[
        int, Meta(description="Of those, emitted to the last token all the same", extra_json_schema={"unit": "streams"})
    ]
    stop_p50_ms: Annotated[
        OverTrials | None,
        Meta(
            description="From the client's leaving to the server's end of the stream, median within each trial",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    stop_p99_ms: Annotated[
        float | None,
        Meta(description="p99 of that, all trials pooled; null for too few", extra_json_schema={"unit": "ms"}),
    ]
    stop_max_ms: Annotated[float | None, Meta(description="The longest", extra_json_schema={"unit": "ms"})]
    stop_curve_ms: Annotated[
        list[float],
        Meta(
            description="At 0, 1, ... 100 % of the leavers, all trials pooled; empty without any",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    written_after: Annotated[
        int, Meta(description="Tokens written after their client had left", extra_json_schema={"unit": "tokens"})
    ]
    written_after_most: Annotated[
        int, Meta(description="The most of those of one stream", extra_json_schema={"unit": "tokens"})
    ]
    received_after: Annotated[
        int,
        Meta(
            description="Tokens that a client still received after it had asked to stop",
            extra_json_schema={"unit": "tokens"},
        ),
    ]
    reopened: Annotated[
        int | None,
        Meta(
            description="Streams that had to open a connection, as none was left idle, where connections are kept; "
            "else null",
            extra_json_schema={"unit": "streams"},
        ),
    ]


class _Trial(msgspec.Struct):
    by: Literal["close", "cancel"]
    streams: int
    leavers: int
    to_the_end: int
    stop_ms: Floats
    written_after: npt.NDArray[np.int64]
    """Tokens, of every leaver with any."""
    received_after: int
    reopened: int | None


class Leavings:
    """Collects it, trial by trial."""

    def __init__(self) -> None:
        self._trials: dict[tuple[str, str], list[_Trial]] = {}

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""
        leave = seen.settings.get("leave")
        if not leave:
            return
        websocket = seen.scenario["arms"][seen.arm]["protocol"] == "websocket"
        streams, rows = seen.streams, seen.rows[seen.rows["left_ns"].notna()]
        leavers = streams[streams["left_ns"].notna()]
        stop_ns = floats(leavers["server_ended_ns"] - leavers["left_ns"])
        after = rows[(rows["written_ns"] > rows["left_ns"]).fillna(False)]
        late = rows[(rows["received_ns"] > rows["left_ns"]).fillna(False)]
        trial = _Trial(
            by="cancel" if websocket and leave.get("by") == "cancel" else "close",
            streams=len(streams),
            leavers=len(leavers),
            to_the_end=int((leavers["server_reason"].astype(str) == "complete").sum()),
            stop_ms=np.maximum(stop_ns[~np.isnan(stop_ns)], 0.0) / 1e6,
            written_after=after.groupby("stream")["tokens"].sum().to_numpy(dtype=np.int64),
            received_after=int(late["tokens"].sum()),
            reopened=int(streams["cold"].sum()) if seen.settings["connections"] == "warm" else None,
        )
        self._trials.setdefault((seen.phase, seen.arm), []).append(trial)

    def found(self) -> list[Leaving]:
        """One entry per phase and arm."""
        return [_leaving(phase, arm, trials) for (phase, arm), trials in self._trials.items()]


def _leaving(phase: str, arm: str, trials: list[_Trial]) -> Leaving:
    stop_ms = np.concatenate([t.stop_ms for t in trials])
    written = np.concatenate([t.written_after for t in trials])
    reopened = [t.reopened for t in trials if t.reopened is not None]
    leavers, known = sum(t.leavers for t in trials), len(stop_ms)
    return Leaving(
        phase,
        arm,
        by=trials[0].by,
        trials=len(trials),
        streams=sum(t.streams for t in trials),
        leavers=leavers,
        unknown=leavers - known,
        to_the_end=sum(t.to_the_end for t in trials),
        stop_p50_ms=over_trials([float(np.median(t.stop_ms)) for t in trials if len(t.stop_ms)]),
        stop_p99_ms=float(np.quantile(stop_ms, 0.99)) if 0.01 * known >= FEWEST_BEYOND else None,
        stop_max_ms=float(stop_ms.max()) if known else None,
        stop_curve_ms=np.quantile(stop_ms, np.linspace(0, 1, _PERCENTS)).tolist() if known else [],
        written_after=int(written.sum()),
        written_after_most=int(written.max()) if len(written) else 0,
        received_after=sum(t.received_after for t in trials),
        reopened=sum(reopened) if reopened else None,
    )


def left(streams: pd.DataFrame) -> pd.Series[Any]:
    """Which streams ended because their client was to leave."""
    return (streams["outcome"].astype(str) == "cancelled") & (streams["reason"].astype(str) == LEFT)


def lost_by_leavers(rows: pd.DataFrame) -> int:
    """Chunks of streams whose client left that must have come, and did not.

    What was handed over before a chunk that was received; a connection keeps the order. Of a client that left by a
    message and read on until the server was done, all of it. What else was handed over may have been on its way.
    """
    rows = rows[left(rows) & rows["written_ns"].notna()]
    if rows.empty:
        return 0
    last = rows["chunk"].where(rows["received_ns"].notna()).groupby(rows["stream"]).transform("max")
    read_on = rows["ended_ns"] > rows["left_ns"]
    owed = (rows["chunk"] < last).fillna(False) | read_on.fillna(False)
    return int((owed & rows["received_ns"].isna()).sum())
