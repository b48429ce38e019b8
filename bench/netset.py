"""A run over several networks on disk: `set.json`, and beside it an ordinary run per network in a folder of its name.

What set.json says is what was asked for. How far it came is for the runs themselves to say, as each can be gone on with
alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from bench.files import write_whole
from bench.network.profiles import Network
from bench.record import RUN_FILE, RecordError
from bench.scenario import Scenario

FORMAT = 1
SET_FILE = "set.json"
SCENARIO_FILE = "scenario.toml"

State: TypeAlias = Literal["running", "finished", "interrupted", "failed", "invalid"]
RunState: TypeAlias = Literal["running", "finished", "interrupted", "failed", "invalid", "not run"]
WORST_FIRST: tuple[State, ...] = ("running", "interrupted", "failed", "invalid", "finished")


class NetSet(msgspec.Struct, kw_only=True):
    """What set.json holds."""

    format: int = FORMAT
    tokenwire: str
    set: str
    created: str
    state: State
    """As it was when the set was last run."""
    source: str
    """What `run` was given: the name of a shipped scenario, or a path."""
    overrides: list[str]
    networks: list[str]
    """In the order in which they run."""
    scenario: Scenario
    """Whole: of all networks."""
    machine: dict[str, Any]
    floors: dict[str, dict[str, float]] = {}
    """By network and primary measure, what was known of the noise."""
    failures: dict[str, str] = {}
    """By network, why its run failed."""

    def network(self, name: str) -> Network:
        """One of the networks."""
        return self.scenario.network(name)


def is_set(folder: Path) -> bool:
    """Whether a folder is that of a set, rather than of one run."""
    return (folder / SET_FILE).is_file()


def write_set(folder: Path, netset: NetSet) -> None:
    """Write set.json, whole or not at all. Raises `OSError`."""
    write_whole(folder / SET_FILE, msgspec.json.format(msgspec.json.encode(netset), indent=1))


def read_set(folder: Path) -> NetSet:
    """Read set.json. Raises `RecordError`."""
    file = folder / SET_FILE
    try:
        kept = json.loads(file.read_bytes())
        if isinstance(kept, dict) and kept.get("format") != FORMAT:
            raise RecordError(f"{file}: format {kept.get('format')!r}; this version reads format {FORMAT}")
        return msgspec.convert(kept, NetSet)
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror}") from None
    except msgspec.ValidationError as error:
        raise RecordError(f"{file}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: not JSON: {error}") from None


def state_of(folder: Path, network: str) -> RunState:
    """How far the run over one network came. Raises `RecordError` where its run.json says nothing of the kind."""
    file = folder / network / RUN_FILE
    try:
        state: RunState = msgspec.convert(json.loads(file.read_bytes())["state"], RunState)
        return state
    except FileNotFoundError:
        return "not run"
    except OSError as error:
        raise RecordError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise RecordError(f"{file}: not of a run: {type(error).__name__}: {error}") from None


def worst(states: list[RunState]) -> State:
    """What a set comes to whose runs ended like this; one not run is as good as interrupted."""
    known = {"interrupted" if state == "not run" else state for state in states}
    return next(state for state in WORST_FIRST if state in known)
