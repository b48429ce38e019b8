"""The figures of all workers: those of their records pooled, whatever way the reports came."""

from __future__ import annotations

import random
from array import array
from typing import Any

import msgspec
import pytest

from bench.measures import FEWEST_BEYOND
from bench.rawlog import StreamRecord
from bench.swarm.figures import CURVE, MEASURES, Figures
from bench.swarm.taken import Taken
from bench.swarm.workers import FORMAT, WorkerReport, Workers, read_report

S, START = 1_000_000_000, 10**15


def streams(seed: int, number: int, chunks: int = 20) -> list[Any]:
    """Made-up ended streams with their reads and schedules."""
    draw = random.Random(seed)
    made = []
    for ordinal in range(number):
        due = [100_000_000 + 20_000_000 * i for i in range(chunks)]
        stamps = array("q", [START + at + draw.randrange(5_000_000) for at in due])
        record = StreamRecord(
            stream=ordinal, phase="chat", step=0, window=True, ordinal=ordinal, seed=ordinal, cold=ordinal % 2 == 0,
            intended_ns=START, started_ns=START, connected_ns=START + draw.randrange(100_000, 900_000),
            first_content_ns=stamps[0], ended_ns=stamps[-1] + 1000, chunks=chunks, received_bytes=chunks * 200,
            outcome="complete",
        )  # fmt: skip
        made.append((record, stamps, array("I", [1] * chunks), due))
    return made


def take(taken: Taken, some: list[Any]) -> Taken:
    for one in some:
        taken.begun()
        taken.ended(*one)
    return taken


def report(name: str, seq: int = 1, **protocols: Taken) -> WorkerReport:
    plain = {
        "format": FORMAT, "worker": name, "host": "h", "seq": seq, "elapsed_ns": seq * S, "final": False, "users": 5,
        "cpu_share": 0.2, "cpu_ns": 1, "loop_lag_p99_ns": 1, "loop_lag_max_ns": 1,
        "protocols": {key: taken.report() for key, taken in protocols.items()},
    }  # fmt: skip
    return read_report(msgspec.msgpack.decode(msgspec.msgpack.encode(plain)))


def without_names(figures: Figures) -> Any:
    return figures.rows, [(tally.protocol, tally.counts, tally.open) for tally in figures.tallies]


def test_figures_of_workers_are_those_of_their_records_pooled() -> None:
    some, others, more = streams(1, 30), streams(2, 41), streams(3, 7)
    apart = Figures.of(
        {
            "w1": report("w1", sse=take(Taken(), some), websocket=take(Taken(), more)),
            "w2": report("w2", sse=take(Taken(), others)),
        }
    )
    pooled = Figures.of({"w": report("w", sse=take(Taken(), some + others), websocket=take(Taken(), more))})
    assert without_names(apart) == without_names(pooled)
    assert [tally.protocol for tally in apart.tallies] == ["sse", "websocket"]
    row = apart.row("sse", "ttft_cold")
    assert row is not None
    true = [(one[0].first_content_ns - START) / 1e6 for one in some + others if one[0].cold]
    assert (row.count, row.min_ms, row.max_ms) == (len(true), min(true), max(true))
    assert row.mean_ms == pytest.approx(sum(true) / len(true), abs=1e-6)
    assert apart.row("websocket", "tls") is None


def test_figures_do_not_depend_on_how_often_and_in_which_order_reports_came() -> None:
    taken, other, in_order, otherwise = Taken(), Taken(), Workers(), Workers()
    reports = []
    for seq, seed in enumerate((1, 2, 3), 1):
        take(taken, streams(seed, 10))
        reports.append(report("w1", seq, sse=taken))
    reports.append(report("w2", 1, sse=take(other, streams(9, 5))))
    for one in reports:
        in_order.reported(one.worker, one, seq * S)
    for one in (reports[3], reports[2], reports[0], reports[2], reports[1], reports[3]):
        otherwise.reported(one.worker, one, seq * S)
    first, second = Figures.now(in_order, 9 * S), Figures.now(otherwise, 9 * S)
    assert without_names(first) == without_names(second)
    assert first.tallies[0].counts.ended == 35


def test_what_a_lost_worker_reported_stays_and_what_is_missing_is_said() -> None:
    workers, taken = Workers(), take(Taken(), streams(1, 10))
    workers.started(0)
    taken.begun()
    workers.reported("w1", report("w1", sse=taken), 3 * S)
    workers.reported("w2", report("w2", sse=take(Taken(), streams(2, 5))), 3 * S)
    before = Figures.now(workers, 4 * S)
    workers.lost("w1", 5 * S)
    after = Figures.now(workers, 6 * S)
    assert after.rows == before.rows
    assert after.tallies == before.tallies
    assert (after.tallies[0].counts.ended, after.tallies[0].open) == (15, 1)
    assert len(after.missing) == 1
    assert after.missing[0].startswith("worker w1 lost after 5.0 s: 1 stream was open")


def test_a_worker_that_joins_adds_to_the_figures() -> None:
    workers = Workers()
    workers.joined("w1", 0)
    workers.started(0)
    workers.reported("w1", report("w1", sse=take(Taken(), streams(1, 10))), 3 * S)
    workers.joined("w2", 20 * S)
    workers.reported("w2", report("w2", websocket=take(Taken(), streams(2, 5))), 24 * S)
    figures = Figures.now(workers, 25 * S)
    assert [(tally.protocol, tally.counts.ended) for tally in figures.tallies] == [("sse", 10), ("websocket", 5)]
    assert figures.remarks == ["worker w2 joined after 20.0 s"]
    assert figures.missing == []


def test_cleared_figures_begin_anew() -> None:
    workers, taken = Workers(), take(Taken(), streams(1, 10))
    taken.begun()
    workers.reported("w1", report("w1", 1, sse=taken), S)
    taken.clear()
    workers.reported("w1", report("w1", 2, sse=take(taken, streams(2, 3))), 2 * S)
    figures = Figures.now(workers, 3 * S)
    counts = figures.tallies[0].counts
    assert (counts.carried, counts.started, counts.ended, figures.tallies[0].open) == (1, 3, 3, 1)
    assert "SSE: 1 stream was open when the figures were cleared; it counts when it ends" in figures.remarks


@pytest.mark.parametrize("beyond", [FEWEST_BEYOND - 1, FEWEST_BEYOND])
def test_percentiles_need_samples_beyond_and_the_median_none(beyond: int) -> None:
    figures = Figures.of({"w": report("w", sse=take(Taken(), streams(1, beyond * 20, 1)))})
    row = figures.row("sse", "ttft_cold")  # every second stream: ten for each that is beyond p90
    assert row is not None
    assert row.count == beyond * 10
    assert (row.p90_ms is None) == (beyond < FEWEST_BEYOND)
    assert row.p99_ms is row.p99_9_ms is None
    assert {p for p, _ in row.curve} <= set(CURVE)
    few = Figures.of({"w": report("w", sse=take(Taken(), streams(1, 2, 1)))}).row("sse", "ttft_warm")
    assert few is not None
    assert few.p50_ms == few.min_ms == few.max_ms


def test_microseconds_are_kept() -> None:
    one, stamps, counts, due = streams(1, 1, 2)[0]
    stamps[1] = stamps[0] + 20_001_000
    figures = Figures.of({"w": report("w", sse=take(Taken(), [(one, stamps, counts, due)]))})
    excess = figures.row("sse", "gap_excess")
    assert excess is not None
    assert excess.max_ms == 0.001


def test_values_beyond_an_hour_and_streams_off_their_schedule_are_told() -> None:
    some = streams(1, 2)
    some[0] = (msgspec.structs.replace(some[0][0], ended_ns=START + 7200 * S), *some[0][1:])
    some[1] = (*some[1][:3], some[1][3][:-1])
    figures = Figures.of({"w": report("w", sse=take(Taken(), some))})
    assert figures.remarks == [
        "SSE, Whole stream: 1 value beyond an hour counts as an hour",
        "SSE: 1 stream had other chunks than its schedule; its excess is not known",
    ]


def test_a_histogram_that_cannot_be_read_is_named() -> None:
    plain = msgspec.to_builtins(report("w1", sse=take(Taken(), streams(1, 2))))
    plain["protocols"]["sse"]["histograms"]["icl"]["above"] = "abc"
    with pytest.raises(ValueError, match="worker w1: sse, icl: a histogram cannot be read"):
        Figures.of({"w1": read_report(plain)})


def test_without_reports_there_are_no_figures() -> None:
    empty = Figures.of({})
    assert (empty.rows, empty.tallies, empty.elapsed_s) == ([], [], 0)


def test_figures_are_json_and_every_measure_has_words() -> None:
    figures = Figures.of({"w1": report("w1", sse=take(Taken(), streams(1, 10)))})
    assert msgspec.json.decode(msgspec.json.encode(figures), type=Figures) == figures
    assert {row.measure for row in figures.rows} <= set(MEASURES)
    assert all(measure.title and measure.meaning for measure in MEASURES.values())
