"""What users get wrong on the command line: always one line that names it, and exit code 2, before anything runs.

Mistakes in the basic keys of a scenario are in test_scenario.py, broken records in test_metrics.py, broken requests and
server settings in tests/servers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from bench import experiment, netset_run
from bench.cli import app

SCENARIO = """
title = "all that can be made to go wrong"
[experiment]
networks = ["loopback", "line"]
[networks.line]
rtt_ms = 20
cut_every_s = 2
cut_ms = 100
[arms.sse]
protocol = "sse"
stack = "faulty"
[arms.ws]
protocol = "websocket"
stack = "faulty"
tls = true
[phases.broken]
load = "closed"
users = 2
turns = 2
connections = "warm"
profile = "a"
fault = "half"
retry = { delay_ms = 5 }
slow = { bytes_per_s = 20000, share = 0.5 }
leave = { share = 0.5, at = [2, 5], by = "cancel" }
[phases.dead]
load = "open"
rate = 10
duration_s = 2
connections = "cold"
profile = "b"
restart = { after_s = 0.5 }
[phases.crowd]
load = "crowd"
sizes = [2, 4]
hold_s = 0.2
connections = "cold"
profile = "c"
[faults.half]
kind = "half_frame"
at = [1, 3]
""" + "".join(
    f"""
[profiles.{name}]
first = {{ dist = "constant", ms = 1 }}
gap = {{ dist = "constant", ms = 1 }}
length = {{ dist = "fixed", tokens = 20 }}
"""
    for name in "abc"
)


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def accepted(*_: object, **__: object) -> NoReturn:
        pytest.fail("accepted")

    for module in (experiment, netset_run):
        monkeypatch.setattr(module, "run", accepted)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SCENARIO)
    return path


def refused(*arguments: str) -> str:
    """What the command says; it must refuse, in a line."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    line, *more = done.stderr.splitlines()
    assert not more
    assert line.startswith("tokenwire: ")
    return line.removeprefix("tokenwire: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("faults=3", "faults = 3: expected tables [faults.NAME], or none"),
        ("faults.half=3", "faults.half = 3: expected a table [...], got int"),
        ("faults.half.kind=3", "faults.half.kind = 3: expected str, got int"),
        ("faults.half.kind=stal", "faults.half.kind = 'stal': allowed: 'http_429', 'http_500', "),
        ("faults.half.share=0", "faults.half.share = 0: expected float > 0.0"),
        ("faults.half.share=nan", "faults.half.share = nan: expected float > 0.0"),
        ("faults.half.at=3", "faults.half.at = 3: expected array, got int"),
        ("faults.half.at=[3]", "faults.half.at = [3]: expected array of length 2, got 1"),
        ("faults.half.at=[3, 1]", "faults.half: at = [3, 1]: the first must not be above the second"),
        ("faults.half.at=[-1, 2]", "faults.half.at[0] = -1: expected int >= 0"),
        ("faults.half.wait_s=-1", "faults.half.wait_s = -1: expected float >= 0.0"),
        ("faults.half.attempts=1.5", "faults.half.attempts = 1.5: expected int, got float"),
        ("faults.half.byte=-1", "faults.half.byte = -1: expected int >= 0"),
        ("faults.half.when=3", "faults.half: unknown key 'when'; allowed: kind, share, at, wait_s, attempts, byte"),
        ("faults.more={}", "faults.more.kind: missing; it has to be given"),
        ("phases.broken.fault=haf", "phases.broken.fault: 'haf' is no fault here; did you mean 'half'? allowed: half"),
        ("phases.broken.fault={}", "phases.broken.fault = {}: expected str, got a table [...]"),
        (
            "arms.sse.stack=aiohttp",
            "phases.broken.fault: 'half_frame' needs stack 'faulty' on every arm, and 'sse' has 'aiohttp': ",
        ),
        (
            "faults.half.kind=wrong_accept",
            "phases.broken.fault: 'wrong_accept' meets every WebSocket handshake of the server, in every phase; ",
        ),
        (
            "phases.dead.profile=a",
            "phases.broken.profile = 'a': phase 'dead' uses it without the same fault and resuming; give one of them ",
        ),
        ("phases.broken.retry=true", "phases.broken.retry = True: expected a table [...], got bool"),
        ("phases.broken.retry.delay_ms=-1", "phases.broken.retry.delay_ms = -1: expected float >= 0.0"),
        ("phases.broken.retry.jitter=2", "phases.broken.retry.jitter = 2: expected float <= 1.0"),
        ("phases.broken.retry.backoff=0.5", "phases.broken.retry.backoff = 0.5: expected float >= 1.0"),
        ("phases.broken.retry.tries=0", "phases.broken.retry.tries = 0: expected int >= 1"),
        ("phases.broken.retry.most_ms=1", "phases.broken.retry: delay_ms = 5 is above most_ms = 1, which no wait "),
        ("phases.crowd.retry={}", "phases.crowd.retry: only phases of load 'closed' or 'open' take it"),
        ("phases.dead.restart={}", "phases.dead.restart.after_s: missing; it has to be given"),
        ("phases.dead.restart.after_s=0", "phases.dead.restart.after_s = 0: expected float > 0.0"),
        (
            "phases.dead.restart.after_s=2",
            "phases.dead.restart.after_s = 2: expected less than the phase's duration_s = 2, so that ",
        ),
        ("phases.dead.restart.down_s=-1", "phases.dead.restart.down_s = -1: expected float >= 0.0"),
        ("phases.dead.restart.signal=stop", "phases.dead.restart.signal = 'stop': allowed: 'kill', 'terminate'"),
        ("phases.dead.slices=2", "phases.dead.slices = 2: a phase with a restart is one slice"),
        ("phases.crowd.restart={after_s=0.1}", "phases.crowd.restart: only phases of load 'closed' or 'open' take it"),
        ("phases.broken.slow.share=0", "phases.broken.slow.share = 0: expected float > 0.0"),
        ("phases.broken.slow.bytes_per_s=1.5", "phases.broken.slow.bytes_per_s = 1.5: expected int, got float"),
        ("phases.broken.slow.bytes_per_s=1", "phases.broken.slow.bytes_per_s = 1: expected int >= 100"),
        ("phases.crowd.slow={}", "phases.crowd.slow: only phases of load 'closed' or 'open' take it"),
        ("phases.broken.leave.at=[5, 2]", "phases.broken.leave: at = [5, 2]: the first must not be above the second"),
        ("phases.broken.leave.at=[0, 2]", "phases.broken.leave.at[0] = 0: expected int >= 1"),
        ("phases.broken.leave.by=message", "phases.broken.leave.by = 'message': allowed: 'close', 'cancel'"),
        ("phases.crowd.leave={}", "phases.crowd.leave: only phases of load 'closed' or 'open' take it"),
        ("phases.crowd.sizes=[]", "phases.crowd.sizes = []: expected array of length >= 1"),
        ("phases.crowd.sizes=[4, 4]", "phases.crowd: sizes must grow"),
        ("phases.crowd.sizes=[99999]", "phases.crowd.sizes[0] = 99999: expected int <= 20000"),
        ("phases.crowd.hold_s=0", "phases.crowd.hold_s = 0: expected float > 0.0"),
        ("phases.crowd.connections=warm", "phases.crowd: a crowd takes connections = 'cold': each of its streams "),
        ("phases.crowd.users=3", "phases.crowd: unknown key 'users'; did you mean 'sizes'? allowed: load, sizes, "),
        ("phases.broken.load=crowd", "phases.broken: unknown key 'users'; did you mean 'sizes'? allowed: load, sizes"),
        ("phases.broken.resume_tls=yes", "phases.broken.resume_tls = 'yes': expected bool, got str"),
        ("arms.ws.tls=maybe", "arms.ws.tls = 'maybe': expected bool, got str"),
        ("arms.ws.tls={certificate='x'}", "arms.ws.tls = {'certificate': 'x'}: expected bool, got a table [...]"),
        ("experiment.tls=1", "experiment.tls = 1: expected bool, got int"),
        ("experiment.networks=line", "experiment.networks = 'line': expected array, got str"),
        ("experiment.networks=[]", "experiment.networks = []: expected array of length >= 1"),
        ('experiment.networks=["lin"]', "experiment.networks: 'lin' is no network; did you mean 'line'? allowed: "),
        ('experiment.networks=["line", "line"]', "experiment.networks: one is named twice; name each once"),
        ("experiment.network_by=magic", "experiment.network_by = 'magic': allowed: 'auto', 'packets', 'proxy'"),
        ("networks=[]", "networks = []: expected tables [networks.NAME], or none"),
        ("networks.line.rtt_ms=-1", "networks.line.rtt_ms = -1: expected float >= 0.0"),
        ("networks.line.rtt=1", "networks.line: unknown key 'rtt'; did you mean 'rtt_ms'? allowed: rtt_ms, "),
        ("networks.line.loss=0.9", "networks.line.loss = 0.9: expected float <= 0.5"),
        ("networks.line.cut_ms=0", "networks.line: cut_every_s = 2 and cut_ms = 0: expected both or neither, and a "),
        ("networks.line.cut_ms=2000", "networks.line: cut_every_s = 2 and cut_ms = 2000: expected both or neither, "),
        ("networks.l/ne={rtt_ms=1}", "'l/ne': names are 1 to 64 letters, digits, '-' and '_': files are named after "),
        ("title=", "title = '': expected one line of text"),
        ('title="a\\nb"', "title = 'a\\nb': expected one line of text"),
    ],
)
def test_what_is_to_go_wrong_can_be_wrong_itself(file: Path, override: str, message: str) -> None:
    assert refused("run", str(file), "--set", override).startswith(f"{file}: {message}")


def test_a_fault_that_no_arm_can_have(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("[arms.ws]")] + text[text.index("[phases.broken]") :])
    said = refused("run", str(file))
    assert said.startswith(f"{file}: phases.broken.fault: 'half_frame' only happens over websocket, which no arm ")


def test_a_fault_where_there_are_none(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("[faults.half]")] + text[text.index("[profiles.a]") :])
    said = refused("run", str(file))
    assert said == f"{file}: phases.broken.fault: 'half' is no fault here; give a table [faults.half]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run nope", "nope: no such scenario or file; give one of capacity, "),
        ("run dual", "dual: no such scenario or file; did you mean 'duel'? give one of "),
        ("run folder", "folder: no such scenario or file; give one of "),
        ("run broken.toml", "broken.toml: not a TOML file: "),
        ("run bytes.toml", "bytes.toml: not a TOML file: 'utf-8' codec can't decode byte 0xff in position 0: "),
        ("run empty.toml", "empty.toml: title: missing; one line that says what the scenario answers"),
        ("run duel --set x", "--set x: expected KEY=VALUE, such as phases.chat.users=500"),
        ("run duel --set a..b=1", "--set a..b=1: expected KEY=VALUE, such as phases.chat.users=500"),
        ("run duel --set title.x=1", "--set title.x: 'title' is a value, not a table"),
        (
            "run duel --set phases.chat.users=99999999999999999999",
            "duel.toml: phases.chat.users = 99999999999999999999",
        ),
        ("run duel --budget nan", "--budget nan: expected a time of up to a day, such as 90s, 5m or 1h"),
        ("run duel --budget 0", "--budget 0: expected a time of up to a day, such as 90s, 5m or 1h"),
        ("run duel --budget 5y", "--budget 5y: expected a time of up to a day, such as 90s, 5m or 1h"),
        ("run duel --results broken.toml", "broken.toml: cannot hold results: Not a directory; give a folder you "),
        (
            "run duel --resume folder",
            "--resume goes on with a run as it began: give neither a scenario, --set, --driver nor ",
        ),
        ("run --resume folder", "folder: no run here (run.json: No such file or directory); give a folder that `run` "),
        ("run --resume torn", "torn/run.json: not JSON: "),
        ("report nope", "nope: no run here (run.json: No such file or directory); give a folder that `run` made"),
        ("report broken.toml", "broken.toml: no run here (run.json: Not a directory); give a folder that `run` made"),
        ("report torn", "torn/run.json: not JSON: "),
        ("aa duel --arm sse", "duel: --arm sse: no such arm; "),
        ("aa nope", "nope: no such scenario or file; give one of "),
        ("aa duel --set timeouts.gap_s=0", "duel.toml: timeouts.gap_s = 0: expected float > 0.0"),
    ],
)
def test_commands_as_nobody_should_give_them(tmp_path: Path, arguments: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text("{")
    (tmp_path / "broken.toml").write_text("title = ")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "empty.toml").touch()
    assert refused(*arguments.split()).startswith(message)
