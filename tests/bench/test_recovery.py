"""Streams that broke off, made up with known answers: each part of an outage, what was lost, and how it is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.metrics.outages import PARTS, outages
from bench.metrics.recovery import Recoveries, Recovery
from bench.metrics.seen import Seen
from bench.metrics.trial import chunks_of, streams_of

TOKENS = 10
PROFILE = {
    "first": {"dist": "constant", "ms": 1}, "gap": {"dist": "constant", "ms": 1},
    "length": {"dist": "fixed", "tokens": TOKENS},
}  # fmt: skip
MS = 1_000_000
BASE = 5_000_000_000
"""All times below are in ms after it."""


class Story:
    """The attempts of the streams of a phase, written down as they happened."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._attempts: dict[int, int] = {}
        self._streams = 0

    def attempt(
        self,
        ordinal: int,
        *,
        at: float,
        connected: float | None = None,
        secured: float | None = None,
        got: dict[int, float] | None = None,
        handed: tuple[int, ...] = (),
        ended: float,
        outcome: str = "truncated",
        reason: str = "reset",
        server: tuple[str, float] | None = None,
        resumed_from: int = -1,
        cold: bool = True,
        flaws: dict[str, int] | None = None,
    ) -> None:
        """One attempt, due and started `at`; `got` says when each chunk came, `handed` what was written in vain.

        Chunks are written 0.5 ms before they come, and those in vain 0.25 ms before the end.
        """
        self._streams += 1
        number = self._attempts[ordinal] = self._attempts.get(ordinal, -1) + 1

        def ns(ms: float | None) -> Any:
            return pd.NA if ms is None else BASE + round(ms * MS)

        one = {
            "window": True, "stream": self._streams, "step": 0, "ordinal": ordinal, "seed": 100 + ordinal,
            "attempt": number, "resumed_from": resumed_from, "cold": cold, "outcome": outcome, "reason": reason,
            "intended_ns": ns(at), "started_ns": ns(at), "connected_ns": ns(connected if cold else None),
            "secured_ns": ns(secured), "ready_ns": ns(connected), "requested_ns": ns(connected),
            "first_byte_ns": ns(connected), "ended_ns": ns(ended), "taken_up_ns": ns(connected),
            "server_reason": server[0] if server else None, "server_ended_ns": ns(server[1] if server else None),
            **{flaw: (flaws or {}).get(flaw, 0) for flaw in ("lost", "repeated", "reordered", "corrupted")},
        }  # fmt: skip
        empty = {"chunk": pd.NA, "tokens": pd.NA, "due_ns": pd.NA, "written_ns": pd.NA, "received_ns": pd.NA}
        came = {chunk: (ns(t - 0.5), ns(t)) for chunk, t in (got or {}).items()}
        came |= {chunk: (ns(ended - 0.25), pd.NA) for chunk in handed}
        chunks = [
            {"chunk": chunk, "tokens": 1, "due_ns": written, "written_ns": written, "received_ns": received}
            for chunk, (written, received) in came.items()
        ]
        self.rows += [one | chunk for chunk in chunks or [empty]]

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """`streams_of`, `chunks_of` and the rows."""
        frame = pd.DataFrame(self.rows)
        wholes = [c for c in frame if c.endswith("_ns") or c in ("chunk", "tokens")]
        frame = frame.astype(dict.fromkeys(wholes, "Int64"))
        chunks = chunks_of(frame)
        return streams_of(frame, chunks, websocket=False), chunks, frame

    def breaks(self, **facts: int) -> list[dict[str, Any]]:
        streams, _, rows = self.frames()
        found = outages(streams, rows, facts).to_dict("records")
        for one in found:
            if one["recovered"] and not np.isnan(one["outage"]):
                assert sum(one[part] for part in PARTS) == pytest.approx(one["outage"])
                assert one["lasted"] == one["outage"]
                assert one["waited"] <= one["reconnect"]
        return found

    def recovery(self, retry: dict[str, Any] | None, **facts: int) -> Recovery:
        """What it comes to when two trials tell the same story."""
        streams, chunks, rows = self.frames()
        phase = {"profile": "p", "connections": "cold", "retry": retry, "fault": "f"}
        scenario = {"phases": {"x": phase}, "profiles": {"p": PROFILE}, "arms": {"a": {"protocol": "sse"}}}
        collected = Recoveries()
        for block in (1, 2):
            collected.add(Seen("x", "a", block, scenario, facts, streams, chunks, rows))
        (one,) = collected.found()
        return one


def came(first: int, last: int, since: float, every: float = 1.0) -> dict[int, float]:
    """Chunks from `first` up to and without `last`, one after the other."""
    return {chunk: since + every * (chunk - first) for chunk in range(first, last)}


def resumed(story: Story, ordinal: int = 0, reason: str = "reset", noticed: float = 12.0) -> None:
    """Cut at 10 before chunk 5, noticed, tried again 20 later, connected 1 after that, a new token 3 after that."""
    story.attempt(ordinal, at=0, connected=1, got=came(0, 5, 5), ended=noticed, reason=reason, server=("cut", 10))
    again = noticed + 20
    story.attempt(
        ordinal, at=again, connected=again + 1, got=came(5, TOKENS, again + 4, 0.5), ended=again + 20,
        outcome="complete", reason="", server=("complete", again + 20), resumed_from=5,
    )  # fmt: skip


@pytest.mark.parametrize(("reason", "noticed"), [("closed", 10.5), ("reset", 12.0), ("gap_timeout", 1009.0)])
def test_parts_of_an_outage(reason: str, noticed: float) -> None:
    story = Story()
    resumed(story, reason=reason, noticed=noticed)
    (one,) = story.breaks()
    assert (one["reason"], one["recovered"], one["tries"], one["attempt"]) == (reason, True, 1, 0)
    expected = {"notice": noticed - 10, "reconnect": 21, "waited": 20, "renew": 3, "outage": noticed - 10 + 24}
    assert {key: one[key] for key in expected} == pytest.approx(expected)


def test_streams_that_did_not_break_off_are_none() -> None:
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, TOKENS, 5), ended=30, outcome="complete", reason="")
    story.attempt(1, at=0, connected=1, got=came(0, 3, 5), ended=9, outcome="cancelled", reason="left")
    assert story.breaks() == []
    streams, chunks, rows = story.frames()
    scenario = {"phases": {"x": {"profile": "p", "retry": {}}, "y": {"profile": "p", "retry": {"tries": 1}}}}
    collected = Recoveries()
    for phase in ("x", "y"):
        collected.add(Seen(phase, "a", 1, {**scenario, "profiles": {"p": PROFILE}}, {}, streams, chunks, rows))
    assert collected.found() == []


def test_tries_in_vain_belong_to_the_break() -> None:
    """Refused twice, then served: one break, whose waits are the policy's and whose refusals are not."""
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), ended=12, server=("cut", 10))
    story.attempt(0, at=22, ended=23, outcome="refused", reason="refused", resumed_from=5)
    story.attempt(0, at=43, ended=45, outcome="refused", reason="refused", resumed_from=5)
    story.attempt(
        0, at=85, connected=86, secured=88, got=came(5, TOKENS, 90), ended=99, outcome="complete", reason="",
        resumed_from=5,
    )  # fmt: skip
    (one,) = story.breaks()
    expected = {"tries": 3, "notice": 2, "reconnect": 76, "waited": 10 + 20 + 40, "renew": 2, "outage": 80}
    assert {key: one[key] for key in expected} == pytest.approx(expected)


def test_a_server_that_was_killed() -> None:
    """It says nothing more: the break is the signal, or its last write where that came later."""
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), ended=12)
    story.attempt(1, at=0, connected=1, got=came(0, 5, 5), handed=(5,), ended=12)
    story.attempt(2, at=10.5, ended=11, outcome="refused", reason="refused")  # it asked after the signal
    story.attempt(3, at=0, connected=1, got=came(0, 5, 3), ended=9, server=("client_gone", 9))  # not by the signal
    first, second, third, fourth = story.breaks(signalled_ns=BASE + 10 * MS)
    assert first["notice"] == pytest.approx(2)
    assert second["notice"] == pytest.approx(0.25)
    assert all(np.isnan(time) for time in (third["notice"], third["lasted"], fourth["notice"]))


def test_a_server_that_stopped_its_streams_says_when() -> None:
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), ended=14, server=("shutdown", 11))
    (one,) = story.breaks(signalled_ns=BASE + 10 * MS)
    assert one["notice"] == pytest.approx(3)


def test_start_again_is_over_when_something_new_comes() -> None:
    """Five chunks are made again; the sixth is new."""
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), ended=12, server=("cut", 10))
    story.attempt(0, at=32, connected=33, got=came(0, TOKENS, 40), ended=60, outcome="complete", reason="")
    (one,) = story.breaks()
    assert (one["reconnect"], one["renew"]) == pytest.approx((21, 12))
    found = story.recovery({"resume": False})
    assert (found.policy, found.made_again, found.repeated, found.lost, found.missing) == ("start again", 10, 0, 0, 0)


def test_start_again_that_breaks_off_before_anything_new_is_a_try() -> None:
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), ended=12, server=("cut", 10))
    story.attempt(0, at=32, connected=33, got=came(0, 3, 40), ended=50, server=("cut", 45))
    story.attempt(0, at=70, connected=72, got=came(0, TOKENS, 80), ended=99, outcome="complete", reason="")
    (one,) = story.breaks()
    expected = {"tries": 2, "notice": 2, "reconnect": 60, "waited": 40, "renew": 13, "outage": 75}
    assert {key: one[key] for key in expected} == pytest.approx(expected)
    assert story.recovery({"resume": False}).made_again == 2 * (3 + 5)


def test_never_recovered() -> None:
    """Given up 88 ms after the break; of ten chunks five came, and one was handed over in vain."""
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), handed=(5,), ended=12, server=("cut", 10))
    story.attempt(0, at=22, ended=23, outcome="refused", reason="refused", resumed_from=5)
    story.attempt(0, at=97, ended=98, outcome="refused", reason="refused", resumed_from=5, flaws={"lost": 1})
    (one,) = story.breaks()
    assert (one["recovered"], one["tries"], one["lasted"]) == (False, 2, pytest.approx(88))
    assert one["notice"] == pytest.approx(2)
    assert all(np.isnan(one[key]) for key in ("reconnect", "waited", "renew", "outage"))
    found = story.recovery({"resume": True})
    assert (found.breaks, found.recovered, found.never_finished, found.tries) == (2, 0, 2, 4)
    assert (found.in_flight, found.lost, found.missing) == (2, 2, 10)
    assert set(found.p50_ms) == {"notice"}
    assert (found.survival_ms, found.survival) == ([88.0], [1.0])


def test_several_breaks_of_one_stream() -> None:
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 3, 5), ended=12, server=("cut", 10))
    story.attempt(0, at=32, connected=33, got=came(3, 6, 40), ended=51, server=("cut", 50), resumed_from=3)
    story.attempt(
        0, at=71, connected=72, got=came(6, TOKENS, 74), ended=90, outcome="complete", reason="", resumed_from=6
    )
    first, second = story.breaks()
    assert (first["outage"], second["outage"]) == pytest.approx((30, 24))
    assert (second["attempt"], second["notice"]) == (1, pytest.approx(1))
    found = story.recovery({"resume": True})
    assert (found.streams, found.interrupted, found.breaks) == (2, 2, 4)


def test_a_stream_refused_at_first_has_no_break_to_count_from() -> None:
    story = Story()
    story.attempt(0, at=0, ended=1, outcome="refused", reason="refused")
    story.attempt(0, at=21, connected=22, got=came(0, TOKENS, 30), ended=50, outcome="complete", reason="")
    (one,) = story.breaks()
    assert (one["recovered"], one["reconnect"], one["renew"]) == (True, pytest.approx(21), pytest.approx(8))
    assert all(np.isnan(one[key]) for key in ("notice", "outage", "lasted"))


def test_where_only_the_end_was_missing_the_end_is_what_is_new() -> None:
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, TOKENS, 5), ended=22, server=("cut", 20))
    story.attempt(
        0, at=42, connected=43, ended=47, outcome="complete", reason="nothing_to_resume", resumed_from=TOKENS + 1
    )
    (one,) = story.breaks()
    assert (one["recovered"], one["renew"]) == (True, pytest.approx(4))


def test_a_kept_connection_is_there_when_the_request_is_written() -> None:
    """An error in place of a reply leaves a WebSocket open: nothing has to be connected."""
    story = Story()
    story.attempt(0, at=0, connected=1, ended=5, outcome="api_error", reason="error_event", cold=False)
    story.attempt(0, at=25, connected=25, got=came(0, TOKENS, 30), ended=50, outcome="complete", reason="", cold=False)
    (one,) = story.breaks()
    assert (one["reconnect"], one["waited"], one["renew"]) == pytest.approx((20, 20, 5))


def test_counts_are_exact_and_survival_is_of_all() -> None:
    """Three streams come back after 26, 36 and 46 ms, one is given up after 30, one never broke off."""
    story = Story()
    for ordinal, noticed in enumerate((12.0, 22.0, 32.0)):
        resumed(story, ordinal, noticed=noticed)
    story.attempt(3, at=0, connected=1, got=came(0, 5, 5), ended=12, reason="closed", server=("cut", 10))
    story.attempt(3, at=39, ended=40, outcome="refused", reason="refused", resumed_from=5)
    story.attempt(4, at=0, connected=1, got=came(0, TOKENS, 5), ended=30, outcome="complete", reason="")
    found = story.recovery({"resume": True})
    assert (found.trials, found.streams, found.interrupted, found.breaks, found.recovered) == (2, 10, 8, 8, 6)
    assert found.reasons == {"reset": 6, "closed": 2}
    assert (found.never_finished, found.tries, found.missing) == (2, 8, 10)
    assert (found.p50_ms["outage"].median, found.p50_ms["outage"].trials) == (pytest.approx(36), 2)
    assert len(found.curves_ms["outage"]) == 101
    # Of four at risk one comes back, then one is given up, then one of two, then the last.
    assert found.survival_ms == pytest.approx([26, 30, 36, 46])
    assert found.survival == pytest.approx([3 / 4, 3 / 4, 3 / 8, 0])


def test_flaws_are_those_of_the_last_attempt() -> None:
    story = Story()
    story.attempt(0, at=0, connected=1, got=came(0, 5, 5), ended=12, server=("cut", 10))
    story.attempt(
        0, at=32, connected=33, got=came(4, TOKENS, 40), ended=60, outcome="complete", reason="", resumed_from=4,
        flaws={"repeated": 1, "reordered": 2, "corrupted": 3, "lost": 4},
    )  # fmt: skip
    found = story.recovery({"resume": True})
    assert (found.repeated, found.reordered, found.corrupted, found.lost) == (2, 4, 6, 8)
    assert found.made_again == 0
