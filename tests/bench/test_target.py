"""`tokenwire serve --scenario`: the server of a trial, alone, for clients that know the scenario."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.scenario import PRIME_PROFILE, Scenario
from bench.scenario_toml import ScenarioError, load
from bench.server_settings import server_settings
from bench.target import arm_of
from servers.emission_log import read_emissions
from servers.emitter import schedule

SERVE = [sys.executable, "-c", "from bench.cli import main; main()", "serve"]

SCENARIO = """
title = "What clients elsewhere ask for"
[arms.ws]
protocol = "websocket"
stack = "aiohttp"
loop = "asyncio"
[arms.lone]
protocol = "websocket"
stack = "websockets"
tls = true
[experiment]
mode = "as-deployed"
[faults.away]
kind = "http_503"
[phases.going]
load = "closed"
users = 2
turns = 2
connections = "cold"
profile = "short"
retry = {}
[phases.refused]
load = "closed"
users = 2
turns = 2
connections = "cold"
profile = "refused"
fault = "away"
[profiles.short]
first = { dist = "constant", ms = 0 }
gap = { dist = "constant", ms = 0 }
length = { dist = "uniform", min = 3, max = 9 }
[profiles.refused]
first = { dist = "constant", ms = 0 }
gap = { dist = "constant", ms = 0 }
length = { dist = "fixed", tokens = 4 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(SCENARIO)
    return path


class Target(NamedTuple):
    process: subprocess.Popen[str]
    ready: dict[str, Any]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """One bare request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ready["port"], timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def stream(self, model: str, seed: int) -> tuple[int, str]:
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": model, "seed": seed, "stream": True, "messages": messages}
        return self.ask("POST", "/v1/chat/completions", body)


@contextmanager
def serving(*arguments: object) -> Iterator[Target]:
    command = [*SERVE, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=10)[1]
        yield Target(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()


def texts(sse: str) -> list[str]:
    events = [json.loads(line[6:]) for line in sse.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return [delta["content"] for delta in deltas if delta.get("content")]


def test_it_serves_what_the_scenario_says(file: Path, tmp_path: Path) -> None:
    scenario, log = load(str(file)), tmp_path / "emissions.bin"
    with serving("--scenario", file, "--log", log) as target:
        in_force = target.ready["settings"]
        assert (target.ready["stack"], set(target.ready["protocols"])) == ("aiohttp", {"sse", "websocket"})
        assert (in_force["mode"], in_force["loop"], in_force["resumable"]) == ("as-deployed", "asyncio", ["short"])
        assert in_force["tls"] is None
        assert target.ask("GET", "/healthz")[0] == 200
        models = json.loads(target.ask("GET", "/v1/models")[1])["data"]
        assert {model["id"] for model in models} == {"short", "refused", PRIME_PROFILE}

        status, reply = target.stream("short", 7)
        assert status == 200
        assert texts(reply) == list(schedule(scenario.profiles["short"], 7).texts)
        assert "\nid: " in reply, "clients that resume need ids"
        assert target.stream("refused", 7)[0] == 503
        assert target.stream("chat", 7)[0] == 404, "no model of the built-in ones"

        target.process.terminate()
        out, err = target.process.communicate(timeout=10)
    assert (target.process.returncode, out) == (0, "")
    assert "listening" not in err, "loopback unless told otherwise"
    assert read_emissions(log)


def test_it_becomes_the_server_of_a_trial() -> None:
    """In the same process, so that a signal to the command reaches it."""
    with serving("--scenario", "duel", "--arm", "ws-websockets", "--port", 0) as target:
        assert target.ready["pid"] == target.process.pid
        assert target.ready["protocols"] == ["websocket"]


def test_settings_are_the_arms_without_log_cores_and_tls(file: Path) -> None:
    scenario = load(str(file), ["arms.lone.plant={ cpu_us = 5.0 }", "arms.lone.compression=true"])
    found = server_settings(scenario, "lone", None)
    assert not found.keys() & {"log", "cpus", "tls"}
    assert (found["compression"], found["plant"]["cpu_us"]) == (True, 5.0)
    assert server_settings(scenario, "ws", Path("emissions.bin"))["log"] == "emissions.bin"


def test_the_first_arm_unless_named(file: Path) -> None:
    scenario: Scenario = load(str(file))
    assert (arm_of(scenario, None, "own"), arm_of(scenario, "lone", "own")) == ("ws", "lone")
    with pytest.raises(ScenarioError, match=r"^own: --arm x: no such arm; allowed: ws, lone$"):
        arm_of(scenario, "x", "own")


def test_an_arm_with_tls_is_served_without_and_says_so(file: Path) -> None:
    with serving(f"--scenario={file}", "--arm", "lone") as target:
        assert target.ready["settings"]["tls"] is None
        target.process.terminate()
        _, err = target.process.communicate(timeout=10)
    assert err.splitlines()[0] == f"tokenwire serve: lone speaks TLS in {file}; served here without"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--scenario"], "argument --scenario: expected one argument"),
        (["--scenario", "dual"], "dual: no such scenario or file; did you mean 'duel'?"),
        (["--scenario", "duel", "--arm", "sse"], "duel: --arm sse: no such arm; allowed: sse-aiohttp, ws-aiohttp"),
        (
            ["--scenario", "duel", "--log", "/nowhere/at/all"],
            "--log /nowhere/at/all: No such file or directory; give a",
        ),
        (["--scenario", "duel", "--set", "title=x"], "unrecognized arguments: --set title=x"),
        (["--scenario", "duel", "--port", "70000"], "--port: 70000 is not 0 to 65535"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([*SERVE, *arguments], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert complaint in line


def test_help_names_both_ways() -> None:
    done = subprocess.run([*SERVE, "--help"], capture_output=True, text=True, timeout=20, check=True)
    assert "--scenario NAME_OR_FILE [--arm ARM]" in done.stdout
    assert "serve STACK" in done.stdout
