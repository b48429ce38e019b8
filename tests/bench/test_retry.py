"""Whether, when and for what a client asks again."""

from __future__ import annotations

import pytest

from bench.rawlog import StreamRecord
from bench.retry import Again, Retrying
from bench.scenario import Retry

MS = 1_000_000


def ended(outcome: str = "truncated", reason: str = "closed", chunks: int = 0, resumed_from: int = -1) -> StreamRecord:
    return StreamRecord(
        stream=1, phase="p", step=0, window=True, ordinal=0, seed=7, cold=True, intended_ns=0,
        outcome=outcome, reason=reason, chunks=chunks, resumed_from=resumed_from,
    )  # fmt: skip


def waits(retrying: Retrying, *attempts: StreamRecord) -> list[float | None]:
    found = [retrying.after(attempt, "", None) for attempt in attempts]
    return [None if again is None else again.wait_ns / MS for again in found]


@pytest.mark.parametrize(
    ("outcome", "reason", "again"),
    [
        ("truncated", "closed", True),
        ("truncated", "reset", True),
        ("refused", "refused", True),
        ("timed_out", "gap_timeout", True),
        ("http_error", "http_429", True),
        ("http_error", "http_500", True),
        ("http_error", "http_408", True),
        ("http_error", "http_400", False),
        ("http_error", "http_401", False),
        ("protocol_error", "bad_utf8", False),
        ("complete", "", False),
        ("complete", "nothing_to_resume", False),
        ("cancelled", "left", False),
    ],
)
def test_what_is_asked_again(outcome: str, reason: str, again: bool) -> None:
    assert (Retrying(Retry(), 1).after(ended(outcome, reason), "", None) is not None) is again


def test_an_error_message_is_a_refusal_before_the_first_content_only() -> None:
    assert Retrying(Retry(), 1).after(ended("api_error", "error_event", chunks=0), "", None) is not None
    assert Retrying(Retry(), 1).after(ended("api_error", "error_event", chunks=3), "", None) is None


def test_waits_grow_up_to_the_most_and_tries_end() -> None:
    retrying = Retrying(Retry(delay_ms=100, backoff=3, most_ms=500, tries=4), 1)
    assert waits(retrying, *[ended("refused")] * 5) == [100, 300, 500, 500, None]


def test_a_new_token_begins_the_count_anew() -> None:
    retrying = Retrying(Retry(delay_ms=100, backoff=2, tries=2), 1)
    attempts = [ended(chunks=3), ended("refused"), ended(chunks=1, resumed_from=3), ended("refused"), ended("refused")]
    assert waits(retrying, *attempts) == [100, 200, 100, 200, None]


def test_what_was_had_before_is_nothing_new() -> None:
    retrying = Retrying(Retry(resume=False, delay_ms=100, backoff=2, tries=3), 1)
    assert waits(retrying, ended(chunks=5), ended(chunks=5), ended(chunks=2), ended(chunks=6)) == [100, 200, 400, 100]


def test_jitter_shortens_and_is_the_same_for_a_seed() -> None:
    policy = Retry(delay_ms=1000, backoff=1, jitter=0.5, tries=50)
    first, second = (waits(Retrying(policy, 5), *[ended("refused")] * 50) for _ in range(2))
    assert first == second
    assert all(wait is not None and 500 <= wait <= 1000 for wait in first)
    assert len(set(first)) == 50
    assert first != waits(Retrying(policy, 6), *[ended("refused")] * 50)


def test_a_longer_retry_after_is_waited_for() -> None:
    retrying = Retrying(Retry(delay_ms=100, backoff=1, most_ms=5000), 1)
    assert retrying.after(ended("http_error", "http_429"), "", 3.0) == Again(3000 * MS, "")
    assert retrying.after(ended("http_error", "http_429"), "", 1e9) == Again(5000 * MS, "")
    assert retrying.after(ended("http_error", "http_429"), "", 0.01) == Again(100 * MS, "")


def test_the_last_event_known_is_kept_over_attempts_that_got_none() -> None:
    retrying = Retrying(Retry(delay_ms=0), 1)
    assert retrying.after(ended(chunks=4), "chatcmpl-1:4", None) == Again(0, "chatcmpl-1:4")
    assert retrying.after(ended("refused"), "", None) == Again(0, "chatcmpl-1:4")


def test_who_starts_again_asks_for_all() -> None:
    assert Retrying(Retry(resume=False, delay_ms=0), 1).after(ended(chunks=4), "chatcmpl-1:4", None) == Again(0, "")
