"""Servers as processes of their own, on ports the kernel chooses, and what their logs tell."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forked import Forked

from servers.appendlog import read
from servers.emission_log import CLOSED, IDENT, OPENED, RECORD

CHAT = "/v1/chat/completions"

PROFILES: dict[str, Any] = {
    "quick": {"first": {"dist": "constant", "ms": 4}, "gap": {"dist": "constant", "ms": 2},
              "length": {"dist": "fixed", "tokens": 12}, "text": "mixed"},
    "instant": {"first": {"dist": "constant", "ms": 0}, "gap": {"dist": "constant", "ms": 0},
                "length": {"dist": "fixed", "tokens": 64}, "text": "code"},
    "endless": {"first": {"dist": "constant", "ms": 0}, "gap": {"dist": "constant", "ms": 20},
                "length": {"dist": "fixed", "tokens": 5000}},
    "stalling": {"first": {"dist": "constant", "ms": 0}, "gap": {"dist": "constant", "ms": 60000},
                 "length": {"dist": "fixed", "tokens": 3}},
    "bundled": {"first": {"dist": "constant", "ms": 1}, "gap": {"dist": "constant", "ms": 1},
                "length": {"dist": "fixed", "tokens": 10}, "bundle": 4},
}  # fmt: skip


def started(arguments: list[str], forked: bool = True) -> subprocess.Popen[str] | Forked:
    """Run `python -m servers` with its output in pipes."""
    if forked:
        return Forked(arguments)
    command = [sys.executable, "-m", "servers", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Server:
    """A running server process: forked, or with an interpreter of its own."""

    def __init__(
        self, folder: Path, stack: str, settings: dict[str, Any], flags: Sequence[str] = (), forked: bool = True
    ) -> None:
        self.stack = stack
        self.log = folder / "emissions.bin"
        config = folder / "server.json"
        config.write_text(json.dumps({"profiles": PROFILES, "log": str(self.log)} | settings))
        self.process = started([stack, "--config", str(config), *flags], forked)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.ready: dict[str, Any] = json.loads(line)
        self.port: int = self.ready["port"]
        self.http = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}{CHAT}"

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Stop it and return its exit code and what else it printed."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err

    def streams(self) -> list[dict[str, Any]]:
        """What the emission log tells of each stream, in the order taken up."""
        return emissions(self.log)


def emissions(path: Path) -> list[dict[str, Any]]:
    """Read an emission log into one dict per stream."""
    found: dict[int, dict[str, Any]] = {}
    for stream, ordinal, a, b in struct.iter_unpack(RECORD, read(path, RECORD)):
        entry = found.setdefault(stream, {"tokens": [], "ended": None})
        if ordinal == OPENED:
            entry |= {"taken_up_ns": a, "attempt": b >> 32, "profile": b & 0xFFFF_FFFF}
        elif ordinal == IDENT:
            entry |= {"seed": a, "first": b}
        elif ordinal == CLOSED:
            assert entry["ended"] is None, "closed twice"
            entry |= {"ended_ns": a, "ended": b}
        else:
            assert entry["ended"] is None, "a token after the end"
            entry["tokens"].append((ordinal, a, b))
    return [found[stream] for stream in sorted(found)]


def body(model: str = "quick", **fields: Any) -> dict[str, Any]:
    """A request body."""
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "hello"}]} | fields
