"""When a client asks again for a stream that broke off, and for what: no sockets, no clock, one for every protocol."""

from __future__ import annotations

import random
from typing import NamedTuple

from bench.rawlog import StreamRecord
from bench.scenario import Retry
from bench.wire.events import Outcome

STATUSES = frozenset((408, 409, 429, *range(500, 600)))
"""HTTP statuses after which asking again may help: what the OpenAI client retries."""
LOST = frozenset((Outcome.TRUNCATED, Outcome.REFUSED, Outcome.TIMED_OUT))


class Again(NamedTuple):
    """Ask again so long after the end of the attempt before, for what follows an event; "" for the whole stream."""

    wait_ns: int
    last_event_id: str


class Retrying:
    """The retries of one stream. `seed` draws the jitter, the same on every arm."""

    def __init__(self, policy: Retry, seed: int) -> None:
        self._policy = policy
        self._draw = random.Random(seed).random
        self._tries = 0
        self._chunks = 0
        self._last_event_id = ""

    def after(self, record: StreamRecord, last_event_id: str, retry_after_s: float | None) -> Again | None:
        """What follows the end of an attempt: its record, the last event it got, and what the server asked to wait."""
        # A start from the beginning has brought something new only beyond what those before it had brought.
        had = self._chunks if record.resumed_from < 0 else 0
        if record.chunks > had:
            self._tries = 0
            self._chunks = max(self._chunks, record.chunks)
        if last_event_id:
            self._last_event_id = last_event_id
        policy = self._policy
        if not _retried(record) or self._tries >= policy.tries:
            return None
        wait_ms = min(policy.delay_ms * policy.backoff**self._tries, policy.most_ms)
        wait_ms *= 1 - policy.jitter * self._draw()
        self._tries += 1
        # No server may hold a run up for longer than the scenario says.
        wait_ms = max(wait_ms, min(1000 * (retry_after_s or 0.0), policy.most_ms))
        return Again(int(wait_ms * 1e6), self._last_event_id if policy.resume else "")


def _retried(record: StreamRecord) -> bool:
    """Whether an attempt that ended so is followed by another.

    Over WebSocket a refused request has no status: an error before the first content counts as one.
    """
    outcome = record.outcome
    if outcome == Outcome.HTTP_ERROR:
        status = record.reason.removeprefix("http_")
        return status.isdigit() and int(status) in STATUSES
    return outcome in LOST or (outcome == Outcome.API_ERROR and not record.chunks)
