"""What ended streams add up to: measures as everywhere else in the project, from made-up records with known answers."""

from __future__ import annotations

import subprocess
import sys
from array import array
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rawlog import DROPPED, StreamRecord
from bench.swarm.histogram import Histogram, precision_us
from bench.swarm.taken import Taken

MS = 1_000_000
START = 10**15
NO_READS = array("q"), array("I")


def record(**changes: Any) -> StreamRecord:
    made = StreamRecord(stream=1, phase="chat", step=0, window=True, ordinal=0, seed=1, cold=True, intended_ns=START)
    usual = {"outcome": "complete", "started_ns": START, "ended_ns": START + 500 * MS}
    return msgspec.structs.replace(made, **(usual | changes))


def streamed(at_ms: list[float], counts: list[int] | None = None, **changes: Any) -> Any:
    """A record, and the reads that brought its chunks so long after its start."""
    stamps = array("q", [START + int(ms * MS) for ms in at_ms])
    in_reads = array("I", counts or [1] * len(stamps))
    first = stamps[0] if stamps else 0
    return record(first_content_ns=first, chunks=sum(in_reads), **changes), stamps, in_reads


def take(*streams: Any, due_ms: list[float] | None = None) -> Taken:
    taken = Taken()
    due = None if due_ms is None else [int(ms * MS) for ms in due_ms]
    for one, stamps, counts in streams:
        taken.begun()
        taken.ended(one, stamps, counts, due)
    return taken


def histogram(taken: Taken, measure: str) -> Histogram | None:
    encoded = taken.report()["histograms"].get(measure)
    return Histogram.decode(encoded) if encoded else None


def told_ms(taken: Taken, measure: str) -> list[float]:
    """Least, mean and most of a measure in ms: exact."""
    found = histogram(taken, measure)
    assert found is not None
    assert found.min_us is not None
    assert found.mean_us is not None
    assert found.max_us is not None
    return [found.min_us / 1000, found.mean_us / 1000, found.max_us / 1000]


def test_a_cold_stream_over_tls_has_all_its_measures() -> None:
    stream = streamed([130, 150, 175], connected_ns=START + MS // 4, secured_ns=START + 2 * MS, received_bytes=900)
    taken = take(stream, due_ms=[100, 120, 140])
    assert told_ms(taken, "connect") == [0.25] * 3
    assert told_ms(taken, "tls") == [1.75] * 3
    assert told_ms(taken, "ttft_cold") == [130] * 3
    assert told_ms(taken, "ttft_excess_cold") == [30] * 3
    assert told_ms(taken, "icl") == [20, 22.5, 25]
    assert told_ms(taken, "gap_excess") == [0, 2.5, 5]
    assert told_ms(taken, "stream") == [500] * 3
    assert told_ms(taken, "late") == [0] * 3
    assert set(taken.report()["histograms"]) == {
        "connect", "tls", "ttft_cold", "ttft_excess_cold", "icl", "gap_excess", "stream", "late"
    }  # fmt: skip
    assert taken.report()["counts"] == {
        "carried": 0, "started": 1, "ended": 1, "retried": 0, "dropped": 0, "late": 0, "misfits": 0, "tokens": 3,
        "received_bytes": 900,
    }  # fmt: skip


def test_a_warm_stream_connects_to_nothing() -> None:
    taken = take(streamed([50, 60], cold=False, connected_ns=START), due_ms=[20, 30])
    assert told_ms(taken, "ttft_warm") == [50] * 3
    assert told_ms(taken, "ttft_excess_warm") == [30] * 3
    assert not {"connect", "tls", "ttft_cold"} & set(taken.report()["histograms"])


def test_a_punctual_chunk_after_a_late_one_has_negative_excess() -> None:
    taken = take(streamed([10, 45, 50]), due_ms=[10, 30, 50])
    assert told_ms(taken, "gap_excess") == [-15, 0, 15]
    found = histogram(taken, "gap_excess")
    assert found is not None
    assert found.percentile(50) == -15_000


def test_chunks_of_one_read_are_nothing_apart() -> None:
    taken = take(streamed([10, 40], [1, 3]), due_ms=[10, 20, 30, 40])
    assert told_ms(taken, "icl") == [0, 10, 30]
    assert told_ms(taken, "gap_excess") == [-10, 0, 20]
    found = histogram(taken, "icl")
    assert found is not None
    assert [found.percentile(p) for p in (33, 66)] == [0, 0]


def test_without_a_schedule_there_is_no_excess() -> None:
    assert set(take(streamed([10, 40])).report()["histograms"]) == {"ttft_cold", "icl", "stream", "late"}


def test_a_stream_that_broke_off_has_its_gaps_and_no_duration() -> None:
    taken = take(streamed([10, 30], outcome="truncated", reason="reset"), due_ms=[10, 20, 30, 40])
    assert told_ms(taken, "gap_excess") == [10] * 3
    assert "stream" not in taken.report()["histograms"]
    assert (taken.report()["outcomes"], taken.report()["reasons"]) == ({"truncated": 1}, {"reset": 1})


def test_an_attempt_that_goes_on_is_compared_with_what_it_asked_for() -> None:
    taken = take(streamed([5, 40], attempt=1, resumed_from=2), due_ms=[10, 20, 30, 60])
    assert told_ms(taken, "gap_excess") == [5] * 3  # due 30 ms apart
    assert "ttft_excess_cold" not in taken.report()["histograms"]
    assert taken.report()["counts"]["retried"] == 1


def test_an_attempt_from_the_beginning_has_no_first_token_of_its_own_to_compare() -> None:
    taken = take(streamed([5, 25], attempt=1), due_ms=[10, 20])
    assert told_ms(taken, "ttft_cold") == [5] * 3
    assert told_ms(taken, "gap_excess") == [10] * 3
    assert "ttft_excess_cold" not in taken.report()["histograms"]


@pytest.mark.parametrize(
    ("stream", "due"),
    [
        (streamed([10, 20]), [10, 20, 30]),
        (streamed([10, 20, 30], outcome="truncated"), [10, 20]),
        (streamed([10, 20, 30], attempt=1, resumed_from=1), [10, 20, 30]),
    ],
    ids=["complete with too few", "more than were due", "whole where the rest was asked for"],
)
def test_a_stream_of_other_chunks_than_its_schedule_has_no_excess(stream: Any, due: list[float]) -> None:
    taken = take(stream, due_ms=due)
    assert taken.report()["counts"]["misfits"] == 1
    assert not {"gap_excess", "ttft_excess_cold"} & set(taken.report()["histograms"])
    assert "icl" in taken.report()["histograms"]


def test_late_starts_are_those_of_first_attempts() -> None:
    late, punctual = record(intended_ns=START - 2 * MS), record(intended_ns=START - MS)
    again = record(intended_ns=START - 2 * MS, attempt=1)
    taken = take(*((one, *NO_READS) for one in (late, punctual, again)))
    assert taken.report()["counts"]["late"] == 1
    assert told_ms(taken, "late")[2] == 2


def test_who_never_started_counts_and_has_no_durations() -> None:
    taken = take((record(started_ns=0, outcome="cancelled"), *NO_READS))
    assert taken.report()["outcomes"] == {"cancelled": 1}
    assert taken.report()["histograms"] == {}


def test_streams_outside_the_window_and_dropped_starts_are_no_streams() -> None:
    taken = Taken()
    taken.ended(record(window=False), *NO_READS)
    taken.ended(record(outcome=DROPPED), *NO_READS)
    report = taken.report()
    assert (report["open"], report["counts"]["ended"], report["counts"]["dropped"]) == (0, 0, 1)
    assert report["histograms"] == {}


def test_clear_forgets_all_but_what_is_open() -> None:
    taken = take(streamed([10, 20]))
    taken.begun()
    before = taken.report()
    taken.clear()
    cleared = taken.report()
    assert cleared["counts"]["carried"] == cleared["open"] == 1
    assert not any(value for key, value in cleared["counts"].items() if key != "carried")
    assert (cleared["histograms"], cleared["outcomes"], cleared["reasons"]) == ({}, {}, {})
    assert cleared["seq"] > before["seq"]  # so that what was cleared does not come back
    taken.ended(*streamed([10, 20]))
    counts = taken.report()["counts"]
    assert counts["carried"] + counts["started"] == counts["ended"] + taken.open == 1


def test_reports_are_cumulative_and_plain() -> None:
    taken = take(streamed([10, 20]))
    first = taken.report()
    second = taken.report()
    assert {**first, "seq": 0} == {**second, "seq": 0}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(first)) == first
    taken.begun()
    taken.ended(*streamed([10, 20]))
    assert first == {**second, "seq": first["seq"]}  # what was handed out stays as it was


GAPS = st.lists(st.integers(0, 2 * 10**9), min_size=2, max_size=40)


@given(st.lists(st.tuples(GAPS, GAPS, st.integers(1, 3)), min_size=1, max_size=5))
def test_gaps_of_many_streams_are_those_of_their_records(streams: list[tuple[list[int], list[int], int]]) -> None:
    taken, icl, excess = Taken(), [], []
    for gaps, due_gaps, together in streams:
        stamps = [START + sum(gaps[: i + 1]) for i in range(len(gaps))]
        counts = [1 + i % together for i in range(len(gaps))]
        received = [stamp for stamp, n in zip(stamps, counts, strict=True) for _ in range(n)]
        due = [sum((due_gaps * len(received))[: i + 1]) for i in range(len(received))]
        icl += [b - a for a, b in pairwise(received)]
        excess += [(b - a) - (y - x) for (a, b), (x, y) in zip(pairwise(received), pairwise(due), strict=True)]
        one = record(first_content_ns=stamps[0], chunks=len(received))
        taken.begun()
        taken.ended(one, array("q", stamps), array("I", counts), due)
    for measure, true in (("icl", sorted(icl)), ("gap_excess", sorted(excess))):
        found = histogram(taken, measure)
        assert found is not None
        assert found.total == len(true)
        assert found.mean_us == sum(true) / len(true) / 1000
        ranks = [100 * (i + 1) / len(true) - 1e-9 for i in range(len(true))]
        for told, value in zip(found.percentiles(ranks), true, strict=True):
            assert told is not None
            assert abs(told - value / 1000) <= precision_us(value / 1000)


@pytest.mark.parametrize("module", ["taken", "histogram", "workers", "figures", "conclusion", "show"])
def test_processes_that_measure_load_nothing_heavy(module: str) -> None:
    code = f"import sys, bench.swarm.{module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"pandas", "pyarrow", "scipy", "matplotlib", "numpy", "locust", "gevent"}
    assert not loaded & (heavy | (set() if module == "show" else {"rich", "jinja2"}))
