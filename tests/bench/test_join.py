"""Raw logs joined: what was lost, repeated or cut is counted exactly, and every stamp lands on its own chunk."""

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
from bench.scenario import AnyPhase, Arm, Closed, Open, Scenario, Steps
from servers.emission_log import EmissionLog, Ended
from servers.emitter import Constant, Fixed, Profile, completion_id, schedule

PROFILE = Profile(first=Constant(ms=1), gap=Constant(ms=1), length=Fixed(tokens=12))
SCENARIO = Scenario(
    name="join",
    title="join",
    arms={"a": Arm(protocol="sse", stack="aiohttp")},
    profiles={"p": PROFILE},
    phases={"x": Closed(profile="p", connections="cold", users=1, turns=1)},
    contrasts={},
)
TAKEN_UP = 1_000_000_000


def joined(folder: Path, got: list[int], outcome: str, handed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One stream: the server handed over the first `handed` chunks; those numbered `got` came, each in its own read.

    Read number n of the stream is stamped n ns after the base, so that a stamp tells which read it was.
    """
    seed = 100_000_000_000_007
    plan = schedule(PROFILE, seed)
    name = completion_id("p", seed, 0)
    emissions = EmissionLog(folder / EMISSIONS_FILES.format(0))
    stream = emissions.open(name, TAKEN_UP, 0)
    for ordinal in range(handed):
        emissions.token(stream, ordinal, TAKEN_UP + plan.due_ns[ordinal], TAKEN_UP + plan.due_ns[ordinal] + 5)
    emissions.close_stream(stream, TAKEN_UP + 10**9, Ended.COMPLETE)
    emissions.close()
    log = RawLog(folder)
    text = "\x1f".join(plan.texts[i] for i in got)
    record = StreamRecord(1, "x", 0, True, 0, seed, True, 1, outcome=outcome, completion_id=name, text=text)
    record.chunks = len(got)
    log.ended(record, array("q", [2 * TAKEN_UP + n for n in range(len(got))]), array("I", [1] * len(got)))
    log.close()
    facts: dict[str, Any] = {"arm": "a", "block": 1, "trial": 1, "position": 1, "phases": {"x": {}}}
    write_trial(folder, folder / "t.parquet", SCENARIO, facts)
    return read_trial(folder / "t.parquet"), facts


ALL = list(range(12))


@pytest.mark.parametrize(
    ("got", "outcome", "handed", "lost", "repeated", "reordered"),
    [
        (ALL, "complete", 12, 0, 0, 0),
        ([*ALL[:4], *ALL[5:]], "complete", 12, 1, 0, 0),
        ([*ALL[:6], 5, *ALL[6:]], "complete", 12, 0, 1, 0),
        ([*ALL[:3], 4, 3, *ALL[5:]], "complete", 12, 0, 0, 1),
        (ALL[:7], "truncated", 7, 0, 0, 0),
        (ALL[:5], "truncated", 7, 2, 0, 0),
        ([0, 1, 3, 4], "truncated", 5, 1, 0, 0),
        ([], "timed_out", 0, 0, 0, 0),
        ([], "truncated", 3, 3, 0, 0),
    ],
    ids=["all", "lost", "repeated", "swapped", "cut", "cut-in-flight", "cut-and-lost", "nothing", "nothing-came"],
)
def test_flaws_and_places(
    tmp_path: Path, got: list[int], outcome: str, handed: int, lost: int, repeated: int, reordered: int
) -> None:
    frame, facts = joined(tmp_path, got, outcome, handed)
    stream = frame.iloc[0]
    assert (stream["lost"], stream["repeated"], stream["reordered"], stream["corrupted"]) == (
        lost,
        repeated,
        reordered,
        0,
    )
    assert facts["schedule_mismatches"] == 0
    assert facts["phases"]["x"]["tokens"] == len(set(got))
    assert facts["phases"]["x"]["tokens_due"] == 12
    arrived = frame.dropna(subset=["received_ns"])
    first_read = {chunk: got.index(chunk) for chunk in set(got)}
    came = dict(zip(arrived["chunk"].astype(int), (arrived["received_ns"] - 2 * TAKEN_UP).astype(int), strict=True))
    if not repeated:  # of two copies either may be the one that counts
        assert came == first_read
    assert set(came) == set(got)
    assert frame["written_ns"].notna().sum() == handed


Stamps = list[tuple[int, int]]
"""Written and received of every chunk, in ns after it was due."""
PROMPT: Stamps = [(5, 9)] * 12


def facts_of(
    folder: Path,
    stamps: Sequence[tuple[int, int] | None] = PROMPT,
    *,
    load: AnyPhase | None = None,
    seeds: tuple[int, ...] = (7, 8),
    dropped: tuple[int, ...] = (),
    torn: str = "",
) -> dict[str, Any]:
    """The facts of a trial with a stream for each of `seeds`; chunk i is stamped as `stamps` says, None: not logged.

    Streams with the ordinals `dropped` were never started. `torn` says what became of the server's log.
    """
    folder.mkdir(exist_ok=True)
    path = folder / EMISSIONS_FILES.format(0)
    emissions, log = EmissionLog(path), RawLog(folder)
    for ordinal, seed in enumerate(seeds):
        record = StreamRecord(ordinal + 1, "x", 0, True, ordinal, seed, True, 1, outcome="dropped")
        came: list[int] = []
        if ordinal not in dropped:
            plan, record.outcome = schedule(PROFILE, seed), "complete"
            record.completion_id, record.text, record.chunks = completion_id("p", seed, 0), "\x1f".join(plan.texts), 12
            stream = emissions.open(record.completion_id, TAKEN_UP, 0)
            for chunk, (due_ns, stamp) in enumerate(zip(plan.due_ns, stamps, strict=True)):
                due = TAKEN_UP + due_ns
                if stamp is not None:
                    emissions.token(stream, chunk, due, due + stamp[0])
                came.append(due + (9 if stamp is None else stamp[1]))
            emissions.close_stream(stream, TAKEN_UP + 10**9, Ended.COMPLETE)
        log.ended(record, array("q", came), array("I", [1] * len(came)))
    if torn != "killed":
        emissions.close()
    if torn == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif torn == "missing":
        path.unlink()
    log.close()
    scenario = Scenario(
        name="join", title="join", arms=SCENARIO.arms, profiles=SCENARIO.profiles, contrasts={},
        phases={"x": load or Closed(profile="p", connections="cold", users=2, turns=1)},
    )  # fmt: skip
    facts: dict[str, Any] = {"arm": "a", "block": 1, "trial": 1, "position": 1, "phases": {"x": {"starts": 2}}}
    write_trial(folder, folder / "t.parquet", scenario, facts)
    return facts


def test_ordinary_trial(tmp_path: Path) -> None:
    facts = facts_of(tmp_path)
    assert facts["log_torn"] is False
    found = facts["phases"]["x"]
    assert found.pop("work")
    assert found == {
        "starts": 2, "tokens": 24, "tokens_due": 24, "unlogged": 0, "backwards": 0, "write_pace": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stamps", "unlogged", "backwards"),
    [
        ([None, *PROMPT[1:]], 2, 0),
        ([(5, 5), *PROMPT[1:]], 0, 0),
        ([(5, 4), *PROMPT[1:]], 0, 2),
        ([(0, 9), *PROMPT[1:]], 0, 0),
        ([(-1, 9), *PROMPT[1:]], 0, 2),
        ([(-1, -2), *PROMPT[1:]], 0, 2),
    ],
    ids=["unlogged", "at-once", "received-before-written", "on-time", "early", "both"],
)
def test_stamps_that_cannot_be(
    tmp_path: Path, stamps: list[tuple[int, int] | None], unlogged: int, backwards: int
) -> None:
    found = facts_of(tmp_path, stamps)["phases"]["x"]
    assert (found["unlogged"], found["backwards"]) == (unlogged, backwards)


@pytest.mark.parametrize(("torn", "unlogged"), [("killed", 0), ("cut", 0), ("missing", 24)])
def test_torn_log(tmp_path: Path, torn: str, unlogged: int) -> None:
    facts = facts_of(tmp_path, torn=torn)
    assert facts["log_torn"] is True
    assert facts["phases"]["x"]["unlogged"] == unlogged


def test_write_pace_is_that_of_the_schedule(tmp_path: Path) -> None:
    slow = [(chunk * 1_000_000, chunk * 1_000_000 + 9) for chunk in range(12)]  # a gap of 2 ms instead of 1
    assert facts_of(tmp_path, slow)["phases"]["x"]["write_pace"] == pytest.approx(0.5)
    assert facts_of(tmp_path, torn="missing")["phases"]["x"]["write_pace"] == -1.0


def test_work_is_the_same_for_the_same_streams(tmp_path: Path) -> None:
    opened = Open(profile="p", connections="cold", rate=10, duration_s=1)
    timed = Closed(profile="p", connections="cold", users=2, duration_s=1)
    steps = Steps(profile="p", connections="cold", users=[1, 2], turns=1, limit_ms=5)

    def work(name: str, **kinds: Any) -> str:
        return str(facts_of(tmp_path / name, **kinds)["phases"]["x"]["work"])

    assert work("a") == work("b") == work("c", load=opened) == work("d", stamps=[(50, 90)] * 12) != ""
    assert work("e", seeds=(7, 9)) != work("a")
    assert work("f", seeds=(7, 8, 9)) != work("a")
    assert work("g", load=timed) == work("h", load=steps) == ""


def test_dropped_starts_are_no_work(tmp_path: Path) -> None:
    found = facts_of(tmp_path / "some", seeds=(7, 8, 9), dropped=(2,))["phases"]["x"]
    assert found["tokens_due"] == 24
    assert found["work"] == facts_of(tmp_path / "all")["phases"]["x"]["work"]


def test_chunks_of_a_server_that_has_no_schedule_are_kept_as_they_came(tmp_path: Path) -> None:
    """Also of one that was asked again for what comes after its third chunk, by an id that is none of ours."""
    own = Scenario(
        name="own",
        title="own",
        arms={"a": Arm(protocol="sse", stack="aiohttp", command="gateway {port}")},
        profiles={"p": PROFILE},
        phases={"x": Closed(profile="p", connections="cold", users=1, turns=1)},
        contrasts={},
    )
    log = RawLog(tmp_path)
    for attempt, texts in enumerate((["a", "b", "c"], ["d", "e"], [])):
        record = StreamRecord(attempt + 1, "x", 0, True, 0, 7, True, 1, attempt=attempt, completion_id="cmpl-1")
        record.outcome, record.text, record.chunks = "truncated", "\x1f".join(texts), len(texts)
        record.resumed_from = 3 if attempt else -1
        log.ended(record, array("q", [TAKEN_UP + attempt]), array("I", [len(texts)]))
    log.close()
    facts: dict[str, Any] = {"arm": "a", "block": 1, "trial": 1, "position": 1, "phases": {"x": {}}}
    write_trial(tmp_path, tmp_path / "t.parquet", own, facts)
    frame = read_trial(tmp_path / "t.parquet")
    came = frame[frame["chunk"].notna()]
    assert came[["attempt", "chunk", "tokens"]].to_numpy().tolist() == [
        [0, 0, 1],
        [0, 1, 1],
        [0, 2, 1],
        [1, 3, 1],
        [1, 4, 1],
    ]
    assert list(came["received_ns"]) == [TAKEN_UP] * 3 + [TAKEN_UP + 1] * 2
    assert list(frame["attempt"]) == [0, 0, 0, 1, 1, 2]
    assert frame[["due_ns", "written_ns", "taken_up_ns"]].isna().all().all()
    phase = facts["phases"]["x"]
    assert (phase["tokens"], phase["work"], phase["write_pace"]) == (5, "", -1)
    assert {facts["log_torn"], facts["schedule_mismatches"], *(phase[n] for n in ("tokens_due", "unlogged"))} == {None}


def test_a_completion_that_goes_by_another_id_is_found_by_its_seed(tmp_path: Path) -> None:
    """Two streams of one seed, one after the other: each has what the server took up while it was under way."""
    seed = 41
    plan = schedule(PROFILE, seed)
    emissions, log = EmissionLog(tmp_path / EMISSIONS_FILES.format(0)), RawLog(tmp_path)
    for attempt, name in enumerate(("gw-1", completion_id("p", 99, 0))):  # the second looks like one of ours
        asked = TAKEN_UP + attempt * 10**9
        stream = emissions.open(completion_id("p", seed, attempt), asked + 5, 0)
        for ordinal, due in enumerate(plan.due_ns):
            emissions.token(stream, ordinal, asked + 5 + due, asked + 6 + due)
        emissions.close_stream(stream, asked + 10**8, Ended.COMPLETE)
        record = StreamRecord(attempt + 1, "x", 0, True, attempt, seed, True, 1, completion_id=name)
        record.outcome, record.text, record.chunks = "complete", "\x1f".join(plan.texts), 12
        record.requested_ns, record.ended_ns = asked, asked + 2 * 10**8
        log.ended(record, array("q", [asked + 10**8 + n for n in range(12)]), array("I", [1] * 12))
    log.close()
    emissions.close()
    facts: dict[str, Any] = {"arm": "a", "block": 1, "trial": 1, "position": 1, "phases": {"x": {}}}
    write_trial(tmp_path, tmp_path / "t.parquet", SCENARIO, facts)
    frame = read_trial(tmp_path / "t.parquet")
    assert list(frame.drop_duplicates("stream")["taken_up_ns"]) == [TAKEN_UP + 5, TAKEN_UP + 10**9 + 5]
    assert frame["written_ns"].notna().all()
    assert (facts["phases"]["x"]["unlogged"], facts["schedule_mismatches"]) == (0, 0)
