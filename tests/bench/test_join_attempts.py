"""Raw logs of streams asked for several times, joined: each attempt has its own stamps, a stream one account."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.join import EMISSIONS_FILES, write_trial
from bench.rawlog import RawLog, StreamRecord
from bench.record import read_trial
from bench.scenario import Arm, Closed, Retry, Scenario
from servers.emission_log import EmissionLog, Ended
from servers.emitter import Constant, Fixed, Profile, completion_id, schedule

CHUNKS = 12
PROFILE = Profile(first=Constant(ms=1), gap=Constant(ms=1), length=Fixed(tokens=CHUNKS))
SCENARIO = Scenario(
    name="join",
    title="join",
    arms={"a": Arm(protocol="sse", stack="aiohttp")},
    profiles={"p": PROFILE},
    phases={"x": Closed(profile="p", connections="cold", users=1, turns=1, retry=Retry())},
    contrasts={},
)
MS = 1_000_000
SEED = 100_000_000_000_007
ALL = list(range(CHUNKS))
FLAWS = ["lost", "repeated", "reordered", "corrupted"]


def event(chunk: int) -> int:
    """The event that a chunk is: the role chunk is event 0. Who has it asks for the chunk after it."""
    return chunk + 1


class Logs:
    """Raw logs in the making. Times are in ms; a chunk is written 10 ns after it was due, and read 20 ns after."""

    def __init__(self, folder: Path, seed: int = SEED, servers: int = 1) -> None:
        self.folder, self.seed, self.plan = folder, seed, schedule(PROFILE, seed)
        self._servers = [EmissionLog(folder / EMISSIONS_FILES.format(number)) for number in range(servers)]
        self._log = RawLog(folder)
        self._attempts = 0

    def served(
        self,
        chunks: Sequence[int],
        *,
        at: float,
        start: float | None = None,
        ended: Ended | None = Ended.CUT,
        server: int = 0,
        attempt: int = 0,
    ) -> None:
        """A server took a request up `at`, for a schedule that began at `start`, and handed these chunks over."""
        log = self._servers[server]
        first = chunks[0] if chunks else 0
        stream = log.open(completion_id("p", self.seed, attempt), int(at * MS), first)
        for chunk in chunks:
            due = self._due(chunk, at if start is None else start)
            log.token(stream, chunk, due, max(due, int(at * MS)) + 10)
        if ended is not None:
            log.close_stream(stream, int(at * MS) + 50 * MS, ended)

    def asked(
        self,
        got: Sequence[int],
        *,
        at: float,
        outcome: str = "truncated",
        resumed_from: int = -1,
        start: float | None = None,
        named: int | None = 0,
        requested: bool = True,
    ) -> None:
        """The driver's side of the same: what it got, each chunk in a read of its own."""
        self._attempts += 1
        record = StreamRecord(self._attempts, "x", 0, True, 0, self.seed, True, int(at * MS), self._attempts - 1)
        record.resumed_from, record.outcome = resumed_from, outcome
        record.completion_id = "" if named is None else completion_id("p", self.seed, named)
        record.requested_ns = int(at * MS) - 100 if requested else 0
        record.ended_ns = int(at * MS) + 60 * MS
        record.text, record.chunks = "\x1f".join(self.plan.texts[chunk] for chunk in got), len(got)
        since = at if start is None else start
        stamps = [max(self._due(chunk, since), int(at * MS)) + 20 for chunk in got]
        self._log.ended(record, array("q", stamps), array("I", [1] * len(got)))

    def _due(self, chunk: int, start: float) -> int:
        return int(start * MS) + self.plan.due_ns[chunk]

    def joined(self, *, killed: Sequence[int] = ()) -> tuple[list[pd.DataFrame], dict[str, Any]]:
        """The rows of each attempt, and the facts. A server that was killed has not closed its log."""
        for number, server in enumerate(self._servers):
            if number not in killed:
                server.close()
        self._log.close()
        facts: dict[str, Any] = {"arm": "a", "block": 1, "trial": 1, "position": 1, "phases": {"x": {}}}
        facts["restarts"] = len(self._servers) - 1
        write_trial(self.folder, self.folder / "t.parquet", SCENARIO, facts)
        frame = read_trial(self.folder / "t.parquet")
        return [frame[frame["attempt"] == number] for number in range(self._attempts)], facts


def flaws(rows: pd.DataFrame) -> list[int]:
    return [int(rows.iloc[0][flaw]) for flaw in FLAWS]


def places(rows: pd.DataFrame, stamp: str) -> list[int]:
    return sorted(rows.loc[rows[stamp].notna(), "chunk"].astype(int))


NONE = [0, 0, 0, 0]


def test_what_was_lost_on_the_way_is_sent_again(tmp_path: Path) -> None:
    """Seven chunks handed over, five of them received; the client asks for what follows the fifth."""
    logs = Logs(tmp_path)
    logs.served(ALL[:7], at=1000)
    logs.asked(ALL[:5], at=1000)
    logs.served(ALL[5:], at=1100, start=1000, ended=Ended.COMPLETE)
    logs.asked(ALL[5:], at=1100, start=1000, outcome="complete", resumed_from=event(4))
    (first, second), facts = logs.joined()
    assert (places(first, "written_ns"), places(first, "received_ns")) == (ALL[:7], ALL[:5])
    assert (places(second, "written_ns"), places(second, "received_ns")) == (ALL[5:], ALL[5:])
    assert flaws(first) == flaws(second) == NONE
    assert set(first["server_reason"]) == {"cut"}
    assert set(second["server_reason"]) == {"complete"}
    found = facts["phases"]["x"]
    assert (found["tokens"], found["tokens_due"], found["unlogged"], found["backwards"]) == (12, 12, 0, 0)
    assert facts["schedule_mismatches"] == 0


@pytest.mark.parametrize(
    ("sent", "lost", "repeated"),
    [
        (ALL[5:], 0, 0),
        (ALL[3:], 0, 2),
        (ALL, 0, 5),
        (ALL[7:], 2, 0),
        ([5, 6, *ALL[8:]], 1, 0),
        ([5, 5, *ALL[6:]], 0, 1),
    ],
    ids=["right", "two-back", "from-the-start", "two-ahead", "with-a-hole", "twice"],
)
def test_resumed_at_any_place(tmp_path: Path, sent: list[int], lost: int, repeated: int) -> None:
    """Whatever the server makes of the place asked for is found, and counted once, on the last attempt."""
    for seed in range(SEED, SEED + 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        logs = Logs(folder, seed)
        logs.served(ALL[:5], at=1000)
        logs.asked(ALL[:5], at=1000)
        logs.served(sorted(set(sent)), at=1100, start=1000, ended=Ended.COMPLETE)
        logs.asked(sent, at=1100, start=1000, outcome="complete", resumed_from=event(4))
        (first, second), _ = logs.joined()
        assert flaws(first) == NONE
        assert flaws(second) == [lost, repeated, 0, 0]
        assert places(second, "received_ns") == sorted(set(sent))


def test_an_answer_asked_for_again_is_not_repeated(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.served(ALL[:7], at=1000)
    logs.asked(ALL[:5], at=1000)
    logs.served(ALL, at=1100, ended=Ended.COMPLETE, attempt=1)
    logs.asked(ALL, at=1100, outcome="complete", named=1)
    (first, second), facts = logs.joined()
    assert flaws(first) == flaws(second) == NONE
    assert places(first, "received_ns") == ALL[:5]
    assert places(second, "received_ns") == ALL
    assert (facts["phases"]["x"]["tokens"], facts["phases"]["x"]["tokens_due"]) == (17, 12)


def test_an_answer_that_came_again_is_to_be_whole_by_itself(tmp_path: Path) -> None:
    """The first attempt had the chunk that the second lacks; the answer that counts is without it."""
    logs = Logs(tmp_path)
    logs.served(ALL[:7], at=1000)
    logs.asked(ALL[:7], at=1000)
    logs.served(ALL, at=1100, ended=Ended.COMPLETE, attempt=1)
    logs.asked([*ALL[:3], *ALL[4:]], at=1100, outcome="complete", named=1)
    (first, second), _ = logs.joined()
    assert (flaws(first), flaws(second)) == (NONE, [1, 0, 0, 0])


def test_given_up(tmp_path: Path) -> None:
    """Nobody listens any more: what was handed over and not received is lost, by the account of the last attempt."""
    logs = Logs(tmp_path)
    logs.served(ALL[:7], at=1000)
    logs.asked(ALL[:5], at=1000)
    for at in (1100, 1200):
        logs.asked([], at=at, outcome="refused", resumed_from=event(4), requested=False)
    (first, second, third), facts = logs.joined()
    assert (flaws(first), flaws(second), flaws(third)) == (NONE, NONE, [2, 0, 0, 0])
    assert third["received_ns"].isna().all()
    assert facts["phases"]["x"]["tokens_due"] == 12


def test_a_server_that_took_over_has_a_log_of_its_own(tmp_path: Path) -> None:
    """The first is killed, so its log is not cut to its end; the second gives the same completion the same name.

    The rest of the schedule starts anew at the resume, which is no mismatch.
    """
    logs = Logs(tmp_path, servers=2)
    logs.served(ALL[:6], at=1000, ended=None)
    logs.asked(ALL[:5], at=1000)
    logs.asked([], at=1050, outcome="refused", resumed_from=event(4), requested=False)
    logs.served(ALL[5:], at=1100, start=1095, ended=Ended.COMPLETE, server=1)
    logs.asked(ALL[5:], at=1100, start=1095, outcome="complete", resumed_from=event(4))
    (first, second, third), facts = logs.joined(killed=[0])
    assert facts["log_torn"] is False
    assert facts["schedule_mismatches"] == 0
    assert [set(rows["taken_up_ns"].dropna()) for rows in (first, second, third)] == [{1000 * MS}, set(), {1100 * MS}]
    assert (places(first, "written_ns"), places(third, "written_ns")) == (ALL[:6], ALL[5:])
    assert first["server_reason"].isna().all()
    assert flaws(third) == NONE
    assert facts["phases"]["x"]["unlogged"] == 0


def test_the_log_of_the_last_server_must_be_whole(tmp_path: Path) -> None:
    logs = Logs(tmp_path, servers=2)
    logs.served(ALL, at=1000, ended=Ended.COMPLETE)
    logs.asked(ALL, at=1000, outcome="complete")
    _, facts = logs.joined(killed=[1])
    assert facts["log_torn"] is True


def test_an_attempt_that_was_told_no_name_is_not_taken_for_a_later_one(tmp_path: Path) -> None:
    """Killed before a byte was read: the next server counts from 0 again and gives the same name to another request."""
    logs = Logs(tmp_path, servers=2)
    logs.served(ALL[:1], at=1000, ended=None)
    logs.asked([], at=1000, named=None)
    logs.served(ALL, at=1100, ended=Ended.COMPLETE, server=1)
    logs.asked(ALL, at=1100, outcome="complete")
    (first, second), facts = logs.joined(killed=[0])
    assert set(first["taken_up_ns"]) == {1000 * MS}
    assert set(second["taken_up_ns"]) == {1100 * MS}
    assert (places(first, "written_ns"), places(second, "written_ns")) == (ALL[:1], ALL)
    assert flaws(second) == NONE
    assert facts["phases"]["x"]["unlogged"] == 0


def test_nameless_attempts_are_told_apart_by_time(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    for number, at in enumerate((1000, 1100, 1200)):
        logs.served([], at=at, attempt=number)
        logs.asked([], at=at, named=None)
    attempts, _ = logs.joined()
    assert [int(rows.iloc[0]["taken_up_ns"]) for rows in attempts] == [1000 * MS, 1100 * MS, 1200 * MS]
