"""The history on disk: history.parquet, a row per run, arm, measure and statistic. Rows are added and never lost."""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from bench.files import write_whole
from bench.gate.result import FILE as GATE_FILE
from bench.gate.result import FORMAT as GATE_FORMAT
from bench.gate.result import Gate, Row
from bench.measures import MEASURES
from bench.metrics.summary import Results
from bench.netset import is_set
from bench.record import METADATA_KEY, RUN_FILE, RecordError
from bench.stored import (
    SUMMARY_FILE,
    fingerprint,
    hardware,
    lean,
    read_info,
    read_results,
    scenario_of,
    software,
    work,
)

FORMAT = 1
"""Of history.parquet. Raised when a column changes its meaning."""
FILE = "history.parquet"
SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("run", pa.string()),
        pa.field("created", pa.string()),
        pa.field("commit", pa.string()),
        pa.field("changed", pa.bool_()),
        pa.field("tokenwire", pa.string()),
        pa.field("machine_id", pa.string()),
        pa.field("machine", pa.string()),
        pa.field("software", pa.string()),
        pa.field("scenario", pa.string()),
        pa.field("work", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("network", pa.string()),
        pa.field("arm", pa.string()),
        pa.field("setup", pa.string()),
        pa.field("phase", pa.string()),
        pa.field("temperature", pa.string()),
        pa.field("users", pa.int32()),
        pa.field("measure", pa.string()),
        pa.field("statistic", pa.string()),
        pa.field("title", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("lowest", pa.float64()),
        pa.field("highest", pa.float64()),
        pa.field("trials", pa.int32()),
        pa.field("primary", pa.string()),
    ]
)
"""The columns; `docs/history.md` says what they hold."""

_RUN = ("source", "run", "created", "machine_id")
"""What makes it the same run."""


class Gathered(NamedTuple):
    """What came of gathering."""

    table: pa.Table
    """All rows, those from before first."""
    runs: int
    """How many it holds."""
    added: int
    """Runs that were not there before."""
    known: int
    """Runs given that were."""
    left_out: list[str]
    """Folders that hold a run which does not count, and why, a line each."""


def gather(folders: Sequence[Path], output: Path) -> Gathered:
    """Add the runs in `folders` to history.parquet in `output`, whole or not at all.

    A folder is that of a run, of a gate, of a set of runs, or holds such. A run that is there already stays as it was.
    Raises `RecordError` where a folder holds no run, or where there is a history that this version cannot add to, and
    `OSError` where nothing can be written.
    """
    found = [place for folder in folders for place in _places(folder)]
    output.mkdir(parents=True, exist_ok=True)
    with _held(output):
        table = _read(output / FILE)
        seen = {tuple(row.values()) for row in table.select(list(_RUN)).to_pylist()}
        before, known, left_out, rows = len(seen), 0, [], []
        for place in dict.fromkeys(found):
            try:
                own = list(_rows(place))
            except RecordError as error:
                left_out.append(f"left out: {error}")
                continue
            keys = {tuple(row[name] for name in _RUN) for row in own}
            known += len(keys & seen)
            if not keys & seen:
                rows += own
                seen |= keys
        if rows:
            table = pa.concat_tables([table, pa.Table.from_pylist(rows, schema=table.schema)])
            file = io.BytesIO()
            pq.write_table(table, file)
            write_whole(output / FILE, file.getvalue())
    return Gathered(table, len(seen), len(seen) - before, known, left_out)


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """Let one process at a time read, add and write: rows that another adds meanwhile would be lost."""
    with (output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(file: Path) -> pa.Table:
    """The history so far, empty where there is none. Raises `RecordError` rather than begin anew over rows."""
    if not file.exists():
        meta = json.dumps({"format": FORMAT, "what": "history"})
        return SCHEMA.with_metadata({METADATA_KEY: meta}).empty_table()
    try:
        table = pq.read_table(file)
        kept = json.loads((table.schema.metadata or {})[METADATA_KEY])
    except (OSError, pa.ArrowException, LookupError, ValueError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RecordError(f"{file}: no history that can be read ({why}); move it away to begin anew") from None
    if kept.get("what") != "history" or kept.get("format") != FORMAT:
        raise RecordError(
            f"{file}: format {kept.get('format')!r} of {kept.get('what')!r}; this version adds to format {FORMAT} of "
            "'history'; give another --output"
        )
    return table


def _places(folder: Path) -> list[Path]:
    """The folders of runs and gates at `folder`, in it, or in sets in it. Raises `RecordError` where there is none."""
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; give a run, or a folder of runs such as results")
    found = _own(folder) or [place for inner in sorted(folder.iterdir()) if inner.is_dir() for place in _own(inner)]
    if not found:
        raise RecordError(f"{folder}: no {SUMMARY_FILE} or {GATE_FILE} in it or in its folders; give a folder of runs")
    return found


def _own(folder: Path) -> list[Path]:
    if is_set(folder):
        return [inner for inner in sorted(folder.iterdir()) if (inner / SUMMARY_FILE).is_file()]
    return [folder] if (folder / GATE_FILE).is_file() or (folder / SUMMARY_FILE).is_file() else []


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run or gate. Raises `RecordError` with why it does not count."""
    if (folder / GATE_FILE).is_file():
        return _of_gate(folder)
    return _of_run(folder)


def _of_run(folder: Path) -> Iterator[dict[str, Any]]:
    results = read_results(folder)
    if results.command[:1] == ["gate"]:
        raise RecordError(f"{folder}: a run of a gate; what it came to is in the gate's {GATE_FILE}")
    if results.state != "finished":
        raise RecordError(f"{folder}: the run is {results.state}")
    info: dict[str, Any] = read_info(folder) if (folder / RUN_FILE).is_file() else {}
    revision = info.get("revision") or {}
    what, setups = _work(results, info)
    run = {
        "source": "run",
        "run": results.run,
        "created": results.created,
        "commit": revision.get("commit", ""),
        "changed": revision.get("changed"),
        **_conditions(results.machine, {"versions": results.versions, "tokenwire": results.tokenwire}),
        "scenario": results.scenario,
        "work": what,
        "mode": results.mode,
        "network": _network(results, info),
    }
    decided = {
        (c.phase, c.temperature, c.measure, c.statistic): c.primary
        for c in (results.conclusions.primary if results.conclusions else ())
    }
    for v in results.values:
        measure = MEASURES.get(v.measure)
        yield run | {
            "arm": v.arm,
            "setup": setups.get(v.arm, ""),
            "phase": v.phase,
            "temperature": v.temperature,
            "users": v.users,
            "measure": v.measure,
            "statistic": v.statistic,
            "title": measure.title if measure else v.measure,
            "unit": v.unit,
            "value": v.median,
            "lowest": v.min,
            "highest": v.max,
            "trials": len(v.per_trial),
            "primary": "" if v.users else decided.get((v.phase, v.temperature, v.measure, v.statistic), ""),
        }


def _conditions(machine: dict[str, Any], info: dict[str, Any]) -> dict[str, str]:
    own = hardware(machine)
    return {
        "tokenwire": info["tokenwire"],
        "machine_id": fingerprint(own),
        "machine": msgspec.json.encode(own).decode(),
        "software": msgspec.json.encode(software({"machine": machine, **info})).decode(),
    }


def _work(results: Results, info: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Fingerprints of what was measured, and of each arm's settings; by the summary alone where there is no run.json.

    Those never equal those of a scenario: rather two lines than one line of two things.
    """
    try:
        scenario = scenario_of(info)
    except (KeyError, msgspec.ValidationError):
        phases = [(phase.name, phase.settings, phase.profile) for phase in results.phases]
        return fingerprint(phases, results.mode, results.network), {}
    return work(scenario), {name: fingerprint(lean(arm)) for name, arm in scenario.arms.items()}


def _network(results: Results, info: dict[str, Any]) -> str:
    """What lay between, by name; empty where neither file says."""
    asked = info.get("scenario", {}).get("experiment", {}).get("networks") or [""]
    return str(results.network.get("name") or asked[0])


def _of_gate(folder: Path) -> Iterator[dict[str, Any]]:
    """The head of a gate: its values, its commit."""
    file = folder / GATE_FILE
    try:
        kept = json.loads(file.read_bytes())
        if isinstance(kept, dict) and kept.get("format") != GATE_FORMAT:
            raise RecordError(f"{file}: format {kept.get('format')!r}; this version reads {GATE_FORMAT}")
        gate = msgspec.convert(kept, Gate)
    except OSError as error:
        raise RecordError(f"{file}: it cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: {error}") from None
    if gate.decision == "invalid":
        raise RecordError(f"{folder}: the gate is invalid")
    run = {
        "source": "gate",
        "run": Path(gate.runs[0]).name if gate.runs else folder.name,
        "created": gate.created,
        "commit": gate.head.revision,
        "changed": gate.head.changed,
        **_conditions(gate.machine, {"versions": gate.head.versions, "tokenwire": gate.tokenwire}),
        "scenario": f"gate {gate.size}",
        "work": _work_of_gate(folder, gate.size),
        "mode": "",
        "network": "",
    }
    for row in gate.rows:
        if row.head is not None:
            yield run | _of_row(row, row.head, gate.head.command)


def _work_of_gate(folder: Path, size: str) -> str:
    """By the scenario where the gate lies beside its run, else by its name."""
    try:
        return work(scenario_of(read_info(folder)))
    except (RecordError, msgspec.ValidationError):
        return fingerprint("gate", size)


def _of_row(row: Row, value: float, command: str) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "setup": fingerprint(command) if command else "",
        "phase": row.where,
        "temperature": "",
        "users": 0,
        "measure": row.measure,
        "statistic": "value",
        "title": row.title,
        "unit": row.unit,
        "value": value,
        "lowest": None,
        "highest": None,
        "trials": row.blocks,
        "primary": row.name.partition("/")[0] if row.decides and row.kind != "count" else "",
    }
