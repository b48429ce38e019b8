"""Arms x blocks: a block runs every arm once, side by side, and its trials are on disk before the next block begins."""

from __future__ import annotations

import fcntl
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench import machine
from bench.drivers.plan import Said
from bench.files import write_whole
from bench.network import between
from bench.order import block_order
from bench.precision import Precision, Width
from bench.record import FORMAT, ROOFLINE, RUN_FILE, TRIALS, RecordError, Trial, read_run
from bench.scenario import Arm, Scenario
from bench.scenario_toml import find
from bench.trial import Cores, Place, TrialError, run_block
from bench.validity import breaches, reasons, voided_too_many

VERSIONS_OF = ("aiohttp", "websockets", "uvloop", "httptools", "msgspec", "pandas", "scipy", "pyarrow", "matplotlib")
RESUMABLE = ("running", "interrupted", "failed")


class Watcher(Protocol):
    """Who is told how an experiment goes."""

    def begins(self, block: int, places: Sequence[Place]) -> None:
        """A block is about to start; 0 is the roofline's."""

    def heard(self, place: Place, said: Said) -> None:
        """A driver said something."""

    def ended(self, block: int, reasons: Sequence[str], widths: Sequence[Width]) -> None:
        """A block is on disk, void for these reasons; and how wide the intervals are by now."""

    def stopping(self) -> None:
        """The user asked to stop; the block under way is finished first."""


def new_folder(results: Path, scenario: Scenario) -> Path:
    """Make and return the folder of a new run: results/<scenario>-<date>-<time>. Raises `OSError`."""
    stem = f"{scenario.name}-{datetime.now():%Y%m%d-%H%M%S}"
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        path = results / (stem + suffix)
        try:
            (path / TRIALS).mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "a hundred runs of this name in one second", str(results / stem))


def run(
    scenario: Scenario,
    named: str,
    overrides: Sequence[str],
    folder: Path,
    watcher: Watcher,
    *,
    command: Sequence[str] = ("run",),
    floors: Mapping[str, float] | None = None,
) -> str:
    """Run the whole experiment into `folder`; `named` is the scenario as the user named it.

    `command` is what does so, with its own options, and `floors` what is known of the noise, both for the record.
    Returns the state it ended in: `finished`, `interrupted`, or `invalid` when too many blocks were void. Ctrl-C lets
    the block under way finish; a second one, or SIGTERM, gives it up. Raises `TrialError` when a trial cannot be
    carried out; the blocks before it stay, and run.json says `failed`.
    """
    source = find(named)
    shutil.copyfile(source, folder / "scenario.toml")
    info: dict[str, Any] = {
        "format": FORMAT,
        "tokenwire": version("tokenwire"),
        "revision": machine.revision(),
        "run": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": "running",
        "scenario": msgspec.to_builtins(scenario),
        "source": named,
        "overrides": list(overrides),
        "command": list(command),
        "floors": dict(floors or {}),
        "seed": scenario.experiment.seed,
        "order": [],
        "voids": [],
        "spent_s": 0.0,
        "machine": machine.describe(),
        "versions": {name: version(name) for name in VERSIONS_OF},
        "pinning": None,
        "network": _network(scenario),
    }
    with _held(folder):
        return _Course(scenario, info, folder, watcher).go_on()


def resume(folder: Path, watched: Callable[[Scenario], AbstractContextManager[Watcher]]) -> str:
    """Go on with a run that was interrupted, killed or failed; a block that is not whole is void and runs again.

    Returns and raises like `run`. Raises `RecordError` when there is no such run, or none to go on with.
    """
    with _held(folder):
        run_ = read_run(folder)
        info = run_.info
        if info["state"] not in RESUMABLE:
            raise RecordError(f"{folder}: the run is {info['state']}; only {', '.join(RESUMABLE)} ones can go on")
        here = {"machine": machine.describe(), "tokenwire": version("tokenwire")}
        for what, mine in here.items():
            if info[what] != mine:
                raise RecordError(
                    f"{folder}: another {what} began this run; its trials cannot be compared with new ones"
                )
        scenario = msgspec.convert(info["scenario"], Scenario)
        began, mine = info.get("network"), _network(scenario)
        if began not in (None, mine):
            raise RecordError(f"{folder}: began over {began} and would go on over {mine}; start a new run")
        with watched(scenario) as watcher:
            course = _Course(scenario, info, folder, watcher)
            course.take_up(run_.trials)
            return course.go_on()


def _network(scenario: Scenario) -> str:
    """What lies between server and driver: the name of the network, and how it is made."""
    name = scenario.experiment.networks[0]
    return f"{name} ({between.kind_of(scenario.network(name), scenario.experiment.network_by)})"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep a second process out of a run while this one adds to it. Raises `RecordError` when one is at it."""
    if not folder.is_dir():
        raise RecordError(f"{folder}: no run here; give a folder that `run` made")
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecordError(f"{folder}: another process is running it; wait until it has ended") from None
        yield


class _Course:
    """An experiment on its way: run.json, the blocks so far, and when it is enough."""

    def __init__(self, scenario: Scenario, info: dict[str, Any], folder: Path, watcher: Watcher) -> None:
        self._scenario, self._info, self._folder, self._watcher = scenario, info, folder, watcher
        self._plain = info["scenario"]
        self._precision = Precision(scenario)
        self._cores = Cores.split()
        self._longest_s = 0.0
        cores = self._cores
        info["pinning"] = {"server": cores.server, "driver": cores.driver} if cores else None
        self._save("running")

    def _save(self, state: str) -> str:
        self._info["state"] = state
        write_whole(self._folder / RUN_FILE, msgspec.json.format(msgspec.json.encode(self._info), indent=1))
        return state

    def take_up(self, trials: Sequence[Trial]) -> None:
        """Take in the blocks that are there; those not whole are void."""
        void = {entry["block"] for entry in self._info["voids"]}
        for block in range(1, len(self._info["order"]) + 1):
            own = [trial for trial in trials if trial.facts["block"] == block]
            if block in void:
                continue
            if {trial.facts["arm"] for trial in own} == set(self._scenario.arms):
                self._precision.add(own)
            else:
                self._void(block, "interrupted", ["the run was stopped in it"])

    def _void(self, block: int, why: str, reasons: list[str]) -> None:
        self._info["voids"].append({"block": block, "why": why, "reasons": reasons})

    def go_on(self) -> str:
        """Run blocks until it is enough; return the state."""
        raise_file_limit()
        try:
            with _stop_requested(self._watcher.stopping) as stop:
                if self._scenario.experiment.roofline and not self._has_roofline():
                    self._roofline()
                while not stop():
                    if self._too_many_void():
                        return self._save("invalid")
                    if self._enough():
                        return self._save("finished")
                    self._block()
                return self._save("finished" if self._enough() else "interrupted")
        except TrialError:
            self._save("failed")
            raise
        except KeyboardInterrupt:
            return self._save("interrupted")

    def _enough(self) -> bool:
        wanted = self._scenario.experiment
        if wanted.budget_s is None:
            return self._precision.blocks >= wanted.blocks
        over = self._precision.blocks > 0 and self._info["spent_s"] + self._longest_s > wanted.budget_s
        return over or self._precision.narrow

    def _too_many_void(self) -> bool:
        voided = sum(entry["why"] == "validity" for entry in self._info["voids"])
        wanted = self._scenario.experiment
        planned = wanted.blocks if wanted.budget_s is None else self._precision.blocks + voided
        return voided_too_many(voided, planned, wanted.most_void)

    def _block(self) -> None:
        block = len(self._info["order"]) + 1
        arms, contrasts = list(self._scenario.arms), list(self._scenario.contrasts.values())
        order = block_order(arms, block, self._info["seed"], contrasts)
        self._info["order"].append(order)
        self._save("running")
        first = (block - 1) * len(order) + 1
        places = [Place(arm, block, first + at, at + 1) for at, arm in enumerate(order)]
        trials = self._carry_out(self._scenario, block, places)
        facts = [trial.facts for trial in trials]
        found = [
            breach
            for one in facts
            for breach in breaches(one, self._plain, [other for other in facts if other is not one])
        ]
        why = reasons(found)
        if why:
            self._void(block, "validity", why)
        else:
            self._precision.add(trials)
        self._save("running")
        self._watcher.ended(block, why, self._precision.widths())

    def _carry_out(self, scenario: Scenario, block: int, places: list[Place]) -> list[Trial]:
        began = time.monotonic()
        self._watcher.begins(block, places)
        trials = run_block(
            scenario, self._info["seed"], places, self._folder / TRIALS, self._cores, self._watcher.heard
        )
        took = time.monotonic() - began
        self._longest_s = max(self._longest_s, took if block else 0.0)
        self._info["spent_s"] += took
        return [Trial(trial.path, trial.facts) for trial in trials]

    def _has_roofline(self) -> bool:
        return any((self._folder / TRIALS).glob(f"000-{ROOFLINE}-*.parquet"))

    def _roofline(self) -> None:
        """Run each protocol once on the stack without a library: block 0, in no comparison."""
        arms = {f"{ROOFLINE}-{a.protocol}": Arm(a.protocol, ROOFLINE) for a in self._scenario.arms.values()}
        places = [Place(name, 0, 0, at + 1) for at, name in enumerate(arms)]
        # What is to go wrong has no ceiling.
        phases = {
            name: phase
            for name, phase in self._scenario.phases.items()
            if not (phase.fault or phase.restart or phase.slow or phase.leave)
        }
        if not phases:
            return
        self._carry_out(msgspec.structs.replace(self._scenario, arms=arms, phases=phases), 0, places)
        self._save("running")
        self._watcher.ended(0, [], [])


@contextmanager
def _stop_requested(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """While inside, the first Ctrl-C only makes the yielded function true; the next one interrupts."""
    asked = False

    def ask(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tell()

    previous = signal.signal(signal.SIGINT, ask)
    # A SIGTERM leaves no time for a trial to finish.
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, terminated)


def raise_file_limit() -> None:
    """Let this process and its children have as many descriptors as the system allows: a stream needs one on each side.

    The usual soft limit of 1,024 is for programs that use select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS says "unlimited" and means less
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
