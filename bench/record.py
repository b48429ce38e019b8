"""A run on disk: run.json and one Parquet file per trial, one row per content chunk. `bench.join` makes the rows.

`docs/records.md` documents the columns. A file appears under its final name only when it is complete and on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = 1
"""Of the Parquet files and of run.json. Raised when a column changes its meaning."""
METADATA_KEY = b"tokenwire"
RUN_FILE = "run.json"
TRIALS = "trials"

DICTIONARY = pa.dictionary(pa.int16(), pa.string())

DRIVER_STAMPS = (
    "intended_ns",
    "started_ns",
    "connected_ns",
    "ready_ns",
    "requested_ns",
    "head_ns",
    "first_byte_ns",
    "ended_ns",
)
SIZES = ("sent_bytes", "received_bytes", "head_bytes", "payload_bytes", "content_bytes", "text_bytes")
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
        pa.field("cold", pa.bool_()),
        pa.field("outcome", DICTIONARY),
        pa.field("detail", pa.string()),
        *(pa.field(name, pa.int64()) for name in DRIVER_STAMPS),
        pa.field("taken_up_ns", pa.int64()),
        pa.field("server_ended_ns", pa.int64()),
        pa.field("server_reason", DICTIONARY),
        *(pa.field(name, pa.int64()) for name in SIZES),
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
