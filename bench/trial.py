"""One trial: a fresh server process and a driver process, started, watched, stopped, and their logs joined."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from bench.drivers.plan import Done, Hello, PhaseDone, Plan, Said, Tick
from bench.join import EMISSIONS_FILE, write_trial
from bench.scenario import PRIME, PRIME_PROFILE, Scenario

READY_S = 20.0
"""A server that has not said "ready" by then has failed."""
SILENCE_S = 30.0
"""A driver says something twice a second; one that is silent for this long has failed."""
WARM_UP_STREAMS = 20
"""Enough for a fresh server to have loaded what its first requests load; some of those take 10 ms longer."""
STOP_S = 5.0
"""From SIGTERM to SIGKILL."""

_PR_SET_PDEATHSIG = 1


class TrialError(Exception):
    """A trial that could not be carried out: the server or the driver failed. One line for the user."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that server and driver keep to; None where there is only one, or no way to say it."""

    server: list[int]
    driver: list[int]

    @classmethod
    def split(cls) -> Cores | None:
        """One core each, where this process may use at least two."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        cores = sorted(os.sched_getaffinity(0))
        return cls([cores[0]], [cores[1]]) if len(cores) > 1 else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial stands in its experiment: all counted from 1."""

    arm: str
    block: int
    trial: int
    position: int

    @property
    def file(self) -> str:
        """The name of its Parquet file."""
        return f"{self.block:03d}-{self.arm}.parquet"


def run_trial(
    scenario: Scenario, seed: int, place: Place, trials: Path, cores: Cores | None, heard: Callable[[Said], None]
) -> Path:
    """Run one trial and return its Parquet file, complete and on disk. `heard` is told what the driver says.

    Raises `TrialError`; leaves no process behind, whatever happens.
    """
    raw = trials / f".{place.file}.raw"
    shutil.rmtree(raw, ignore_errors=True)
    try:
        raw.mkdir(parents=True)
        facts = _carry_out(scenario, seed, place, raw, cores, heard)
        target = trials / place.file
        write_trial(raw, target, scenario, facts)
    except OSError as error:
        raise TrialError(f"{error.filename or trials}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        shutil.rmtree(raw, ignore_errors=True)
        raise
    shutil.rmtree(raw)
    return target


def _carry_out(
    scenario: Scenario, seed: int, place: Place, raw: Path, cores: Cores | None, heard: Callable[[Said], None]
) -> dict[str, Any]:
    """Start both processes, let the driver run its phases, and return what is known of the trial besides its logs."""
    arm = scenario.arms[place.arm]
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    settings = server_settings(scenario, place.arm, raw, cores)
    with _process(
        [sys.executable, "-m", "servers", arm.stack, "--config", str(_save(raw / "server.json", settings))],
        raw / "server.err",
    ) as server:
        ready = _await_ready(server, raw / "server.err")
        plan = Plan(
            scenario=scenario,
            arm=place.arm,
            host=ready["host"],
            port=ready["port"],
            server_pid=server.pid,
            seed=seed,
            folder=str(raw),
            warm_up=WARM_UP_STREAMS,
            compression=ready["settings"]["compression"][arm.protocol],
            cpus=cores.driver if cores else None,
        )
        plan_file = _save(raw / "plan.json", msgspec.to_builtins(plan))
        with _process([sys.executable, "-m", "bench.drivers.asyncio_", str(plan_file)], raw / "driver.err") as driver:
            hello, phases = _listen(driver, raw / "driver.err", heard)
        died = server.poll()
        _stop(server)
    return {
        "arm": place.arm,
        "block": place.block,
        "trial": place.trial,
        "position": place.position,
        "started_at": started_at,
        "server": {**{key: ready[key] for key in ("stack", "protocols", "versions", "settings")}, "died": died},
        "driver": {"versions": hello.versions, "loop": hello.loop, "gc": hello.gc, "timer": hello.timer},
        "phases": phases,
    }


def server_settings(scenario: Scenario, arm_name: str, raw: Path, cores: Cores | None) -> dict[str, Any]:
    """The configuration of an arm's server, as `python -m servers STACK --config` reads it."""
    arm = scenario.arms[arm_name]
    profiles = {**scenario.profiles, PRIME_PROFILE: PRIME}
    return {
        "mode": scenario.experiment.mode,
        "loop": arm.loop,
        "compression": arm.compression,
        "heartbeat_s": arm.heartbeat_s,
        "profiles": {name: msgspec.to_builtins(profile) for name, profile in profiles.items()},
        "log": str(raw / EMISSIONS_FILE),
        "cpus": cores.server if cores else None,
        "plant": None if arm.plant is None else msgspec.to_builtins(arm.plant),
    }


def _save(path: Path, content: Any) -> Path:
    path.write_bytes(msgspec.json.encode(content))
    return path


@contextlib.contextmanager
def _process(command: list[str], errors: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that is gone when the block is left, and that goes with this process should it be killed."""
    with open(errors, "wb") as stderr:
        # A session of its own: Ctrl-C in the terminal is for this process, which decides what becomes of the trial.
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        yield process
    finally:
        _stop(process)
        if process.stdout is not None:
            process.stdout.close()


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _lines(process: subprocess.Popen[bytes], silence_s: float) -> Iterator[bytes]:
    """The lines a child prints, until it closes its output. Raises `TimeoutError` after `silence_s` without any."""
    assert process.stdout is not None
    stream = process.stdout.fileno()
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        deadline = time.monotonic() + silence_s
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                raise TimeoutError
            data = os.read(stream, 65_536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            yield from lines
            deadline = time.monotonic() + silence_s


def _await_ready(server: subprocess.Popen[bytes], errors: Path) -> dict[str, Any]:
    try:
        for line in _lines(server, READY_S):
            ready: dict[str, Any] = json.loads(line)
            return ready
    except TimeoutError:
        raise TrialError(f"the server said nothing for {READY_S:.0f} s after its start{_last_words(errors)}") from None
    server.wait()
    raise TrialError(f"the server ended at its start with exit code {server.returncode}{_last_words(errors)}")


def _listen(
    driver: subprocess.Popen[bytes], errors: Path, heard: Callable[[Said], None]
) -> tuple[Hello, dict[str, Any]]:
    decode = msgspec.json.Decoder(Said).decode
    hello: Hello | None = None
    phases: dict[str, Any] = {}
    done: Done | None = None
    try:
        for line in _lines(driver, SILENCE_S):
            said = decode(line)
            match said:
                case Hello():
                    hello = said
                case PhaseDone():
                    phases[said.name] = msgspec.to_builtins(said.facts)
                case Done():
                    done = said
                case Tick():
                    pass
            heard(said)
    except TimeoutError:
        raise TrialError(f"the driver said nothing for {SILENCE_S:.0f} s{_last_words(errors)}") from None
    driver.wait()
    if hello is None or done is None:
        raise TrialError(f"the driver ended early with exit code {driver.returncode}{_last_words(errors)}")
    if done.stopped:
        raise TrialError("the driver was stopped by a signal before its trial was over")
    return hello, phases


def _last_words(errors: Path) -> str:
    lines = errors.read_text("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
