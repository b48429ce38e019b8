"""The trials of a block: a fresh server process and a driver process each, taking turns, watched, stopped, logs joined.

The speed of a machine that others share changes from one tenth of a second to the next, far more than arms differ. So
the trials of a block do not run one after another: all their processes are started, and slice by slice each in turn
does its work while the others sleep. What slows one then slows them all.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from bench.arrivals import derive_seed
from bench.certificate import Certificate, make
from bench.command import HOST, CommandError, Serving, die_with_parent, last_words, serving
from bench.drivers.plan import Back, Done, Hello, PhaseDone, Plan, Said, Signalled, Tick, Waits
from bench.join import EMISSIONS_FILES, write_trial
from bench.network import between
from bench.order import rounds
from bench.scenario import Arm, Scenario
from bench.server_settings import server_settings

READY_S = 20.0
"""A server that has not said "ready" by then has failed."""
SILENCE_S = 30.0
"""A driver says something twice a second; one that is silent for this long has failed."""
WARM_UP_STREAMS = 20
"""Enough for a fresh server to have loaded what its first requests load; some of those take 10 ms longer."""
STOP_S = 5.0
"""From SIGTERM to SIGKILL."""
TOLD = ("stack", "protocols", "versions", "settings")
"""What is kept of the line in which a server says that it is ready."""


class TrialError(Exception):
    """A trial that could not be carried out: the server or the driver failed. One line for the user.

    `arm` and `process` say whose and which of the two; they are empty where that is not known.
    """

    def __init__(self, message: str, arm: str = "", process: Literal["", "server", "driver"] = "") -> None:
        super().__init__(message)
        self.arm, self.process = arm, process


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that server and driver keep to; None where there is only one, or no way to say it."""

    server: list[int]
    driver: list[int]
    upstream: list[int] | None = None
    """What is behind a command keeps to these; None: to those of the server."""

    @classmethod
    def split(cls) -> Cores | None:
        """One core each, where this process may use at least two."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        cores = sorted(os.sched_getaffinity(0))
        third = [cores[2]] if len(cores) > 2 else None
        return cls([cores[0]], [cores[1]], third) if len(cores) > 1 else None

    def mock(self, arm: Arm) -> list[int]:
        """The cores of this project's server of an arm: those of the server, unless it is behind a command."""
        return self.server if arm.command is None or self.upstream is None else self.upstream

    def used_by(self, arm: Arm) -> list[int]:
        """All that a trial of an arm keeps to."""
        behind = self.upstream if arm.command is not None and arm.mocked and self.upstream else []
        return [*self.server, *self.driver, *behind]


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


class Trial(NamedTuple):
    """A trial that is over and on disk."""

    place: Place
    path: Path
    facts: dict[str, Any]


Heard: TypeAlias = Callable[[Place, Said], None]


def run_block(
    scenario: Scenario, seed: int, places: Sequence[Place], trials: Path, cores: Cores | None, heard: Heard
) -> list[Trial]:
    """Run the trials of one block side by side and return them, complete and on disk. `heard` is told what drivers say.

    Turns go round in the order of `places`. Raises `TrialError`; leaves no process behind, whatever happens.
    """
    raws = {place: trials / f".{place.file}.raw" for place in places}
    try:
        for raw in raws.values():
            shutil.rmtree(raw, ignore_errors=True)
            raw.mkdir(parents=True)
        facts = _take_turns(scenario, seed, raws, cores, heard)
        ended = []
        for place, raw in raws.items():
            write_trial(raw, trials / place.file, scenario, facts[place])
            ended.append(Trial(place, trials / place.file, facts[place]))
    except OSError as error:
        raise TrialError(f"{error.filename or trials}: {error.strerror or error}") from error
    except (between.NetworkError, subprocess.SubprocessError) as error:
        # The latter is what an error between fork and exec becomes, where a process enters its network.
        raise TrialError(str(error)) from None
    except KeyboardInterrupt:
        for raw in raws.values():
            shutil.rmtree(raw, ignore_errors=True)
        raise
    for raw in raws.values():
        shutil.rmtree(raw)
    return ended


def _take_turns(
    scenario: Scenario, seed: int, raws: Mapping[Place, Path], cores: Cores | None, heard: Heard
) -> dict[Place, dict[str, Any]]:
    """Start all processes, pass the turn around until every driver is done, and return the facts of each trial."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    restarts = sum(phase.restart is not None for phase in scenario.phases.values())
    with contextlib.ExitStack() as processes:
        certificate = _certificate(scenario, raws, processes)
        name = scenario.experiment.networks[0]
        # Other losses in every block, or all blocks would be one sample of the network.
        luck = derive_seed(seed, "network", next(iter(raws)).block)
        way = processes.enter_context(between.between(scenario.network(name), scenario.experiment.network_by, luck))
        first = {
            place: processes.enter_context(_server(scenario, place, raw, cores, certificate, way, 0))
            for place, raw in raws.items()
            if scenario.arms[place.arm].mocked
        }
        running = []
        for place, raw in raws.items():
            mine = [first[place]] if place in first else []
            told = [_await(server, "ready", raw / _errors(0), place) for server in mine]
            front = processes.enter_context(_front(scenario, place, raw, cores, told))
            ready = told[0] if front is None else _of_front(scenario.arms[place.arm], front, cores, told)
            pid = mine[0].pid if front is None else front.process.pid
            plan = _plan(scenario, seed, place, raw, cores, pid, ready, certificate, way)
            for number in range(1, restarts + 1):
                spare = _server(scenario, place, raw, cores, certificate, way, number, port=ready["port"])
                mine.append(processes.enter_context(spare))
                _await(mine[-1], "standby", raw / _errors(number), place)
            driver = processes.enter_context(_driver(plan, place, raw, way))
            running.append(_Running(place, mine, front, ready, driver, raw, heard))
        for one in running:
            one.listen()  # until it waits for its first turn
        active = {one.place.arm: one for one in running}
        turns = rounds(list(active), list(scenario.contrasts.values()))
        while active:
            for one in [active[arm] for arm in next(turns) if arm in active]:
                one.go_on()
            active = {arm: one for arm, one in active.items() if not one.over}
        shared = {"started_at": started_at, "network": {"name": name, **way.facts()}}
    return {one.place: one.facts() | shared for one in running}


def _certificate(scenario: Scenario, raws: Mapping[Place, Path], processes: contextlib.ExitStack) -> Certificate | None:
    """What the servers of a block show and its drivers trust, where any arm speaks TLS; gone with the block."""
    if not any(scenario.tls(place.arm) for place in raws):
        return None
    return make(Path(processes.enter_context(tempfile.TemporaryDirectory(prefix="tokenwire-"))))


def _plan(
    scenario: Scenario,
    seed: int,
    place: Place,
    raw: Path,
    cores: Cores | None,
    pid: int,
    ready: dict[str, Any],
    certificate: Certificate | None,
    way: between.Path,
) -> Plan:
    tls = certificate if scenario.tls(place.arm) else None
    host, port = way.reach(ready["host"], ready["port"])
    return Plan(
        scenario=scenario,
        arm=place.arm,
        host=host,
        port=port,
        server_pid=pid,
        seed=seed,
        folder=str(raw),
        warm_up=WARM_UP_STREAMS,
        compression=ready["settings"]["compression"][scenario.arms[place.arm].protocol],
        ca_file=str(tls.ca_file) if tls else "",
        server_name=tls.server_name if tls else "",
        cpus=cores.driver if cores else None,
        server_tree=scenario.arms[place.arm].command is not None,
        pinned=cores.used_by(scenario.arms[place.arm]) if cores else None,
    )


class _Running:
    """One trial under way: both its processes, and what its driver has said."""

    def __init__(
        self,
        place: Place,
        servers: Sequence[subprocess.Popen[bytes]],
        front: Serving | None,
        ready: dict[str, Any],
        driver: subprocess.Popen[bytes],
        raw: Path,
        heard: Heard,
    ) -> None:
        self.place = place
        self.over = False
        self._servers, self._restarts = servers, 0
        """The one that serves, and, waiting, those that take over from it in turn; none where only a command does."""
        self._front = front
        """The command that serves, before the server, if there is one."""
        self._ready, self._driver, self._raw, self._heard = ready, driver, raw, heard
        self._errors = raw / "driver.err"
        self._lines = _lines(driver, SILENCE_S)
        self._hello: Hello | None = None
        self._done: Done | None = None
        self._phases: dict[str, Any] = {}
        self._died: int | None = None

    def go_on(self) -> None:
        """Give the driver its turn, and return when it waits for the next or is done."""
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: its last words are read next
            self._driver.stdin.write(b"\n")
        self.listen()

    def listen(self) -> None:
        """Take in what the driver says until it waits, or has ended. Raises `TrialError` when it ended badly."""
        try:
            for line in self._lines:
                said = _decode(line)
                match said:
                    case Hello():
                        self._hello = said
                    case PhaseDone():
                        self._phases[said.name] = msgspec.to_builtins(said.facts)
                    case Done():
                        self._done = said
                    case Signalled():
                        self._bring_back(said.due_ns)
                    case Tick() | Waits():
                        pass
                self._heard(self.place, said)
                if isinstance(said, Waits):
                    return
        except TimeoutError:
            raise self._failed(f"the driver said nothing for {SILENCE_S:.0f} s{last_words(self._errors)}") from None
        self._ended()

    def _bring_back(self, due_ns: int) -> None:
        """Let the next server take over from one that was told to die, and tell the driver. Raises `TrialError`."""
        assert self._driver.stdin is not None
        _wait_or_kill(self._servers[self._restarts])
        time.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        self._restarts += 1
        spare = self._servers[self._restarts]
        assert spare.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: that is told next
            spare.stdin.write(b"\n")
        _await(spare, "ready", self._raw / _errors(self._restarts), self.place)
        with contextlib.suppress(BrokenPipeError):
            self._driver.stdin.write(msgspec.json.encode(Back(spare.pid, time.monotonic_ns())) + b"\n")

    def _ended(self) -> None:
        self.over = True
        self._driver.wait()
        if self._hello is None or self._done is None:
            code = self._driver.returncode
            raise self._failed(f"the driver ended early with exit code {code}{last_words(self._errors)}")
        if self._done.stopped:
            raise self._failed("the driver was stopped by a signal before its trial was over")
        ended = [server.poll() for server in self._servers[self._restarts :][:1]]
        if self._front is not None:
            ended.append(self._front.process.poll())
            self._front.stop()
        self._died = next((code for code in ended if code is not None), None)
        for server in self._servers:
            _stop(server)

    def _failed(self, message: str) -> TrialError:
        return TrialError(message, self.place.arm, "driver")

    def facts(self) -> dict[str, Any]:
        """What is known of the trial besides its logs."""
        assert self._hello is not None
        hello, ready = self._hello, self._ready
        return {
            "arm": self.place.arm,
            "block": self.place.block,
            "trial": self.place.trial,
            "position": self.place.position,
            "server": {**{k: ready[k] for k in (*TOLD, "upstream") if k in ready}, "died": self._died},
            "driver": {"versions": hello.versions, "loop": hello.loop, "gc": hello.gc, "timer": hello.timer},
            "restarts": self._restarts,
            "phases": self._phases,
        }


_decode = msgspec.json.Decoder(Said).decode


def _save(path: Path, content: Any) -> Path:
    path.write_bytes(msgspec.json.encode(content))
    return path


def _server(
    scenario: Scenario,
    place: Place,
    raw: Path,
    cores: Cores | None,
    certificate: Certificate | None,
    way: between.Path,
    number: int,
    port: int = 0,
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """The server of a trial, or, on a port that is given, one that waits to take over. Raises `TrialError`."""
    log = raw / EMISSIONS_FILES.format(number)
    arm = scenario.arms[place.arm]
    settings = server_settings(scenario, place.arm, log, cores.mock(arm) if cores else None, certificate)
    file = _save(raw / f"server-{number}.json", settings)
    python = sys.executable if arm.tree is None else arm.tree.python
    command = [python, "-m", "servers", arm.stack, "--config", str(file)]
    where = ["--host", way.server_host, "--port", str(port)]
    waiting = ["--standby"] if number else []
    folder = None if arm.tree is None else arm.tree.path
    return _process([*command, *where, *waiting], raw / _errors(number), way.enter_server, place, "server", folder)


@contextlib.contextmanager
def _front(
    scenario: Scenario, place: Place, raw: Path, cores: Cores | None, behind: Sequence[dict[str, Any]]
) -> Iterator[Serving | None]:
    """The command that serves an arm, if it has one, listening. `behind` is what the server behind it told, if any.

    Raises `TrialError`.
    """
    command = scenario.arms[place.arm].command
    if command is None:
        yield None
        return
    upstream = "".join(f"http://{told['host']}:{told['port']}/v1" for told in behind)
    pinned = cores.server if cores else None
    with contextlib.ExitStack() as stack:
        try:
            serves = stack.enter_context(serving(command, upstream, pinned, raw / "command.err", READY_S, STOP_S))
        except CommandError as error:
            raise TrialError(str(error), place.arm, "server") from None
        yield serves


def _of_front(arm: Arm, front: Serving, cores: Cores | None, behind: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is known of a command that listens: what one of this project's servers tells, as far as it goes."""
    return {
        "host": HOST,
        "port": front.port,
        "stack": "command",
        "protocols": [arm.protocol],
        "versions": {},
        "settings": {
            "command": arm.command,
            "compression": {arm.protocol: bool(arm.compression)},
            "cpus": cores.server if cores else None,
            "upstream": arm.stack if behind else None,
        },
        "upstream": {key: told[key] for told in behind for key in TOLD},
    }


def _errors(number: int) -> str:
    """The name of the file with what a server wrote to its standard error."""
    return f"server-{number}.err"


DRIVERS = {"asyncio": "bench.drivers.asyncio_", "locust": "bench.drivers.locust_"}
"""A scenario's word for a driver -> the module that runs as one."""


def _driver(
    plan: Plan, place: Place, raw: Path, way: between.Path
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    file = _save(raw / "plan.json", msgspec.to_builtins(plan))
    module = DRIVERS[plan.scenario.driver(plan.arm)]
    command = [sys.executable, "-m", module, str(file)]
    return _process(command, raw / "driver.err", way.enter_driver, place, "driver")


@contextlib.contextmanager
def _process(
    command: list[str],
    errors: Path,
    enter: Callable[[], None] | None,
    place: Place,
    which: Literal["server", "driver"],
    folder: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that is gone when the block is left, and that goes with this process should it be killed.

    `enter` brings it to its place on the network. In `folder`, if any, it finds its code, and nowhere else but in what
    its interpreter has installed. Raises `TrialError` when it cannot be started.
    """

    def before() -> None:
        if enter is not None:
            enter()
        die_with_parent()

    with open(errors, "wb") as stderr:
        # A session of its own: Ctrl-C in the terminal is for this process, which decides what becomes of the trial.
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=before,
                cwd=folder,
                env=None if folder is None else {**os.environ, "PYTHONPATH": folder},
            )
        except OSError as error:
            why = f"the {which} cannot be started: {error.filename or command[0]}: {error.strerror}"
            raise TrialError(why, place.arm, which) from error
    try:
        yield process
    finally:
        _stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        _wait_or_kill(process)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
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


def _await(server: subprocess.Popen[bytes], event: str, errors: Path, place: Place) -> dict[str, Any]:
    """The line in which a server says that it is "ready", or on "standby". Raises `TrialError`."""
    why = f"the server said nothing for {READY_S:.0f} s after its start"
    try:
        for line in _lines(server, READY_S):
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
        server.wait()
        why = f"the server ended at its start with exit code {server.returncode}"
    except TimeoutError:
        pass
    except (ValueError, KeyError, TypeError):
        why = f"the server said at its start what is no event: {line.decode('utf-8', 'replace')[:80]!r}"
    raise TrialError(why + last_words(errors), place.arm, "server")
