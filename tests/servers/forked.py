"""Servers forked from a process that has imported all they need: a start costs 20 ms of CPU instead of 600.

What only a start of its own shows, its imports and its flags, is for tests that run `python -m servers` itself.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import servers


class Forked:
    """A server process, with what `subprocess.Popen` has for one whose output goes to pipes."""

    def __init__(self, arguments: list[str]) -> None:
        out, out_end = os.pipe()
        status, status_end = os.pipe()
        self.stdout = os.fdopen(out)
        self._status = os.fdopen(status)
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.returncode: int | None = None
        ends = [out_end, self._stderr.fileno(), status_end]
        socket.send_fds(_nursery(), [json.dumps(arguments).encode()], ends)
        os.close(out_end)
        os.close(status_end)
        self.pid = int(self._status.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked server", timeout or 0)
            self.returncode = int(self._status.readline())
        return self.returncode

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and return what it printed and nobody read."""
        self.wait(timeout)
        if self.stdout.closed:
            return "", ""
        with self.stdout, self._stderr, self._status:
            self._stderr.seek(0)
            return self.stdout.read(), self._stderr.read()


@cache
def _nursery() -> socket.socket:
    """The way to the process that forks. It ends when this one does, and all its children with it."""
    here, there = socket.socketpair()
    root = Path(servers.__path__[0]).parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    with there:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py")), str(there.fileno())],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
        )
    atexit.register(process.wait, 10)
    atexit.register(here.close)
    return here
