"""The server of a scenario, alone: what a load on other machines is pointed at.

Clients that know the scenario know the schedule of every stream, so that the model's own delay can be taken off.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from bench.scenario import OFFERS, Scenario
from bench.scenario_toml import ScenarioError, load
from bench.server_settings import server_settings

USAGE = 2


class _Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> NoReturn:
        _give_up(message)


def _give_up(message: object) -> NoReturn:
    print(f"tokenwire serve: {message}", file=sys.stderr)
    raise SystemExit(USAGE)


def parser() -> argparse.ArgumentParser:
    """The options of `tokenwire serve --scenario`."""
    found = _Parser(
        prog="tokenwire serve",
        usage="tokenwire serve --scenario NAME_OR_FILE [--arm ARM] [--host HOST] [--port PORT] [--log FILE]\n"
        "       tokenwire serve STACK [--host HOST] [--port PORT] [--config FILE]",
        description="Serve the mock LLM as a scenario has it, until SIGTERM or SIGINT.",
        epilog="Without --scenario, a STACK serves models of its own, or those of a file with settings in JSON. "
        f"STACK is one of {', '.join(OFFERS)}.",
        allow_abbrev=False,
    )
    found.add_argument("--scenario", required=True, metavar="NAME_OR_FILE", help="its profiles are the models")
    found.add_argument("--arm", help="whose stack and settings (the first of the scenario)")
    found.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    found.add_argument("--port", default="0", help="port to listen on; 0: the kernel chooses (%(default)s)")
    found.add_argument("--log", metavar="FILE", help="note there when each token was due and written (no log)")
    return found


def main(argv: Sequence[str]) -> NoReturn:
    """Become the server that `argv` asks for. Exits with 2 and one line on stderr when it cannot."""
    arguments = parser().parse_args(argv)
    try:
        scenario = load(arguments.scenario)
        arm = arm_of(scenario, arguments.arm, arguments.scenario)
    except ScenarioError as error:
        _give_up(error)
    if scenario.tls(arm):
        print(f"tokenwire serve: {arm} speaks TLS in {arguments.scenario}; served here without", file=sys.stderr)
    try:
        if arguments.log is not None:
            Path(arguments.log).touch()
    except OSError as error:
        _give_up(f"--log {arguments.log}: {error.strerror}; give a file that can be written")
    command = [sys.executable, "-m", "servers", scenario.arms[arm].stack]
    where = ["--host", arguments.host, "--port", arguments.port]
    try:
        config = _handed_on(server_settings(scenario, arm, None if arguments.log is None else Path(arguments.log)))
    except OSError as error:
        _give_up(f"the folder for temporary files: {error.strerror}; name one that can be written in TMPDIR")
    # In place of this process, as one that serves loads nothing else: it is then the server that trials run.
    os.execv(sys.executable, [*command, "--config", config, *where])


def arm_of(scenario: Scenario, arm: str | None, where: str) -> str:
    """The arm named, or else the first. Raises `ScenarioError` when there is none of that name."""
    if arm is not None and arm not in scenario.arms:
        raise ScenarioError(f"{where}: --arm {arm}: no such arm; allowed: {', '.join(scenario.arms)}")
    return arm or next(iter(scenario.arms))


def _handed_on(content: dict[str, Any]) -> str:
    """A path at which the process that replaces this one reads `content`, and that is gone when it ends."""
    with tempfile.TemporaryFile() as file:
        file.write(msgspec.json.encode(content))
        handed = os.dup(file.fileno())
    os.lseek(handed, 0, os.SEEK_SET)
    os.set_inheritable(handed, True)
    return f"/dev/fd/{handed}"
