"""A server that is any command: started on a port that was free, watched until it listens, stopped with all it started.

Nothing is asked of it but that it serves the chat completions API on 127.0.0.1, at the port it is given.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HOST = "127.0.0.1"
TRIES = 3
"""Ports tried, where another process takes them before the command does."""
LOOK_S = 0.01
"""How often it is looked whether the command listens."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class CommandError(Exception):
    """A command that cannot be started, or does not serve. One line for the user."""


@dataclass(slots=True)
class Serving:
    """A command that listens."""

    process: subprocess.Popen[bytes]
    port: int
    _stop_s: float
    _stopped: bool = False

    def stop(self) -> None:
        """End it and whatever it has started: SIGTERM for itself, and after its end SIGKILL for what is left."""
        if self._stopped:
            return  # by now its number may be another's
        self._stopped = True
        below: list[psutil.Process] = []
        process = self.process
        if process.poll() is None:
            with contextlib.suppress(psutil.Error):
                below = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._stop_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: where only zombies are left of it
            os.killpg(process.pid, signal.SIGKILL)
        for one in below:  # they may have left the group
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()


@contextlib.contextmanager
def serving(
    command: str, upstream: str, cores: Sequence[int] | None, errors: Path, ready_s: float, stop_s: float
) -> Iterator[Serving]:
    """The command, listening within `ready_s`; with all that it started it is gone when the block is left.

    `upstream` is the address that takes the place of {upstream}. What it writes to its standard error goes to `errors`;
    it keeps to `cores`, if any. From SIGTERM to SIGKILL it is given `stop_s`. Raises `CommandError`.
    """
    for tries_left in reversed(range(TRIES)):
        port = _free_port()
        words = [word.replace("{port}", str(port)).replace("{upstream}", upstream) for word in shlex.split(command)]
        process = _started(words, cores, errors)
        serves = Serving(process, port, stop_s)
        try:
            if _listens(process, port, ready_s):
                yield serves
                return
            if process.poll() is None:
                what = f"does not listen on port {port} of {HOST} within {ready_s:.0f} s of its start"
            elif tries_left and _was_taken(port, errors):
                continue
            else:
                what = f"ended at its start with exit code {process.returncode}"
            raise CommandError(f"the command {words[0]} {what}{last_words(errors)}")
        finally:
            serves.stop()


def die_with_parent() -> None:
    """Have the kernel kill this process should its parent die. For `preexec_fn`."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def last_words(errors: Path) -> str:
    """The last line of what a process wrote to its standard error, after a colon; nothing where there is none."""
    lines = errors.read_text("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _started(words: list[str], cores: Sequence[int] | None, errors: Path) -> subprocess.Popen[bytes]:
    def before() -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        if _libc is not None:
            # What a process leaves behind that it started is then the command's, to be counted and ended with it.
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        die_with_parent()

    with open(errors, "wb") as stderr:
        try:
            # A group of its own, to be ended together.
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=before,
            )
        except OSError as error:
            raise CommandError(f"the command {words[0]} cannot be started: {error.strerror}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _listens(process: subprocess.Popen[bytes], port: int, ready_s: float) -> bool:
    """Wait until a connection to the port succeeds; false when the process ends before, or the time is up."""
    deadline = time.monotonic() + ready_s
    while process.poll() is None and time.monotonic() < deadline:
        if _connects(port, max(LOOK_S, deadline - time.monotonic())):
            return process.poll() is None
        time.sleep(LOOK_S)
    return False


def _connects(port: int, within_s: float) -> bool:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        if probe.getsockname()[1] == port:
            return False  # it would succeed with itself
        probe.settimeout(within_s)
        return probe.connect_ex((HOST, port)) == 0


def _was_taken(port: int, errors: Path) -> bool:
    """Whether a command has ended because another process has its port, by the port or by what it said."""
    said = errors.read_text("utf-8", "replace").lower()
    return "in use" in said or "eaddrinuse" in said or _connects(port, 1.0)
