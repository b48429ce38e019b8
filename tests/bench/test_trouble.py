"""One block with everything that can go wrong, on every protocol, in the clear and over TLS: every count is exact.

Seeds decide which streams are met, so the same streams are on every arm.
"""

from __future__ import annotations

import tomllib
from typing import Any

import pandas as pd
import pytest

from bench.drivers.plan import Said
from bench.record import read_trial
from bench.scenario_toml import check
from bench.trial import Place, run_block

ARMS = ("sse", "sse-tls", "ws", "ws-tls")
USERS, TOKENS = 12, 20

SCENARIO = f"""
title = "everything that can go wrong"
[arms.sse]
protocol = "sse"
stack = "aiohttp"
[arms.sse-tls]
protocol = "sse"
stack = "roofline"
tls = true
[arms.ws]
protocol = "websocket"
stack = "aiohttp"
[arms.ws-tls]
protocol = "websocket"
stack = "websockets"
tls = true
[timeouts]
gap_s = 0.4
[phases.reset]
load = "closed"
users = {USERS}
turns = 1
connections = "warm"
profile = "reset"
fault = "reset"
retry = {{ delay_ms = 5, jitter = 0.5 }}
[phases.stall]
load = "closed"
users = {USERS}
turns = 1
connections = "cold"
resume_tls = true
profile = "stall"
fault = "stall"
retry = {{ delay_ms = 5, resume = false }}
[phases.busy]
load = "closed"
users = {USERS}
turns = 1
connections = "warm"
profile = "busy"
fault = "busy"
retry = {{ delay_ms = 5 }}
[phases.dead]
load = "closed"
users = {USERS}
turns = 1
connections = "warm"
profile = "dead"
restart = {{ after_s = 0.1, down_s = 0.1 }}
retry = {{ delay_ms = 20, backoff = 1.5, tries = 20 }}
[phases.leave]
load = "closed"
users = {USERS}
turns = 2
connections = "warm"
profile = "short"
leave = {{ by = "cancel", at = [2, 5] }}
[phases.slow]
load = "closed"
users = {USERS}
turns = 1
connections = "warm"
profile = "short"
slow = {{ bytes_per_s = 20000, share = 0.5 }}
[phases.crowd]
load = "crowd"
sizes = [10, 20, 40]
hold_s = 0.2
connections = "cold"
profile = "crowd"
[faults.reset]
kind = "reset"
share = 0.5
at = [3, 10]
[faults.stall]
kind = "stall"
share = 0.5
at = [3, 10]
[faults.busy]
kind = "http_503"
share = 0.5
wait_s = 0
attempts = 2
""" + "".join(
    f"""
[profiles.{name}]
first = {{ dist = "constant", ms = 10 }}
gap = {{ dist = "constant", ms = {gap} }}
length = {{ dist = "fixed", tokens = {TOKENS} }}
"""
    for name, gap in (("reset", 10), ("stall", 10), ("busy", 2), ("dead", 15), ("short", 5), ("crowd", 100))
)


def nobody(_place: Place, _said: Said) -> None:
    pass


class Ran:
    """One trial of the block."""

    def __init__(self, facts: dict[str, Any], frame: pd.DataFrame) -> None:
        self.facts = facts
        self.rows = frame[frame["window"].astype(bool)]
        self.attempts = self.rows.drop_duplicates("stream")

    def fates(self, phase: str) -> dict[tuple[int, str, str], int]:
        """Streams by attempt, outcome and reason."""
        own = self.attempts[self.attempts["phase"] == phase]
        counted = own.groupby(["attempt", "outcome", "reason"], observed=True).size()
        return {(int(key[0]), str(key[1]), str(key[2])): int(n) for key, n in counted.items()}

    def flaws(self, phase: str) -> tuple[int, ...]:
        own = self.attempts[self.attempts["phase"] == phase]
        return tuple(int(own[name].sum()) for name in ("lost", "repeated", "reordered", "corrupted"))

    def complete(self, phase: str) -> int:
        return sum(n for (_, outcome, _), n in self.fates(phase).items() if outcome == "complete")


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    scenario = check(tomllib.loads(SCENARIO), "test", "trouble")
    places = [Place(arm, 1, at + 1, at + 1) for at, arm in enumerate(ARMS)]
    trials = run_block(scenario, 5, places, tmp_path_factory.mktemp("trials"), None, nobody)
    return {trial.place.arm: Ran(trial.facts, read_trial(trial.path)) for trial in trials}


def test_all_arms_had_the_same_streams_met(block: dict[str, Ran]) -> None:
    for phase in ("reset", "stall", "leave", "slow", "crowd"):
        firsts = []
        for ran in block.values():
            own = ran.attempts[(ran.attempts["phase"] == phase) & (ran.attempts["attempt"] == 0)]
            firsts.append(sorted(zip(own["seed"], own["outcome"].astype(str), own["slow"], strict=True)))
        assert all(first == firsts[0] for first in firsts), phase


@pytest.mark.parametrize("arm", ARMS)
def test_a_reset_is_resumed_without_loss(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    fates = ran.fates("reset")
    broken = fates[0, "truncated", "reset"]
    assert 0 < broken < USERS
    assert fates == {
        (0, "complete", ""): USERS - broken,
        (0, "truncated", "reset"): broken,
        (1, "complete", ""): broken,
    }
    assert ran.flaws("reset") == (0, 0, 0, 0)
    again = ran.attempts[(ran.attempts["phase"] == "reset") & (ran.attempts["attempt"] == 1)]
    assert (again["resumed_from"] >= 0).all()
    assert set(ran.attempts[ran.attempts["reason"] == "reset"]["server_reason"]) == {"cut"}


@pytest.mark.parametrize("arm", ARMS)
def test_who_starts_again_gets_the_whole_again(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    fates = ran.fates("stall")
    broken = fates[0, "timed_out", "gap_timeout"]
    assert 0 < broken < USERS
    assert fates[1, "complete", ""] == broken
    again = ran.rows[(ran.rows["phase"] == "stall") & (ran.rows["attempt"] == 1)]
    assert again["received_ns"].notna().sum() == broken * TOKENS
    assert ran.flaws("stall") == (0, 0, 0, 0)


@pytest.mark.parametrize("arm", ARMS)
def test_a_busy_server_is_asked_until_it_serves(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    fates = ran.fates("busy")
    outcome = ("api_error", "error_event") if arm.startswith("ws") else ("http_error", "http_503")
    refused = fates[0, *outcome]
    assert 0 < refused < USERS
    assert fates[1, *outcome] == fates[2, "complete", ""] == refused
    assert ran.flaws("busy") == (0, 0, 0, 0)


@pytest.mark.parametrize("arm", ARMS)
def test_a_server_that_dies_and_comes_back_loses_nothing(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    facts = ran.facts["phases"]["dead"]
    assert ran.facts["restarts"] == 1
    assert ran.facts["server"]["died"] is None
    assert not ran.facts["log_torn"]
    assert facts["back_ns"] - facts["signalled_ns"] >= 100_000_000
    assert ran.fates("dead")[0, "truncated", "no_close_frame" if arm.startswith("ws") else "closed"] == USERS
    assert ran.complete("dead") == USERS
    assert ran.flaws("dead") == (0, 0, 0, 0)
    assert facts["unlogged"] == facts["backwards"] == 0
    assert facts["tokens"] == facts["tokens_due"] == USERS * TOKENS


@pytest.mark.parametrize("arm", ARMS)
def test_clients_leave_and_keep_the_connection_where_they_can_say_so(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    fates = ran.fates("leave")
    left = fates[0, "cancelled", "left"]
    assert fates == {(0, "complete", ""): 2 * USERS - left, (0, "cancelled", "left"): left}
    own = ran.attempts[ran.attempts["phase"] == "leave"]
    leavers = own[own["outcome"] == "cancelled"]
    assert (leavers["left_ns"] <= leavers["ended_ns"]).all()
    said = arm.startswith("ws")
    assert set(leavers["server_reason"]) == {"cancelled" if said else "client_gone"}
    assert bool(own["cold"].any()) is not said


@pytest.mark.parametrize("arm", ARMS)
def test_slow_clients_get_everything(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    assert ran.fates("slow") == {(0, "complete", ""): USERS}
    own = ran.attempts[ran.attempts["phase"] == "slow"]
    assert 0 < int(own["slow"].sum()) < USERS
    assert ran.flaws("slow") == (0, 0, 0, 0)


@pytest.mark.parametrize("arm", ARMS)
def test_a_crowd_is_held_at_every_size(block: dict[str, Ran], arm: str) -> None:
    ran = block[arm]
    held = ran.facts["phases"]["crowd"]["held"]
    assert [(one["size"], one["open"]) for one in held] == [(0, 0), (10, 10), (20, 20), (40, 40)]
    assert all(one["chunks"] > 0 for one in held[1:])
    assert ran.fates("crowd") == {(0, "cancelled", "left"): 40}
    rows = ran.rows[ran.rows["phase"] == "crowd"]
    assert rows["received_ns"].notna().sum() == rows[rows["written_ns"] < rows["left_ns"]]["written_ns"].notna().sum()


def test_tls_is_spoken_where_it_was_asked_for(block: dict[str, Ran]) -> None:
    for arm, ran in block.items():
        own = ran.attempts[ran.attempts["phase"] == "stall"]
        fresh = ran.attempts[ran.attempts["phase"] == "crowd"]
        assert own["secured_ns"].notna().all() == arm.endswith("tls")
        assert bool(own["tls_resumed"].any()) == arm.endswith("tls")
        assert not fresh["tls_resumed"].any()
