"""Raw logs joined: what was lost, repeated or cut is counted exactly, and every stamp lands on its own chunk."""

from __future__ import annotations

from array import array
from pathlib import Path

import pandas as pd
import pytest

from bench.join import EMISSIONS_FILE, write_trial
from bench.rawlog import RawLog, StreamRecord
from bench.record import read_trial
from bench.scenario import Arm, Closed, Scenario
from servers.emission_log import EmissionLog, Ended
from servers.emitter import Constant, Fixed, Profile, completion_id, schedule

PROFILE = Profile(first=Constant(ms=1), gap=Constant(ms=1), length=Fixed(tokens=12))
SCENARIO = Scenario(
    name="join",
    title="join",
    arms={"a": Arm(protocol="sse", stack="aiohttp")},
    profiles={"p": PROFILE},
    phases={"x": Closed(profile="p", connections="cold", users=1, turns=1)},
)
TAKEN_UP = 1_000_000_000


def joined(folder: Path, got: list[int], outcome: str, handed: int) -> tuple[pd.DataFrame, dict[str, object]]:
    """One stream: the server handed over the first `handed` chunks; those numbered `got` came, each in its own read.

    Read number n of the stream is stamped n ns after the base, so that a stamp tells which read it was.
    """
    seed = 100_000_000_000_007
    plan = schedule(PROFILE, seed)
    name = completion_id("p", seed, 0)
    emissions = EmissionLog(folder / EMISSIONS_FILE)
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
    facts: dict[str, object] = {"arm": "a", "block": 1, "trial": 1, "position": 1, "phases": {"x": {}}}
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
    assert facts["phases"] == {"x": {"tokens": len(set(got))}}
    arrived = frame.dropna(subset=["received_ns"])
    first_read = {chunk: got.index(chunk) for chunk in set(got)}
    came = dict(zip(arrived["chunk"].astype(int), (arrived["received_ns"] - 2 * TAKEN_UP).astype(int), strict=True))
    if not repeated:  # of two copies either may be the one that counts
        assert came == first_read
    assert set(came) == set(got)
    assert frame["written_ns"].notna().sum() == handed
