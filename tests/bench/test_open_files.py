"""What a scenario opens at once, against what this system allows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import limits
from bench.scenario import Crowd, Open, Scenario
from bench.scenario_toml import load, shipped


def crowd(largest: int) -> Scenario:
    scenario = load("idle-crowd", ["phases.crowd.sizes=[10,20]"])
    held = scenario.phases["crowd"]
    assert isinstance(held, Crowd)
    return msgspec.structs.replace(scenario, phases={"crowd": msgspec.structs.replace(held, sizes=[10, largest])})


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "open_files", lambda: 1024)
    monkeypatch.setattr(limits, "local_ports", lambda: 28_232)


def test_what_fits_is_let_through() -> None:
    assert limits.check(crowd(1024 - limits.RESERVE)) == ""


def test_too_few_files_are_explained_in_a_line() -> None:
    assert limits.check(crowd(1024 - limits.RESERVE + 1)) == (
        "phases.crowd.sizes = [..., 925]: 925 connections at once, and this system allows a process 1024 open files, "
        "of which 100 are for other things; raise that limit (`ulimit -Hn 1025` as root), or use at most 924"
    )


def test_too_few_ports_are_explained_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "open_files", lambda: None)
    monkeypatch.setattr(limits, "local_ports", lambda: 500)
    assert limits.check(crowd(501)) == (
        "phases.crowd.sizes = [..., 501]: 501 connections at once, and this system has 500 ports for connections to "
        "one server; widen net.ipv4.ip_local_port_range (sysctl), or use at most 500"
    )
    assert limits.check(crowd(500)) == ""


def test_what_a_system_does_not_tell_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "open_files", lambda: None)
    monkeypatch.setattr(limits, "local_ports", lambda: None)
    assert limits.check(crowd(20_000)) == ""


def test_every_load_says_what_it_opens() -> None:
    found = {
        name: {phase: limits.at_once(p, s.profiles[p.profile]) for phase, p in s.phases.items()}
        for name in shipped()
        for s in [load(name)]
    }
    assert found["capacity"]["capacity"] == ("users", "[..., 3200]", 3200)
    assert found["chat"]["chat"] == ("pool", "160", 160)
    assert found["firehose"]["many"] == ("users", "64", 64)
    assert found["idle-crowd"]["crowd"][2] == 2000


def test_an_open_load_without_a_pool_opens_its_rate_times_how_long_streams_last() -> None:
    scenario = load("chat")
    chat = scenario.phases["chat"]
    assert isinstance(chat, Open)
    cold = msgspec.structs.replace(chat, connections="cold", pool=0, rate=40.0)
    key, value, wanted = limits.at_once(cold, scenario.profiles["chat"])
    assert (key, value) == ("rate", "40")
    assert 40 * 1.5 < wanted < 40 * 4, "some two seconds each"
    capped = msgspec.structs.replace(cold, max_open=7)
    assert limits.at_once(capped, scenario.profiles["chat"])[2] == 7


@pytest.mark.skipif(not Path("/proc/sys/net/ipv4/ip_local_port_range").exists(), reason="Linux tells")
def test_this_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ports = limits.local_ports()
    assert ports is not None
    assert ports > 1
    files = limits.open_files()
    assert files is None or files > 3
