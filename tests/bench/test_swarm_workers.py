"""What a master knows of its workers, and what it says is missing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.swarm.conclusion import conclude
from bench.swarm.figures import Figures
from bench.swarm.taken import Taken
from bench.swarm.workers import FORMAT, WorkerReport, Workers, WorkerSeen, read_report
from bench.validity import RULES

S = 1_000_000_000
LIMITS = {rule.key: rule.limit for rule in RULES}


def report(name: str, seq: int = 1, **changes: Any) -> WorkerReport:
    """A report of streams of which so many are `open`."""
    taken = Taken()
    for _ in range(changes.pop("open", 0)):
        taken.begun()
    plain: dict[str, Any] = {
        "format": FORMAT, "worker": name, "host": "h1", "seq": seq, "elapsed_ns": seq * S, "final": False, "users": 50,
        "cpu_share": 0.5, "cpu_ns": S, "loop_lag_p99_ns": 1_000_000, "loop_lag_max_ns": 3_000_000,
        "protocols": {"sse": taken.report()},
    }  # fmt: skip
    return read_report(msgspec.msgpack.decode(msgspec.msgpack.encode(plain | changes)))


def two(**changes: Any) -> Workers:
    """Two workers that were there at the start, at 100 s, and reported 3 s later."""
    workers = Workers()
    for name in ("w1", "w2"):
        workers.joined(name, 90 * S)
    workers.started(100 * S)
    for name in ("w1", "w2"):
        workers.reported(name, report(name, **(changes if name == "w1" else {})), 103 * S)
    return workers


def seen(workers: Workers, name: str, now_ns: int = 110 * S) -> WorkerSeen:
    return next(one for one in workers.seen(now_ns) if one.name == name)


def test_of_reports_the_newest_counts_however_they_come() -> None:
    workers = two()
    for seq, now_s in ((3, 104), (2, 105), (3, 106), (1, 107)):
        workers.reported("w1", report("w1", seq), now_s * S)
    assert workers.reports["w1"].seq == 3
    assert seen(workers, "w1").report_age_s == 6.0


def test_a_lost_worker_is_named_with_what_is_missing() -> None:
    workers = two(open=12)
    workers.lost("w1", int(105.1 * S))
    assert workers.missing() == [
        "worker w1 lost after 5.1 s: 12 streams were open at its last report, 2.1 s before it was missed; what it took "
        "up after that is in no figure; it had 50 of 100 users (50 %)"
    ]
    assert (seen(workers, "w1").state, seen(workers, "w1").gone_s, seen(workers, "w1").report_age_s) == (
        "lost", 5.1, 2.1
    )  # fmt: skip
    workers.lost("w1", 200 * S)
    assert seen(workers, "w1").gone_s == 5.1


def test_a_lost_workers_report_stays() -> None:
    workers = two(open=3)
    before = workers.reports["w1"]
    workers.lost("w1", 105 * S)
    assert workers.reports["w1"] is before
    # Its last words may come after it was given up: they count, and it is lost all the same.
    workers.reported("w1", report("w1", 2, open=1), 106 * S)
    assert workers.missing()[0].startswith("worker w1 lost after 5.0 s: 1 stream was open at its last report, 0.0 s")


def test_two_that_are_lost_at_once_were_parts_of_one_whole() -> None:
    workers = two()
    workers.lost("w1", 105 * S)
    workers.lost("w2", 106 * S)
    assert all(text.endswith("it had 50 of 100 users (50 %)") for text in workers.missing())
    assert len(workers.missing()) == 2


def test_who_is_lost_later_is_a_part_of_those_that_were_left() -> None:
    workers = two()
    workers.lost("w1", 105 * S)
    workers.reported("w2", report("w2", 2, users=100), 109 * S)
    workers.lost("w2", 112 * S)
    assert workers.missing()[1].endswith("it had 100 of 100 users (100 %)")


def test_a_worker_that_never_reported_left_nothing() -> None:
    workers = two()
    workers.joined("w3", 104 * S)
    assert workers.missing() == []
    workers.lost("w3", 105 * S)
    assert workers.missing() == [
        "worker w3 lost after 5.0 s: it had sent no report; nothing that it did is in any figure"
    ]


def test_who_leaves_in_good_order_with_all_told_lacks_nothing() -> None:
    workers = two(final=True)
    workers.left("w1", 104 * S)
    assert seen(workers, "w1").state == "left"
    assert workers.missing() == []
    workers.lost("w1", 108 * S)
    assert seen(workers, "w1").state == "left"


def test_who_leaves_without_a_last_word_is_named() -> None:
    workers = two()
    workers.left("w1", 104 * S)
    assert workers.missing() == [
        "worker w1 left after 4.0 s: 0 streams were open at its last report, 1.0 s before it left; what it took up "
        "after that is in no figure; it had 50 of 100 users (50 %)"
    ]


def test_when_the_test_is_over_all_must_have_sent_a_last_report() -> None:
    workers = two(final=True)
    assert workers.missing() == []
    assert workers.missing(over=True) == [
        "worker w2 sent no final report: 0 streams were open at its last report; what it took up after that is in no "
        "figure"
    ]
    workers.reported("w2", report("w2", 2, final=True, open=2), 105 * S)
    assert workers.missing(over=True) == [
        "worker w2: 2 streams were open at its last report; what became of them is in no figure"
    ]


def test_who_joins_while_the_test_is_under_way_is_told() -> None:
    workers = two()
    workers.joined("w3", 130 * S)
    workers.joined("w3", 140 * S)
    assert workers.remarks() == ["worker w3 joined after 30.0 s"]
    assert [one.joined_s for one in workers.seen(150 * S)] == [0, 0, 30]
    assert seen(workers, "w3").report_age_s is None


def test_who_comes_back_lacks_nothing_and_is_told() -> None:
    workers = two(open=3)
    workers.lost("w1", 105 * S)
    workers.joined("w1", 108 * S)
    workers.reported("w1", report("w1", 9, final=True), 109 * S)
    assert seen(workers, "w1").state == "there"
    assert workers.missing() == [
        "worker w1 was missed after 5.0 s and came back after 8.0 s: the load was another meanwhile"
    ]


def test_a_new_test_forgets_the_one_before() -> None:
    workers = two(open=3)
    workers.lost("w1", 105 * S)
    workers.started(200 * S)
    assert (workers.reports, workers.missing(), [one.name for one in workers.seen(201 * S)]) == ({}, [], ["w2"])


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"worker": "w1", "format": 2}, "worker w1: its reports have format 2, and this master reads 1; run the same"),
        ({"worker": "w1", "format": 1}, "worker w1: its report cannot be read: .*host"),
        ({}, "worker ?: its reports have format None"),
    ],
)
def test_what_is_no_report_is_refused(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        read_report(plain)


# What it all is worth.


def judged(workers: Workers, **changes: Any) -> Any:
    return conclude(Figures.now(workers, 110 * S), **({"open_loop": False} | changes))


def late(starts: int, late: int, dropped: int = 0) -> dict[str, Any]:
    told = Taken().report()
    told["counts"] |= {"started": starts, "ended": starts, "late": late, "dropped": dropped}
    return {"protocols": {"sse": told}}


def test_all_well() -> None:
    found = judged(two(cpu_share=LIMITS["driver_cpu"] / 100, loop_lag_p99_ns=int(LIMITS["loop_lag"] * 1e6)))
    assert (found.state, found.code, found.reasons) == ("fine", 0, [])


def test_a_lost_worker_degrades() -> None:
    workers = two()
    workers.lost("w2", 105 * S)
    found = judged(workers)
    assert (found.state, found.code) == ("degraded", 5)
    assert found.reasons == workers.missing()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cpu_share": 0.951}, "worker w1: driver's share of its core, 95.1 %, where at most 90.0 % is allowed."),
        ({"loop_lag_p99_ns": 12_340_000}, "worker w1: driver's loop lag at p99, 12.3 ms, where at most 10.0 ms is"),
        (late(99, 11), "worker w1: starts over 1 ms late, 11.1 %, where at most 10.0 % is allowed."),
        (late(99, 0, 1), "worker w1: starts dropped by the driver, 1.0 %, where none is allowed."),
    ],
    ids=["cpu", "lag", "late", "dropped"],
)
def test_an_instrument_at_fault_is_invalid(changes: dict[str, Any], reason: str) -> None:
    found = judged(two(**changes), open_loop=True)
    assert (found.state, found.code, len(found.reasons)) == ("invalid", 3, 1)
    assert found.reasons[0].startswith(reason)


def test_a_faulty_instrument_comes_before_a_lost_worker() -> None:
    workers = two(cpu_share=0.95)
    workers.lost("w1", 105 * S)
    found = judged(workers)
    assert (found.state, found.code, len(found.reasons)) == ("invalid", 3, 2)
    assert "share of its core" in found.reasons[0]
    assert "lost after" in found.reasons[1]


def test_only_an_open_loop_has_starts_to_be_late() -> None:
    assert judged(two(**late(100, 50, 5))).state == "fine"
    assert judged(two(**late(100, 10)), open_loop=True).state == "fine"


def test_what_a_worker_does_not_know_is_not_held_against_it() -> None:
    workers = two(cpu_share=-1.0, loop_lag_p99_ns=-1, loop_lag_max_ns=-1)
    one = seen(workers, "w1")
    assert (one.cpu_share, one.loop_lag_p99_ms, one.loop_lag_max_ms) == (None, None, None)
    assert judged(workers).state == "fine"
