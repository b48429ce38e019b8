"""Scenario files: the shipped ones load, and every mistake is one line that says where, what and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import limits
from bench.scenario import Closed, Open, Steps
from bench.scenario_toml import ScenarioError, load, shipped
from servers.plant import Plant

MINIMAL = """
title = "one arm, one phase"
[arms.a]
protocol = "sse"
stack = "aiohttp"
[profiles.p]
first = { dist = "constant", ms = 1 }
gap = { dist = "constant", ms = 1 }
length = { dist = "fixed", tokens = 2 }
[phases.x]
load = "closed"
users = 1
turns = 1
connections = "cold"
profile = "p"
"""


@pytest.mark.parametrize("name", shipped())
def test_shipped_scenarios_load(name: str) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert {arm.protocol for arm in scenario.arms.values()} == {"sse", "websocket"}
    assert limits.check(scenario) == ""


def test_the_expected_scenarios_are_shipped() -> None:
    load_ = {"duel", "chat", "first-token", "firehose", "long-answer", "cjk", "capacity", "connect-storm", "warm-turns"}
    trouble = {"idle-crowd", "flaky", "restart-storm", "slow-readers", "leavers", "distance", "crosscheck", "gate"}
    assert set(shipped()) == load_ | trouble


def test_phases_keep_their_order_and_types() -> None:
    scenario = load("duel")
    assert [type(phase) for phase in scenario.phases.values()] == [Open, Closed, Closed, Closed]
    assert list(scenario.phases) == ["cold", "chat", "reconnect", "firehose"]
    assert isinstance(load("capacity").phases["capacity"], Steps)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    scenario = load(str(path), ["phases.x.users=7", "profiles.p.text=chinese", "experiment.mode=as-deployed"])
    assert scenario.name == "mine"
    assert scenario.phases["x"].users == 7  # type: ignore[union-attr]
    assert scenario.profiles["p"].text == "chinese"
    assert scenario.experiment.mode == "as-deployed"


def test_a_plant_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "planted.toml"
    path.write_text(MINIMAL.replace('stack = "aiohttp"', 'stack = "roofline"\nplant = { cpu_us = 1.0 }'))
    arm = load(str(path)).arms["a"]
    assert (arm.stack, arm.plant) == ("roofline", Plant(cpu_us=1.0))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("phases.chat.users=0", "duel.toml: phases.chat.users = 0: expected int >= 1"),
        ("phases.chat.users=abc", "duel.toml: phases.chat.users = 'abc': expected int, got str"),
        ("phases.chat.turns=2.5", "duel.toml: phases.chat.turns = 2.5: expected int, got float"),
        (
            "phases.chat.usres=3",
            "duel.toml: phases.chat: unknown key 'usres'; did you mean 'users'? "
            "allowed: load, users, turns, duration_s, think_s, ramp_s",
        ),
        (
            "phases.chta.users=3",
            "--set phases.chta.users: no 'phases.chta' in the scenario; did you mean 'chat'? "
            "allowed: cold, chat, reconnect, firehose",
        ),
        ("phases.chat.load=opne", "duel.toml: phases.chat.load = 'opne': allowed: 'closed', 'open', 'steps'"),
        (
            "arms.sse-aiohttp.protocol=http",
            "duel.toml: arms.sse-aiohttp.protocol = 'http': allowed: 'sse', 'websocket'",
        ),
        (
            "arms.sse-aiohttp.stack=websockets",
            "duel.toml: arms.sse-aiohttp: stack 'websockets' does not offer protocol 'sse'; it offers 'websocket'",
        ),
        (
            "profiles.chat.gap.dist=normal",
            "duel.toml: profiles.chat.gap.dist = 'normal': allowed: 'constant', 'exponential', 'lognormal', 'bursty'",
        ),
        ("profiles.chat.gap=3", "duel.toml: profiles.chat.gap = 3: expected a table [...], got int"),
        ("profiles.short.first.ms=nan", "duel.toml: profiles.short.first: ms must be a non-negative number, not nan"),
        (
            "profiles.chat.text=klingon",
            "duel.toml: profiles.chat: text must be one of english, chinese, code, emoji, mixed, not 'klingon'",
        ),
        ("phases.chat.profile=nope", "duel.toml: phases.chat.profile: 'nope' is no profile here; "),
        ("phases.chat.duration_s=3", "duel.toml: phases.chat: a closed load takes either turns or duration_s"),
        ("phases.cold.pool=3", "duel.toml: phases.cold: pool is for connections = 'warm'"),
        ("phases.cold.connections=warm", "duel.toml: phases.cold: an open load over warm connections needs pool >= 1"),
        ("experiment.mode=fair", "duel.toml: experiment.mode = 'fair': allowed: 'equal', 'as-deployed'"),
        ("experiment.blocks=0", "duel.toml: experiment.blocks = 0: expected int >= 1"),
        (
            "arms.ws-aiohttp.plant={split_writes=true}",
            "duel.toml: arms.ws-aiohttp: plant.split_writes = true needs protocol 'sse'",
        ),
        (
            "arms.sse-aiohttp.plant={cpu=1}",
            "duel.toml: arms.sse-aiohttp.plant: unknown key 'cpu'; did you mean 'cpu_us'? "
            "allowed: cpu_us, first_delay_ms, split_writes, drop_every",
        ),
        ("arms.sse-aiohttp.plant={cpu_us=-1}", "duel.toml: arms.sse-aiohttp.plant.cpu_us = -1: expected float >= 0.0"),
        ("timeouts.head_s=-1", "duel.toml: timeouts.head_s = -1: expected float > 0.0"),
        ("exp=3", "duel.toml: unknown key 'exp'; allowed: title, experiment, timeouts, arms, profiles, phases"),
        ("arms=3", "duel.toml: arms: at least one table [arms.NAME] is needed"),
        ("title=3", "duel.toml: title = 3: expected str, got int"),
        ("name=../../evil", "duel.toml: unknown key 'name'; allowed: title"),
        ("phases.cold.rate=1e-300", "duel.toml: phases.cold.rate = 1e-300: expected float >= 0.001"),
        ("phases.cold.rate=" + "[" * 3000, "duel.toml: phases.cold.rate = '[[["),
        ("profiles.chat.gap.sigma=1e308", "duel.toml: profiles.chat.gap: sigma must be at most 3, not 1e+308"),
        ("profiles.chat.step_ms=1e308", "duel.toml: profiles.chat: step_ms must be at most 3600000, not 1e+308"),
        ("nonsense", "--set nonsense: expected KEY=VALUE, such as phases.chat.users=500"),
        ("=3", "--set =3: expected KEY=VALUE, such as phases.chat.users=500"),
        ("title.x=3", "--set title.x: 'title' is a value, not a table"),
    ],
)
def test_a_mistake_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load("duel", [override])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_steps_must_grow() -> None:
    with pytest.raises(ScenarioError, match=r"capacity\.toml: phases\.capacity: users must grow from step to step"):
        load("capacity", ["phases.capacity.users=[3, 2]"])


def test_an_item_of_a_list_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"phases\.capacity\.users\[1\] = 'x': expected int, got str"):
        load("capacity", ['phases.capacity.users=[3, "x"]'])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("title = ", "not a TOML file"),
        (b"\xff\xfe", "not a TOML file"),
        (MINIMAL.replace('title = "one arm, one phase"', ""), "title: missing"),
        (MINIMAL.replace("turns = 1\n", ""), "phases.x: a closed load takes either turns or duration_s"),
        (MINIMAL.replace('profile = "p"\n', ""), "phases.x.profile: missing; it has to be given"),
        (MINIMAL.replace("[arms.a]", '[arms."../a"]'), "'../a': names are 1 to 64 letters, digits, '-' and '_'"),
        (MINIMAL.replace("profiles.p]", "profiles.prime]"), "profiles.prime: reserved"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScenarioError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_scenario_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match=r"dual: no such scenario or file; did you mean 'duel'\? give one of "):
        load("dual")


def test_what_the_makefile_overrides_can_be_overridden() -> None:
    lines = [
        line
        for line in (Path(__file__).parents[2] / "Makefile").read_text("utf-8").splitlines()
        if "tokenwire run duel" in line
    ]
    assert len(lines) == 2
    for line in lines:
        load("duel", re.findall(r"--set (\S+)", line))
