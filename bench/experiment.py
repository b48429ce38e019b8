"""Arms x blocks: every block runs each arm once, in random order, and every trial is on disk before the next begins."""

from __future__ import annotations

import random
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench import machine
from bench.drivers.plan import Said
from bench.files import write_whole
from bench.record import FORMAT, RUN_FILE, TRIALS
from bench.scenario import Scenario
from bench.scenario_toml import find
from bench.trial import Cores, Place, TrialError, run_trial

VERSIONS_OF = ("aiohttp", "websockets", "uvloop", "httptools", "msgspec", "pandas", "pyarrow", "matplotlib")


class Watcher(Protocol):
    """Who is told how an experiment goes."""

    def begins(self, place: Place) -> None:
        """A trial is about to start."""

    def heard(self, said: Said) -> None:
        """The driver said something."""

    def ended(self, place: Place) -> None:
        """A trial is on disk."""

    def stopping(self) -> None:
        """The user asked to stop; the trial under way is finished first."""


def block_orders(arms: Sequence[str], blocks: int, seed: int) -> list[list[str]]:
    """The order of the arms within each block, random but the same for the same seed."""
    rng = random.Random(seed)
    orders = []
    for _ in range(blocks):
        order = list(arms)
        rng.shuffle(order)
        orders.append(order)
    return orders


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


def run(scenario: Scenario, named: str, overrides: Sequence[str], folder: Path, watcher: Watcher) -> str:
    """Run the whole experiment into `folder`; `named` is the scenario as the user named it.

    Returns the state it ended in: `finished` or `interrupted`. Ctrl-C lets the trial under way finish; a second one, or
    SIGTERM, gives it up. Raises `TrialError` when a trial cannot be carried out; the trials before it stay, and
    run.json says `failed`.
    """
    orders = block_orders(list(scenario.arms), scenario.experiment.blocks, scenario.experiment.seed)
    cores = Cores.split()
    shutil.copyfile(find(named), folder / "scenario.toml")
    raise_file_limit()
    info: dict[str, Any] = {
        "format": FORMAT,
        "tokenwire": version("tokenwire"),
        "run": folder.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": "running",
        "scenario": msgspec.to_builtins(scenario),
        "source": named,
        "overrides": list(overrides),
        "seed": scenario.experiment.seed,
        "order": orders,
        "machine": machine.describe(),
        "versions": {name: version(name) for name in VERSIONS_OF},
        "pinning": {"server": cores.server, "driver": cores.driver} if cores else None,
    }

    def save(state: str) -> str:
        info["state"] = state
        write_whole(folder / RUN_FILE, msgspec.json.format(msgspec.json.encode(info), indent=1))
        return state

    save("running")
    places = [
        Place(arm, block, (block - 1) * len(order) + position, position)
        for block, order in enumerate(orders, 1)
        for position, arm in enumerate(order, 1)
    ]
    try:
        with _stop_requested(watcher.stopping) as stop:
            for place in places:
                if stop():
                    return save("interrupted")
                watcher.begins(place)
                run_trial(scenario, scenario.experiment.seed, place, folder / TRIALS, cores, watcher.heard)
                watcher.ended(place)
    except TrialError:
        save("failed")
        raise
    except KeyboardInterrupt:
        return save("interrupted")
    return save("finished")


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
