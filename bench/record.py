"""The raw logs of driver and server, joined per content chunk into one Parquet file per trial; and how to read it.

`docs/records.md` documents the columns. A file appears under its final name only when it is complete and on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.alignment import align
from bench.rawlog import READ, READ_DTYPE, READS_FILE, STREAMS_FILE, StreamRecord
from bench.scenario import PRIME, Scenario
from servers import appendlog
from servers.emission_log import CLOSED, DTYPE, IDENT, OPENED, Ended, read_emissions
from servers.emitter import completion_key, schedule

FORMAT = 1
"""Of the Parquet files and of run.json. Raised when a column changes its meaning."""
METADATA_KEY = b"tokenwire"
EMISSIONS_FILE = "emissions.bin"
RUN_FILE = "run.json"
TRIALS = "trials"

_NULL = np.iinfo(np.int64).min

_DICTIONARY = pa.dictionary(pa.int16(), pa.string())

SCHEMA = pa.schema(
    [
        pa.field("arm", _DICTIONARY),
        pa.field("phase", _DICTIONARY),
        pa.field("block", pa.int32()),
        pa.field("trial", pa.int32()),
        pa.field("position", pa.int32()),
        pa.field("step", pa.int32()),
        pa.field("window", pa.bool_()),
        pa.field("stream", pa.int32()),
        pa.field("ordinal", pa.int32()),
        pa.field("seed", pa.int64()),
        pa.field("completion_id", pa.string()),
        pa.field("cold", pa.bool_()),
        pa.field("outcome", _DICTIONARY),
        pa.field("detail", pa.string()),
        *(
            pa.field(name, pa.int64())
            for name in (
                "intended_ns",
                "started_ns",
                "connected_ns",
                "ready_ns",
                "requested_ns",
                "head_ns",
                "first_byte_ns",
                "taken_up_ns",
                "ended_ns",
                "server_ended_ns",
            )
        ),
        pa.field("server_reason", _DICTIONARY),
        *(
            pa.field(name, pa.int64())
            for name in (
                "sent_bytes",
                "received_bytes",
                "head_bytes",
                "payload_bytes",
                "content_bytes",
                "text_bytes",
            )
        ),
        *(pa.field(name, pa.int32()) for name in ("lost", "repeated", "reordered", "corrupted")),
        pa.field("chunk", pa.int32()),
        pa.field("tokens", pa.int32()),
        pa.field("due_ns", pa.int64()),
        pa.field("written_ns", pa.int64()),
        pa.field("received_ns", pa.int64()),
        pa.field("read", pa.int32()),
    ]
)
"""The columns of a trial's file; see `docs/records.md`."""


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


class RecordError(Exception):
    """A run that cannot be read. The message is one line for the user."""


def write_trial(folder: Path, target: Path, scenario: Scenario, facts: dict[str, Any]) -> None:
    """Join the raw logs in `folder` and write `target`. Adds `tokens` per phase to `facts`. Raises `OSError`."""
    records = _read_streams(folder / STREAMS_FILE)
    table = _join(folder, records, scenario, facts)
    metadata = {METADATA_KEY: msgspec.json.encode({"format": FORMAT, "trial": facts})}
    write_atomically(
        target, lambda path: pq.write_table(table.replace_schema_metadata(metadata), path, compression="zstd")
    )


def write_atomically(target: Path, write: Any) -> None:
    """Have `write(path)` make a file beside `target`, then put it in place: whole and on disk, or not at all."""
    temporary = target.with_name(f".{target.name}.tmp")
    write(temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_run(path: Path) -> Run:
    """Read run.json and what its trials say of themselves. Unreadable trials become warnings.

    Raises `RecordError` when there is no run at `path`.
    """
    try:
        info = json.loads((path / RUN_FILE).read_text("utf-8"))
    except OSError as error:
        raise RecordError(
            f"{path}: no run here ({RUN_FILE}: {error.strerror}); give a folder that `run` made"
        ) from None
    except ValueError as error:
        raise RecordError(f"{path / RUN_FILE}: not JSON: {error}") from None
    if info.get("format") != FORMAT:
        raise RecordError(f"{path / RUN_FILE}: format {info.get('format')!r}; this version reads format {FORMAT}")
    trials, warnings = [], []
    for file in sorted((path / TRIALS).glob("[!.]*.parquet")):
        try:
            metadata = pq.read_schema(file).metadata or {}
            trials.append(Trial(file, json.loads(metadata[METADATA_KEY])["trial"]))
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            warnings.append(f"{file.name}: left out, it cannot be read: {type(error).__name__}: {error}")
    trials.sort(key=lambda trial: trial.facts["trial"])
    return Run(path, info, trials, warnings)


def read_trial(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """One trial's rows, one per content chunk. Nullable integers come as pandas `Int64`/`Int32`."""
    table = pq.read_table(path, columns=list(columns) if columns else None)
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}.get)
    return frame


def _read_streams(path: Path) -> list[StreamRecord]:
    decode = msgspec.json.Decoder(StreamRecord).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def _join(folder: Path, records: list[StreamRecord], scenario: Scenario, facts: dict[str, Any]) -> pa.Table:
    schedules = [
        schedule(scenario.profiles[scenario.phases[r.phase].profile] if r.window else PRIME, r.seed) for r in records
    ]
    # Every stream owns as many slots as chunks were scheduled; what the server wrote and the driver read goes there.
    sizes = np.array([len(s.texts) for s in schedules], dtype=np.int64)
    bases = np.concatenate(([0], np.cumsum(sizes)))
    slots = int(bases[-1])
    due, written, received = (np.full(slots, _NULL) for _ in range(3))
    read = np.zeros(slots, dtype=np.int32)

    server = _place_emissions(folder / EMISSIONS_FILE, records, bases, due, written)
    _place_reads(folder / READS_FILE, records, schedules, bases, received, read)
    flaws = _count_flaws(records, schedules, bases, written)

    owner = np.repeat(np.arange(len(records)), sizes)
    chunk = np.arange(slots) - np.repeat(bases[:-1], sizes)
    tokens = np.fromiter((n for s in schedules for n in s.tokens), dtype=np.int32, count=slots)
    keep = (written != _NULL) | (received != _NULL)
    _add_facts(facts, records, schedules, owner, tokens, due, received, server)

    bare = np.setdiff1d(np.arange(len(records)), owner[keep])
    rows = np.concatenate((owner[keep], bare))
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    absent = np.ones(len(bare), dtype=bool)

    def chunk_column(
        values: np.ndarray[Any, Any], kind: pa.DataType, null: np.ndarray[Any, Any] | None = None
    ) -> pa.Array:
        kept = np.concatenate((values[keep], np.zeros(len(bare), dtype=values.dtype)))[order]
        gone = (values == _NULL) if null is None else null
        mask = np.concatenate((gone[keep], absent))[order]
        return pa.array(kept, type=kind, mask=mask)

    never = np.zeros(slots, dtype=bool)
    columns: dict[str, pa.Array] = {
        "chunk": chunk_column(chunk, pa.int32(), never),
        "tokens": chunk_column(tokens, pa.int32(), never),
        "due_ns": chunk_column(due, pa.int64()),
        "written_ns": chunk_column(written, pa.int64()),
        "received_ns": chunk_column(received, pa.int64()),
        "read": chunk_column(read, pa.int32(), received == _NULL),
    }
    per_stream = _stream_columns(records, server, flaws)
    take = pa.array(rows)
    columns |= {name: array.take(take) for name, array in per_stream.items()}
    for name in ("block", "trial", "position"):
        columns[name] = pa.array(np.full(len(rows), facts[name], dtype=np.int32))
    columns["arm"] = (
        pa.array([facts["arm"]], pa.string())
        .dictionary_encode()
        .cast(_DICTIONARY)
        .take(pa.array(np.zeros(len(rows), dtype=np.int32)))
    )
    return pa.table([columns[f.name].cast(f.type) for f in SCHEMA], schema=SCHEMA)


@dataclass(slots=True)
class _Served:
    """What the server says of one of the driver's streams."""

    taken_up_ns: int | None = None
    ended_ns: int | None = None
    reason: str | None = None


def _place_emissions(
    path: Path,
    records: list[StreamRecord],
    bases: np.ndarray[Any, Any],
    due: np.ndarray[Any, Any],
    written: np.ndarray[Any, Any],
) -> list[_Served]:
    """Put the server's stamps into the slots of the streams they belong to; return what it says of each stream."""
    emissions = np.frombuffer(read_emissions(path), dtype=DTYPE)
    index = {completion_key(r.completion_id): i for i, r in enumerate(records) if r.completion_id}
    ordinal = emissions["ordinal"]
    opened = emissions[ordinal == OPENED]
    seeds = {int(e["stream"]): int(e["a"]) for e in emissions[ordinal == IDENT]}
    served = [_Served() for _ in records]
    owners = np.full(int(emissions["stream"].max()) + 1 if len(emissions) else 0, -1, dtype=np.int64)
    for entry in opened:
        number, key = int(entry["stream"]), int(entry["b"])
        who = index.get((key & 0xFFFFFFFF, seeds.get(number, -1), key >> 32))
        if who is not None:
            owners[number] = who
            served[who].taken_up_ns = int(entry["a"])
    for entry in emissions[ordinal == CLOSED]:
        who = int(owners[entry["stream"]])
        if who >= 0:
            served[who].ended_ns = int(entry["a"])
            served[who].reason = Ended(int(entry["b"])).name.lower()
    tokens = emissions[ordinal < CLOSED]  # the lowest of the marks: all below are chunk ordinals
    who = owners[tokens["stream"]]
    size = np.diff(bases)
    fits = (
        (who >= 0) & (tokens["ordinal"] < size[np.maximum(who, 0)]) if len(size) else np.zeros(len(tokens), dtype=bool)
    )
    at = bases[who[fits]] + tokens["ordinal"][fits]
    due[at] = tokens["a"][fits]
    written[at] = tokens["b"][fits]
    return served


def _place_reads(
    path: Path,
    records: list[StreamRecord],
    schedules: Sequence[Any],
    bases: np.ndarray[Any, Any],
    received: np.ndarray[Any, Any],
    read: np.ndarray[Any, Any],
) -> None:
    """Put the stamp of the read that brought each chunk into the chunk's slot."""
    reads = np.frombuffer(appendlog.read(path, READ), dtype=READ_DTYPE)
    reads = reads[np.argsort(reads["stream"], kind="stable")]
    numbers = np.array([r.stream for r in records], dtype=np.int64)
    first = np.searchsorted(reads["stream"], numbers, side="left")
    last = np.searchsorted(reads["stream"], numbers, side="right")
    for i, record in enumerate(records):
        mine = reads[first[i] : last[i]]
        stamps = np.repeat(mine["received_ns"], mine["chunks"])
        in_read = np.repeat(mine["read"], mine["chunks"])
        texts = record.text.split("\x1f") if stamps.size else []
        where = align(schedules[i].texts, texts).places
        base = bases[i]
        if where is None:
            received[base : base + len(stamps)] = stamps
            read[base : base + len(stamps)] = in_read
            continue
        for at, place in enumerate(where[: len(stamps)]):
            if place >= 0:
                received[base + place] = stamps[at]
                read[base + place] = in_read[at]


def _count_flaws(
    records: list[StreamRecord], schedules: Sequence[Any], bases: np.ndarray[Any, Any], written: np.ndarray[Any, Any]
) -> dict[str, list[int]]:
    """Chunks lost, repeated, reordered and corrupted per stream.

    A complete stream owes its whole schedule; another owes what the server handed over before it ended.
    """
    flaws: dict[str, list[int]] = {"lost": [], "repeated": [], "reordered": [], "corrupted": []}
    for i, record in enumerate(records):
        texts = record.text.split("\x1f") if record.chunks else []
        owed = len(schedules[i].texts)
        if record.outcome != "complete":
            handed = np.flatnonzero(written[bases[i] : bases[i + 1]] != _NULL)
            owed = int(handed[-1]) + 1 if handed.size else 0
        found = align(schedules[i].texts[: max(owed, len(texts) if record.outcome != "complete" else owed)], texts)
        flaws["lost"].append(max(0, owed - found.matched))
        flaws["repeated"].append(found.repeated)
        flaws["reordered"].append(found.reordered)
        flaws["corrupted"].append(found.corrupted)
    return flaws


def _add_facts(
    facts: dict[str, Any],
    records: list[StreamRecord],
    schedules: Sequence[Any],
    owner: np.ndarray[Any, Any],
    tokens: np.ndarray[Any, Any],
    due: np.ndarray[Any, Any],
    received: np.ndarray[Any, Any],
    server: list[_Served],
) -> None:
    """Count the window's tokens per phase, and check that what the server says was due is what the schedule says."""
    got = np.bincount(owner, weights=np.where(received != _NULL, tokens, 0), minlength=len(records))
    for phase in facts["phases"].values():
        phase["tokens"] = 0
    for i, record in enumerate(records):
        if record.window and record.phase in facts["phases"]:
            facts["phases"][record.phase]["tokens"] += int(got[i])
    taken_up = np.array([s.taken_up_ns if s.taken_up_ns is not None else 0 for s in server], dtype=np.int64)
    planned = np.fromiter((d for s in schedules for d in s.due_ns), dtype=np.int64, count=len(due))
    known = due != _NULL
    shift = due[known] - taken_up[owner[known]] - planned[known]
    # In lockstep a stream starts at the next step, so all its dues shift by the same wait; nothing else may.
    low = np.full(len(records), np.iinfo(np.int64).max)
    high = np.full(len(records), np.iinfo(np.int64).min)
    np.minimum.at(low, owner[known], shift)
    np.maximum.at(high, owner[known], shift)
    facts["schedule_mismatches"] = int(np.count_nonzero(high > low))


def _stream_columns(
    records: list[StreamRecord], server: list[_Served], flaws: dict[str, list[int]]
) -> dict[str, pa.Array]:
    """The columns that are one value per stream."""

    def stamp(name: str) -> pa.Array:
        return pa.array([getattr(r, name) or None for r in records], pa.int64())

    columns = {
        "phase": pa.array([r.phase for r in records], pa.string()).dictionary_encode(),
        "outcome": pa.array([r.outcome for r in records], pa.string()).dictionary_encode(),
        "detail": pa.array([r.detail for r in records], pa.string()),
        "completion_id": pa.array([r.completion_id or None for r in records], pa.string()),
        "window": pa.array([r.window for r in records]),
        "cold": pa.array([r.cold for r in records]),
        "server_reason": pa.array([s.reason for s in server], pa.string()).dictionary_encode(),
        "taken_up_ns": pa.array([s.taken_up_ns for s in server], pa.int64()),
        "server_ended_ns": pa.array([s.ended_ns for s in server], pa.int64()),
    }
    for name in ("step", "stream", "ordinal", "seed"):
        columns[name] = pa.array([getattr(r, name) for r in records], pa.int64())
    for name in ("sent_bytes", "received_bytes", "head_bytes", "payload_bytes", "content_bytes", "text_bytes"):
        columns[name] = pa.array([getattr(r, name) for r in records], pa.int64())
    for name in (
        "intended_ns",
        "started_ns",
        "connected_ns",
        "ready_ns",
        "requested_ns",
        "head_ns",
        "first_byte_ns",
        "ended_ns",
    ):
        columns[name] = stamp(name)
    for name, values in flaws.items():
        columns[name] = pa.array(values, pa.int64())
    return columns
