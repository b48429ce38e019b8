"""Streams that broke off, break by break: when it was noticed, when there was a connection again, and a new token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pandas as pd

PARTS = {"notice": "to notice", "reconnect": "to connect again", "renew": "to the first new token"}
"""What an outage is made of, in order of time; the parts of one add up to it."""
NO_BREAK = ("complete", "cancelled", "dropped")
_SAID_BY_SERVER = ("cut", "shutdown")
"""Reasons of the server's log whose stamp is that of the break: it cut the stream, or stopped it to end itself."""
_TIMES = ("notice", "reconnect", "waited", "renew", "outage", "lasted")
_NUMBERS = ("stream", "step", "ordinal", "attempt", "tries", "recovered")


class _Attempt(NamedTuple):
    """One request for a stream; `*_ns` are CLOCK_MONOTONIC, None where not reached."""

    stream: int
    attempt: int
    cold: bool
    outcome: str
    reason: str
    intended_ns: int
    started_ns: int | None
    connected_ns: int | None
    secured_ns: int | None
    ended_ns: int
    server_reason: str
    server_ended_ns: int | None
    last_written_ns: int | None
    new_ns: int | None
    """When it brought a content chunk that none before it had brought, for the first time."""

    @property
    def broke(self) -> bool:
        return self.outcome not in NO_BREAK

    @property
    def connection_ns(self) -> int | None:
        """When it had a connection to ask on. One that was kept is there as soon as the request is written."""
        return (self.secured_ns or self.connected_ns) if self.cold else self.started_ns

    @property
    def went_on_ns(self) -> int | None:
        """When something new came: a token, or, where only the end of the stream was missing, the end."""
        return self.ended_ns if self.new_ns is None and self.outcome == "complete" else self.new_ns


_STAMPS = [field for field in _Attempt._fields if field.endswith("_ns")]


def outages(streams: pd.DataFrame, rows: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """A row per break of one phase of one trial, by `streams_of` its frame and the frame's rows of the window.

    A break is an attempt that ended neither complete nor at the client's wish. It lasts until the first new token: a
    content chunk that no earlier attempt had received. Attempts in between that bring none are tries of the same break.

    - `stream`, `step`, `ordinal`, `attempt`: the attempt that broke off; `reason`: the driver's word for how;
    - `recovered`: whether a new token came, or, where only the end was missing, the end; `tries`: attempts after it, up
      to the one that brought that;
    - `notice`: from the break to the end of the attempt in the driver's eyes; `reconnect`: from there until the attempt
      that went on had its connection, TLS included; `renew`: from there to the new token; `outage`: their sum (all ms).
      `waited` is the part of `reconnect` in which the client's policy had it wait;
    - `lasted`: the outage, or, where nothing new ever came, how long until the stream was given up (ms).

    The break is when the server says that it cut the stream, or that it stopped it to end itself; of a server that was
    killed, the later of the signal and its last write to the stream. What was refused before it began did not break
    off at a time that anyone knows: what starts at the break is NaN there, as is what needs a new token without one.
    """
    broke = streams[~streams["outcome"].astype(str).isin(NO_BREAK)]
    breaks: list[dict[str, Any]] = []
    if len(broke):  # it seldom does, and looking for what came after takes a while
        keys = pd.MultiIndex.from_frame(broke[["step", "ordinal"]].drop_duplicates())
        touched = streams[pd.MultiIndex.from_frame(streams[["step", "ordinal"]]).isin(keys)]
        breaks = [
            {"step": step, "ordinal": ordinal, **one}
            for (step, ordinal), attempts in _by_stream(touched, rows)
            for one in _breaks(attempts, int(facts.get("signalled_ns") or 0))
        ]
    found = pd.DataFrame(breaks, columns=[*_NUMBERS, "reason", *_TIMES])
    return found.astype(dict.fromkeys(_TIMES, "float64"))


def _by_stream(touched: pd.DataFrame, rows: pd.DataFrame) -> list[tuple[tuple[int, int], list[_Attempt]]]:
    """The attempts of each stream, in order."""
    place = ["step", "ordinal"]
    ordered = touched.sort_values([*place, "attempt"], kind="stable").reset_index(drop=True)
    own = rows.loc[rows["stream"].isin(ordered["stream"]) & rows["chunk"].notna()]
    came = own[own["received_ns"].notna()].sort_values("attempt", kind="stable").drop_duplicates([*place, "chunk"])
    ordered["new_ns"] = ordered["stream"].map(came.groupby("stream")["received_ns"].min())
    ordered["last_written_ns"] = ordered["stream"].map(own.groupby("stream")["written_ns"].max())
    columns: dict[str, list[Any]] = {
        name: [None if pd.isna(value) else int(value) for value in ordered[name]]
        for name in (*_STAMPS, *place, "stream", "attempt")
    }
    columns["cold"] = ordered["cold"].astype(bool).tolist()
    columns |= {name: ordered[name].astype(str).tolist() for name in ("outcome", "reason", "server_reason")}
    found: dict[tuple[int, int], list[_Attempt]] = {}
    for i in range(len(ordered)):
        attempt = _Attempt(**{name: columns[name][i] for name in _Attempt._fields})
        found.setdefault((columns["step"][i], columns["ordinal"][i]), []).append(attempt)
    return list(found.items())


def _breaks(attempts: Sequence[_Attempt], signalled_ns: int) -> list[dict[str, Any]]:
    found = []
    at = None
    for i, one in enumerate(attempts):
        if at is not None and one.went_on_ns is not None:
            found.append(_break(attempts[at : i + 1], signalled_ns, recovered=True))
            at = None
        if at is None and one.broke:
            at = i
    if at is not None:
        found.append(_break(attempts[at:], signalled_ns, recovered=False))
    return found


def _break(attempts: Sequence[_Attempt], signalled_ns: int, *, recovered: bool) -> dict[str, Any]:
    """One break: the attempt that broke off, and those that followed, up to the one that went on or was the last."""
    broken, last = attempts[0], attempts[-1]
    cut_ns, noticed_ns = _cut_ns(broken, signalled_ns), broken.ended_ns
    connection_ns, new_ns = (last.connection_ns, last.went_on_ns) if recovered else (None, None)
    waits = [max(0, after.intended_ns - before.ended_ns) for before, after in pairwise(attempts)]
    return {
        "stream": broken.stream,
        "attempt": broken.attempt,
        "reason": broken.reason or broken.outcome,
        "recovered": recovered,
        "tries": len(attempts) - 1,
        "notice": _ms(noticed_ns, cut_ns),
        "reconnect": _ms(connection_ns, noticed_ns),
        "waited": sum(waits) / 1e6 if recovered else None,
        "renew": _ms(new_ns, connection_ns),
        "outage": _ms(new_ns, cut_ns),
        "lasted": _ms(new_ns if recovered else last.ended_ns, cut_ns),
    }


def _cut_ns(broken: _Attempt, signalled_ns: int) -> int | None:
    if broken.server_reason in _SAID_BY_SERVER:
        return broken.server_ended_ns
    if broken.server_ended_ns is not None or broken.started_ns is None:
        return None
    killed = broken.started_ns <= signalled_ns <= broken.ended_ns
    return max(signalled_ns, broken.last_written_ns or 0) if killed else None


def _ms(later: int | None, earlier: int | None) -> float | None:
    return None if later is None or earlier is None else (later - earlier) / 1e6
