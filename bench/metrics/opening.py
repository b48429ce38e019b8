"""What a connection costs before its first token: time step by step, and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, cast

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta

from bench import validity
from bench.metrics.over_trials import OverTrials, over_trials
from bench.metrics.seen import Seen
from bench.metrics.trial import PARTS, excess_of, first_token, floats

Handshake = Literal["none", "fresh", "resumed"]


class Bytes(msgspec.Struct, frozen=True):
    """Of every stream, over all trials; equal where all streams agree."""

    least: Annotated[int, Meta(description="Of the stream with the fewest", extra_json_schema={"unit": "bytes"})]
    most: Annotated[int, Meta(description="Of the stream with the most", extra_json_schema={"unit": "bytes"})]


class Opening(msgspec.Struct, frozen=True):
    """Of one arm in one paced phase but for `steps`, of its streams on one kind of connection, over all trials.

    Of streams that got content, from clients that read as fast as they can, and of the first attempt.
    """

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    temperature: Annotated[Literal["cold", "warm"], Meta(description="On fresh connections, or on kept ones")]
    handshake: Annotated[
        Handshake,
        Meta(description="TLS handshake of the stream: a full one, one that resumed a session, none in the clear or on "
             "a kept connection"),
    ]  # fmt: skip
    trials: Annotated[int, Meta(description="Trials with such streams", extra_json_schema={"unit": "trials"})]
    streams: Annotated[int, Meta(description="Such streams", extra_json_schema={"unit": "streams"})]
    share: Annotated[
        float, Meta(description="Of the arm's streams in this phase", extra_json_schema={"unit": "1, a share"})
    ]
    steps_ms: Annotated[
        dict[str, OverTrials],
        Meta(
            description="Steps to the first token (part_connect, part_tls, part_upgrade, part_send, part_takeup, "
            "part_late, part_delivery), each as its median within a trial; medians of steps do not add up",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    setup_ms: Annotated[
        OverTrials | None,
        Meta(
            description="From TCP connected to the request's write: TLS handshake, upgrade, and what the client "
            "computes for them; median within a trial, cold streams only",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    head_ms: Annotated[
        OverTrials | None,
        Meta(
            description="From the request's write to the head of the reply, median within a trial; SSE only",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    excess_ms: Annotated[
        OverTrials | None,
        Meta(
            description="From the clock's start to the first token less the model's own delay, median within a trial",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    first_token_ms: Annotated[
        OverTrials | None,
        Meta(description="The same with the model's own delay", extra_json_schema={"unit": "ms"}),
    ]
    mean_steps_ms: Annotated[
        dict[str, float],
        Meta(
            description="The same steps as means over the middle tenth of each trial's streams by excess, then over "
            "the middle half of the trials: these add up. Empty where the server's log is missing",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    sent: Annotated[
        Bytes | None,
        Meta(description="Bytes written before the first token, of cold streams since connect(), with TLS as records"),
    ]
    received: Annotated[
        Bytes | None, Meta(description="Bytes read before the first token, with the read that brought it")
    ]


class _Kind(NamedTuple):
    phase: str
    arm: str
    temperature: Literal["cold", "warm"]
    handshake: Handshake


class _Trial(NamedTuple):
    streams: int
    of: int
    medians: dict[str, float]
    means: dict[str, float]
    sent: tuple[float, float]
    received: tuple[float, float]


_MEDIANS = (*PARTS, "setup", "head", "ttft_excess", "ttft")


class Openings:
    """Collects it, trial by trial."""

    def __init__(self) -> None:
        self._trials: dict[_Kind, list[_Trial]] = {}

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""
        # Steps mix loads, and where tokens are not paced, the first one waits behind those of other streams.
        if seen.settings["load"] == "steps" or not validity.paced(dict(seen.scenario), seen.phase):
            return
        streams = seen.streams
        streams = streams[(streams["attempt"] == 0) & ~streams["slow"].astype(bool) & streams["received_ns"].notna()]
        streams = streams.assign(
            setup=(streams["part_tls"] + streams["part_upgrade"] + streams["part_send"]).where(streams["cold"]),
            head=floats(streams["head_ns"] - streams["requested_ns"]) / 1e6,
        )
        handshake = np.where(streams["tls"].isna(), "none", np.where(streams["tls_resumed"], "resumed", "fresh"))
        for (cold, how), some in streams.groupby([streams["cold"].astype(bool), handshake]):
            kind = _Kind(seen.phase, seen.arm, "cold" if cold else "warm", cast(Handshake, how))
            self._trials.setdefault(kind, []).append(_trial(some, len(streams)))

    def found(self) -> list[Opening]:
        """One entry per phase, arm and kind of connection."""
        return [_opening(kind, trials) for kind, trials in self._trials.items()]


def _trial(streams: pd.DataFrame, of: int) -> _Trial:
    medians = {column: values[~np.isnan(values)] for column in _MEDIANS if len(values := floats(streams[column]))}
    means = first_token(streams) or {}
    return _Trial(
        len(streams),
        of,
        {column: float(np.median(values)) for column, values in medians.items() if len(values)},
        {step: mean for step, mean in means.items() if step in PARTS},
        _range(streams, "first_sent_bytes"),
        _range(streams, "first_received_bytes"),
    )


def _range(streams: pd.DataFrame, column: str) -> tuple[float, float]:
    """The fewest and the most; NaN where not a single stream has it."""
    values = floats(streams[column])
    values = values[~np.isnan(values)]
    return (float(values.min()), float(values.max())) if len(values) else (np.nan, np.nan)


def _opening(kind: _Kind, trials: Sequence[_Trial]) -> Opening:
    medians = {column: over_trials([t.medians.get(column, np.nan) for t in trials]) for column in _MEDIANS}
    return Opening(
        *kind,
        trials=len(trials),
        streams=sum(t.streams for t in trials),
        share=sum(t.streams for t in trials) / sum(t.of for t in trials),
        steps_ms={step: found for step in PARTS if (found := medians[step]) is not None},
        setup_ms=medians["setup"],
        head_ms=medians["head"],
        excess_ms=medians["ttft_excess"],
        first_token_ms=medians["ttft"],
        mean_steps_ms=_middle([t.means for t in trials if t.means]),
        sent=_bytes([t.sent for t in trials]),
        received=_bytes([t.received for t in trials]),
    )


def _middle(trials: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over the middle half of the trials by excess, so that one disturbed trial cannot carry the picture away."""
    ranked = sorted(trials, key=excess_of)
    half = ranked[len(ranked) // 4 : len(ranked) - len(ranked) // 4]
    return {step: sum(t[step] for t in half) / len(half) for step in half[0]} if half else {}


def _bytes(ranges: Sequence[tuple[float, float]]) -> Bytes | None:
    known = [found for found in ranges if not np.isnan(found[0])]
    return Bytes(int(min(low for low, _ in known)), int(max(high for _, high in known))) if known else None
