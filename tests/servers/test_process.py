"""Starting a server: the ready line, settings, and complaints of one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from serving import Server, started

from servers.settings import SettingsError, read_settings


def run(*arguments: str, forked: bool = True) -> tuple[int, str]:
    """Run a server that cannot start; return its exit code and its one line on stderr."""
    process = started(list(arguments), forked)
    out, err = process.communicate(timeout=20)
    assert out == ""
    (line,) = err.splitlines()
    return process.returncode, line


def test_the_ready_line_tells_what_is_in_force(shared: Server) -> None:
    ready, settings = shared.ready, shared.ready["settings"]
    assert (ready["event"], ready["stack"], ready["host"]) == ("ready", shared.stack, "127.0.0.1")
    assert ready["pid"] == shared.process.pid
    assert "websocket" in ready["protocols"]
    library = "httptools" if shared.stack == "roofline" else shared.stack
    assert {"python", "uvloop", library} <= set(ready["versions"])
    assert (settings["mode"], settings["loop"], settings["nodelay"]) == ("equal", "uvloop", True)
    assert set(settings["write_limit"].values()) == {65536}
    assert not any(settings["compression"].values())
    assert not any(settings["heartbeat_s"].values())
    assert settings["access_log"] is False
    assert settings["gc"]["frozen"] is True


@pytest.mark.parametrize(("stack", "limit"), [("aiohttp", 262144), ("websockets", 32768)])
def test_as_deployed_is_what_each_library_documents(start: Start, stack: str, limit: int) -> None:
    settings = start(stack, mode="as-deployed", loop="asyncio", cpus=[0]).ready["settings"]
    assert settings["write_limit"]["websocket"] == limit
    assert settings["compression"]["websocket"] is True
    assert settings["heartbeat_s"]["websocket"] == (20 if stack == "websockets" else None)
    assert (settings["loop"], settings["cpus"]) == ("asyncio", [0])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tornado"], "invalid choice: 'tornado'"),
        ([], "required: STACK"),
        (["aiohttp", "--port", "x"], "--port: invalid int value: 'x'"),
        (["aiohttp", "--port", "70000"], "--port: 70000 is not 0 to 65535"),
        (["aiohttp", "--host", "256.0.0.1"], "--host 256.0.0.1"),
        (["aiohttp", "--config", "/nowhere.json"], "/nowhere.json: No such file"),
    ],
)
def test_bad_flags(arguments: list[str], complaint: str) -> None:
    code, line = run(*arguments)
    assert code == 2
    assert complaint in line


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = run("aiohttp", "--port", str(port), forked=False)
    assert code == 2
    assert f"--port {port}: Address already in use" in line


@pytest.mark.parametrize(("settings", "complaint"), [({"cpus": [9999]}, "cpus = [9999]"), ({"log": "/"}, "log = /")])
def test_what_the_machine_refuses(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "server.json"
    path.write_text(json.dumps(settings))
    code, line = run("aiohttp", "--config", str(path))
    assert code == 2
    assert f"{path}: {complaint}" in line


PROFILE = {"first": {"dist": "constant", "ms": 1}, "gap": {"dist": "constant", "ms": 1},
           "length": {"dist": "fixed", "tokens": 1}}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object, not []"),
        ('{"colour":1}', "colour: no such key, allowed are mode, loop"),
        ('{"mode":"fast"}', 'mode = "fast": must be one of equal, as-deployed'),
        ('{"max_streams":-1}', "max_streams = -1: Expected `int` >= 0"),
        ('{"write_limit":"64k"}', 'write_limit = "64k": Expected `int | null`, got `str`'),
        ('{"profiles":{}}', "profiles = {}: Expected `object` of length >= 1"),
        (json.dumps({"profiles": {"p": PROFILE | {"text": "latin"}}}), "text must be one of english"),
        (
            json.dumps({"profiles": {"p": PROFILE | {"gap": {"dist": "constant", "ms": "x"}}}}),
            'profiles.p.gap.ms = "x"',
        ),
        (json.dumps({"profiles": {"p": {}}}), "profiles.p = {}: Object missing required field `first`"),
    ],
)
def test_bad_settings(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "server.json"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_settings(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stack", "library", "foreign"),
    [
        ("aiohttp", "aiohttp", {"websockets"}),
        ("websockets", "websockets", {"aiohttp"}),
        ("roofline", "httptools", {"aiohttp", "websockets"}),
    ],
)
def test_only_what_the_stack_needs_is_imported(stack: str, library: str, foreign: set[str]) -> None:
    code = (
        "import sys, servers.__main__ as main, servers.stacks as stacks; stacks.load(sys.argv[1]);"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    found = set(subprocess.check_output([sys.executable, "-c", code, stack], text=True).split())
    assert library in found
    assert not found & {*foreign, "bench", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", "rich", "typer"}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_it_pins_itself(start: Start) -> None:
    server = start(cpus=[0])
    assert os.sched_getaffinity(server.process.pid) == {0}
