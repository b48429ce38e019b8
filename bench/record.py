"""A run on disk: run.json and one Parquet file per trial, one row per content chunk. `bench.join` makes the rows.

`docs/records.md` documents the columns. A file appears under its final name only when it is complete and on disk.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from servers.emitter import Profile

FORMAT = 1
"""Of the Parquet files and of run.json. Raised when a column changes its meaning."""
METADATA_KEY = b"tokenwire"
RUN_FILE = "run.json"
TRIALS = "trials"
ROOFLINE: Literal["roofline"] = "roofline"
"""The stack without a library; its trials are block 0."""

DICTIONARY = pa.dictionary(pa.int16(), pa.string())

DRIVER_STAMPS = (
    "intended_ns",
    "started_ns",
    "connected_ns",
    "secured_ns",
    "ready_ns",
    "requested_ns",
    "head_ns",
    "first_byte_ns",
    "left_ns",
    "ended_ns",
)
SIZES = (
    "first_sent_bytes",
    "first_received_bytes",
    "sent_bytes",
    "received_bytes",
    "head_bytes",
    "payload_bytes",
    "content_bytes",
    "text_bytes",
)
FLAGS = ("window", "slow", "cold", "tls_resumed")
FLAWS = ("lost", "repeated", "reordered", "corrupted")

SCHEMA = pa.schema(
    [
        pa.field("arm", DICTIONARY),
        pa.field("phase", DICTIONARY),
        pa.field("block", pa.int32()),
        pa.field("trial", pa.int32()),
        pa.field("position", pa.int32()),
        pa.field("step", pa.int32()),
        pa.field("window", pa.bool_()),
        pa.field("stream", pa.int32()),
        pa.field("ordinal", pa.int32()),
        pa.field("seed", pa.int64()),
        pa.field("completion_id", pa.string()),
        pa.field("attempt", pa.int32()),
        pa.field("resumed_from", pa.int32()),
        pa.field("slow", pa.bool_()),
        pa.field("cold", pa.bool_()),
        pa.field("tls_resumed", pa.bool_()),
        pa.field("outcome", DICTIONARY),
        pa.field("reason", DICTIONARY),
        pa.field("detail", pa.string()),
        *(pa.field(name, pa.int64()) for name in DRIVER_STAMPS),
        pa.field("taken_up_ns", pa.int64()),
        pa.field("server_ended_ns", pa.int64()),
        pa.field("server_reason", DICTIONARY),
        *(pa.field(name, pa.int64()) for name in SIZES),
        pa.field("segments", pa.int64()),
        *(pa.field(name, pa.int32()) for name in FLAWS),
        pa.field("chunk", pa.int32()),
        pa.field("tokens", pa.int32()),
        pa.field("due_ns", pa.int64()),
        pa.field("written_ns", pa.int64()),
        pa.field("received_ns", pa.int64()),
        pa.field("read", pa.int32()),
    ]
)
"""The columns of a trial's file; see `docs/records.md`."""
LATER: dict[str, Any] = {
    **dict.fromkeys(("segments", "secured_ns", "left_ns", "first_sent_bytes", "first_received_bytes")),
    "reason": "",
    "attempt": 0,
    "resumed_from": -1,
    "slow": False,
    "tls_resumed": False,
}
"""Columns that were not there at first, and what stands for them in a file from before."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial on disk."""

    path: Path
    facts: dict[str, Any]
    """Arm, block, position, versions, settings, and per phase the window, CPU, memory and lag."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk, as far as it came."""

    path: Path
    info: dict[str, Any]
    """run.json."""
    trials: list[Trial]
    warnings: list[str] = field(default_factory=list)
    """Files that could not be read, a line each."""
    roofline: list[Trial] = field(default_factory=list)
    """Trials of the stack without a library."""

    @property
    def void(self) -> set[int]:
        """The blocks that do not count."""
        return {int(entry["block"]) for entry in self.info.get("voids", ())}


class _Named(msgspec.Struct):
    protocol: str
    stack: str


class _Phase(msgspec.Struct):
    load: str
    profile: str
    connections: str


class _Experiment(msgspec.Struct):
    mode: str


class _Scenario(msgspec.Struct):
    name: str
    title: str
    arms: dict[str, _Named]
    profiles: dict[str, dict[str, Any]]
    phases: dict[str, _Phase]
    experiment: _Experiment


class _Void(msgspec.Struct):
    block: int
    why: str
    reasons: list[str]


class _Info(msgspec.Struct):
    """What a report needs of run.json."""

    tokenwire: str
    run: str
    created: datetime
    state: str
    scenario: _Scenario
    overrides: list[str]
    seed: int
    order: list[list[str]]
    machine: dict[str, Any]
    versions: dict[str, Any]
    pinning: dict[str, Any] | None
    source: str | None = None
    voids: list[_Void] = []
    spent_s: float = 0.0
    command: list[str] = msgspec.field(default_factory=lambda: ["run"])
    floors: dict[str, float] = {}


class _Window(msgspec.Struct):
    window_start_ns: int
    window_end_ns: int
    tokens: int
    server_cpu_ns: int
    driver_cpu_ns: int
    server_rss_start: int
    server_rss_peak: int
    peak_open: int


class _Facts(msgspec.Struct):
    """What a report needs of a trial's facts."""

    arm: str
    block: int
    trial: int
    server: dict[str, Any]
    phases: dict[str, _Window]


class _Foreign(ValueError):
    """A trial of another format, or of another scenario."""


class RecordError(Exception):
    """A run that cannot be read. The message is one line for the user."""


def read_run(path: Path) -> Run:
    """Read run.json and what its trials say of themselves. Unreadable trials become warnings.

    Of two files of one arm and block the one named as `run` names it is kept. Raises `RecordError` when there is no run
    at `path`.
    """
    info = _info(path)
    trials, warnings = [], []
    for file in sorted((path / TRIALS).glob("[!.]*.parquet")):
        try:
            trials.append(Trial(file, _facts(file, info["scenario"])))
        except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
            warnings.append(f"{file.name}: left out, {_why(error)}")
    places = {(t.facts["arm"], t.facts["block"]) for t in trials if t.path.name == _name(t)}
    once: dict[tuple[str, int], Trial] = {}
    for trial in trials:
        place = trial.facts["arm"], trial.facts["block"]
        if (place in places and trial.path.name != _name(trial)) or place in once:
            warnings.append(f"{trial.path.name}: left out, block {place[1]} has another file of {place[0]}")
        else:
            once[place] = trial
    trials = sorted(once.values(), key=lambda trial: int(trial.facts["trial"]))
    roofline = [trial for trial in trials if _of_roofline(trial.facts)]
    return Run(path, info, [trial for trial in trials if trial not in roofline], warnings, roofline)


def _of_roofline(facts: dict[str, Any]) -> bool:
    return facts["block"] == 0 and str(facts["arm"]).startswith(f"{ROOFLINE}-")


def _info(path: Path) -> dict[str, Any]:
    """run.json, with every key that a report needs. Raises `RecordError`."""
    file = path / RUN_FILE
    try:
        info = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise RecordError(
            f"{path}: no run here ({RUN_FILE}: {error.strerror}); give a folder that `run` made"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: not JSON: {error}") from None
    if not isinstance(info, dict):
        raise RecordError(f"{file}: not an object, so not of a run")
    if info.get("format") != FORMAT:
        raise RecordError(f"{file}: format {info.get('format')!r}; this version reads format {FORMAT}")
    try:
        msgspec.convert(info, _Info)
        for phase in info["scenario"]["phases"].values():
            msgspec.convert(info["scenario"]["profiles"][phase["profile"]], Profile)
    except msgspec.ValidationError as error:
        raise RecordError(f"{file}: {error}") from None
    except KeyError as error:
        raise RecordError(f"{file}: the scenario has no profile {error}") from None
    return info


def _name(trial: Trial) -> str:
    """The name under which `run` writes a trial."""
    return f"{trial.facts['block']:03d}-{trial.facts['arm']}.parquet"


def _facts(file: Path, scenario: dict[str, Any]) -> dict[str, Any]:
    """What a trial says of itself. Raises one of several errors when that is not of this format or of this scenario."""
    kept = json.loads((pq.read_schema(file).metadata or {})[METADATA_KEY])
    if kept["format"] != FORMAT:
        raise _Foreign(f"format {kept['format']!r}; this version reads format {FORMAT}")
    facts = kept["trial"]
    msgspec.convert(facts, _Facts)
    if facts["arm"] not in scenario["arms"] and not _of_roofline(facts):
        raise _Foreign(f"the scenario has no arm {facts['arm']!r}")
    strange = sorted(set(facts["phases"]) - set(scenario["phases"]))
    if strange:
        raise _Foreign(f"the scenario has no phase {strange[0]!r}")
    return dict(facts)


def _why(error: Exception) -> str:
    if isinstance(error, _Foreign):
        return str(error)
    return f"it cannot be read: {type(error).__name__}: {textwrap.shorten(str(error), 160, placeholder=' ...')}"


def read_trial(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One trial's rows, one per content chunk. Nullable integers come as pandas `Int64`/`Int32`.

    Raises `RecordError` when its pages cannot be read, which its metadata do not tell.
    """
    wanted = list(columns or SCHEMA.names)
    try:
        absent = [name for name in LATER if name in wanted and name not in pq.read_schema(path).names]
        table = pq.read_table(path, columns=[name for name in wanted if name not in absent])
        for name in absent:
            plain = pa.array([LATER[name]] * len(table), from_pandas=True)
            table = table.append_column(name, plain.cast(SCHEMA.field(name).type))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise RecordError(f"{path.name}: left out, {_why(error)}") from None
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}.get)
    return frame
