"""The raw logs of driver and server, joined per content chunk: scheduled, written and received side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.alignment import Alignment, align
from bench.files import write_whole
from bench.rawlog import DROPPED, STREAMS_FILE, StreamRecord, content_reads
from bench.record import DICTIONARY, DRIVER_STAMPS, FLAGS, FLAWS, FORMAT, METADATA_KEY, SCHEMA, SIZES
from bench.scenario import PRIME, AnyPhase, Closed, Open, Scenario
from servers.emission_log import CLOSED, DTYPE, IDENT, OPENED, Ended, read_emissions
from servers.emitter import Schedule, completion_key, schedule

EMISSIONS_FILES = "emissions-{}.bin"
"""The logs of the servers of a trial, beside the driver's: 0 for the first, and one more for each that took over."""

Array: TypeAlias = np.ndarray[Any, Any]

_NULL = np.iinfo(np.int64).min
_NO_EMISSIONS = np.zeros(0, dtype=DTYPE)
_UNKNOWN = {"tokens_due": None, "work": "", "unlogged": None, "backwards": None, "write_pace": -1.0}
"""Facts of a phase where no server of this project made the tokens, which is as much as to say that none is lost."""


def write_trial(folder: Path, target: Path, scenario: Scenario, facts: dict[str, Any]) -> None:
    """Join the raw logs in `folder` and write `target`. Raises `OSError`.

    Adds to `facts` what the logs tell: `schedule_mismatches` and `log_torn`, and per phase of the window's streams

    - `tokens`: content tokens received; `tokens_due`: those that the schedules of the started streams hold, or, where a
      client left, those that it received;
    - `work`: a fingerprint of the streams started, where the load fixes them, else "";
    - `unlogged`: chunks received that the server did not log;
    - `backwards`: chunks received before they were written, or written before they were due;
    - `write_pace`: due span over written span, the median over streams; -1 where nothing is paced.

    Where an arm's tokens are not made by a server of this project, nobody knows what was to come and when: its chunks
    are kept as they came, a token each, without stamps of the server, and facts that compare are None, or "" or -1.
    """
    records = _read_streams(folder / STREAMS_FILE)
    table = _join(folder, records, scenario, facts)
    metadata = {METADATA_KEY: msgspec.json.encode({"format": FORMAT, "trial": facts})}
    whole = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), whole, compression="zstd")
    write_whole(target, whole.getvalue().to_pybytes())


def _read_streams(path: Path) -> list[StreamRecord]:
    decode = msgspec.json.Decoder(StreamRecord).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def _join(folder: Path, records: list[StreamRecord], scenario: Scenario, facts: dict[str, Any]) -> pa.Table:
    mocked = scenario.arms[facts["arm"]].mocked
    schedules = [
        schedule(scenario.profiles[scenario.phases[r.phase].profile] if r.window else PRIME, r.seed)
        if mocked
        else _as_received(r)
        for r in records
    ]
    # Every stream owns as many slots as chunks were scheduled; what the server wrote and the driver read goes there.
    sizes = np.array([len(s.texts) for s in schedules], dtype=np.int64)
    bases = np.concatenate(([0], np.cumsum(sizes)))
    slots = int(bases[-1])
    due, written, received = (np.full(slots, _NULL) for _ in range(3))
    read = np.zeros(slots, dtype=np.int32)

    emissions, facts["log_torn"] = _emissions(folder, facts.get("restarts", 0)) if mocked else (_NO_EMISSIONS, None)
    server = _place_emissions(emissions, records, bases, due, written)
    flaws = _place_reads(folder, records, schedules, bases, written, received, read, compared=mocked)

    owner = np.repeat(np.arange(len(records)), sizes)
    chunk = np.arange(slots) - np.repeat(bases[:-1], sizes)
    tokens = np.fromiter((n for s in schedules for n in s.tokens), dtype=np.int32, count=slots)
    keep = (written != _NULL) | (received != _NULL)
    _add_trial_facts(facts, records, schedules, owner, due, server)
    chunks = _Chunks(owner, tokens, due, written, received)
    for name, phase in facts["phases"].items():
        mine = np.array([r.window and r.phase == name for r in records], dtype=bool)
        phase |= _phase_facts(scenario.phases[name], mine, records, schedules, chunks)
        if not mocked:
            phase |= _UNKNOWN
    if not mocked:
        facts["schedule_mismatches"] = None

    bare = np.setdiff1d(np.arange(len(records)), owner[keep])
    rows = np.concatenate((owner[keep], bare))
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    absent = np.ones(len(bare), dtype=bool)

    def chunk_column(values: Array, kind: pa.DataType, null: Array | None = None) -> pa.Array:
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
        .cast(DICTIONARY)
        .take(pa.array(np.zeros(len(rows), dtype=np.int32)))
    )
    return pa.table([columns[f.name].cast(f.type) for f in SCHEMA], schema=SCHEMA)


@dataclass(slots=True)
class _Served:
    """What the server says of one of the driver's streams."""

    taken_up_ns: int | None = None
    ended_ns: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Chunks:
    """All chunks scheduled, by slot: whose they are, their tokens, and their stamps (`_NULL` where there is none)."""

    owner: Array
    tokens: Array
    due: Array
    written: Array
    received: Array


def _emissions(folder: Path, restarts: int) -> tuple[Array, bool]:
    """The records of the servers' logs, with stream numbers that run on from one to the next; and whether one is torn.

    Torn is a log that is missing, or not cut to its records as `close` does. A server that is killed on purpose cannot.
    """
    logs, torn, streams = [], False, 0
    for number in range(restarts + 1):
        path = folder / EMISSIONS_FILES.format(number)
        try:
            data, size = read_emissions(path), path.stat().st_size
        except FileNotFoundError:
            torn = True
            continue
        torn = torn or (number == restarts and len(data) != size)
        log = np.frombuffer(data, dtype=DTYPE).copy()
        log["stream"] += streams
        streams = int(log["stream"].max()) + 1 if len(log) else streams
        logs.append(log)
    return np.concatenate(logs) if logs else _NO_EMISSIONS, torn


def _as_received(record: StreamRecord) -> Schedule:
    """What stands for a schedule where there is none: the chunks that came, behind those asked to be left out."""
    before = max(0, record.resumed_from) if record.chunks else 0
    chunks = before + record.chunks
    return Schedule([0] * chunks, [""] * chunks, [1] * chunks)


class _Asked:
    """Which of the driver's requests one that a server took up was."""

    def __init__(self, records: list[StreamRecord], taken_up: set[tuple[int, int, int]]) -> None:
        self._records = records
        self._named: dict[tuple[int, int, int], list[int]] = {}
        self._nameless: dict[int, list[int]] = {}
        for i, record in enumerate(records):
            key = _key_of(record.completion_id)
            if key in taken_up:
                self._named.setdefault(key, []).append(i)
            elif record.requested_ns:  # told of none, or of one that what lies between has made up
                self._nameless.setdefault(record.seed, []).append(i)

    def by(self, key: tuple[int, int, int], taken_up_ns: int) -> int | None:
        """The request for that completion, or, of those told of none here, for that seed, which was under way.

        A stream that is resumed is asked for several times: the latest request before then is meant.
        """
        named = self._named.get(key, [])
        then = [i for i in named if self._records[i].requested_ns <= taken_up_ns]
        if not then:
            named = self._nameless.get(key[1], [])
            then = [i for i in named if self._records[i].requested_ns <= taken_up_ns <= self._records[i].ended_ns]
        if not then:
            return None
        latest = max(then, key=lambda i: self._records[i].requested_ns)
        named.remove(latest)
        return latest


def _key_of(completion: str) -> tuple[int, int, int] | None:
    """What a completion id of this project says; None for another."""
    try:
        return completion_key(completion)
    except ValueError:
        return None


def _place_emissions(
    emissions: Array,
    records: list[StreamRecord],
    bases: Array,
    due: Array,
    written: Array,
) -> list[_Served]:
    """Put the server's stamps into the slots of the streams they belong to; return what it says of each stream."""
    ordinal = emissions["ordinal"]
    opened = emissions[ordinal == OPENED]
    seeds = {int(e["stream"]): int(e["a"]) for e in emissions[ordinal == IDENT]}
    served = [_Served() for _ in records]
    owners = np.full(int(emissions["stream"].max()) + 1 if len(emissions) else 0, -1, dtype=np.int64)
    keys = [
        (int(b) & 0xFFFFFFFF, seeds.get(int(number), -1), int(b) >> 32)
        for number, b in zip(opened["stream"], opened["b"], strict=True)
    ]
    asked = _Asked(records, set(keys))
    for entry, key in zip(opened, keys, strict=True):
        number = int(entry["stream"])
        who = asked.by(key, int(entry["a"]))
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
    folder: Path,
    records: list[StreamRecord],
    schedules: Sequence[Schedule],
    bases: Array,
    written: Array,
    received: Array,
    read: Array,
    *,
    compared: bool,
) -> dict[str, list[int]]:
    """Put the stamp of the read that brought each chunk into the chunk's slot; return each stream's flaws.

    Reads are numbered as they are found. Flaws are chunks lost, repeated, reordered and corrupted: a complete stream
    owes its whole schedule, another what the server had handed over. Chunks that are not `compared` with a schedule
    take the last slots of their stream as they came, and nothing is said of flaws.
    """
    flaws: dict[str, list[int]] = {name: [0] * len(records) for name in FLAWS}
    so_far: dict[tuple[str, int, int], _Had] = {}
    number = 0
    for i, (record, (stream, in_stamps, in_counts)) in enumerate(zip(records, content_reads(folder), strict=True)):
        assert record.stream == stream, "both files have a stream's part from the same moment, so in the same order"
        counts = np.asarray(in_counts)
        stamps = np.repeat(np.asarray(in_stamps), counts)
        in_read = np.repeat(np.arange(number, number + len(counts)), counts)
        number += len(counts)
        if not compared:
            last = slice(bases[i + 1] - len(stamps), bases[i + 1])
            received[last], read[last] = stamps, in_read
            continue
        texts = record.text.split("\x1f") if record.chunks else []
        handed = np.flatnonzero(written[bases[i] : bases[i + 1]] != _NULL)
        key = record.phase, record.step, record.ordinal
        had = so_far.pop(key, None) if record.attempt else None
        had = had or _Had(np.zeros(len(schedules[i].texts), dtype=bool))
        if record.window:
            so_far[key] = had
        had.owed = max(had.owed, int(handed[-1]) + 1 if handed.size else 0)
        owed = had.owed if record.outcome != "complete" else len(schedules[i].texts)
        found, places = _found(schedules[i].texts, texts, max(0, record.resumed_from), owed)
        known = places >= 0
        received[bases[i] + places[known]] = stamps[known]
        read[bases[i] + places[known]] = in_read[known]
        # Who asks for the whole again gets nothing again that was not asked for.
        again = int(had.seen[places[known]].sum()) if record.resumed_from >= 0 else 0
        had.repeated += found.repeated + again
        had.reordered += found.reordered
        had.corrupted += found.corrupted
        had.seen[places[known]] = True
        # What a stream lacks is known when its last attempt is over: the account is with that one.
        if had.last >= 0:
            for name in FLAWS:
                flaws[name][had.last] = 0
        had.last = i
        # An answer that was not resumed but came whole is to have all of itself.
        whole = record.outcome == "complete" and record.resumed_from < 0
        flaws["lost"][i] = max(0, owed - (len(set(places[known])) if whole else int(had.seen.sum())))
        for name in ("repeated", "reordered", "corrupted"):
            flaws[name][i] = getattr(had, name)
    return flaws


@dataclass(slots=True)
class _Had:
    """What came of a stream over its attempts so far."""

    seen: Array
    """Per chunk of the schedule, whether it was received."""
    owed: int = 0
    """Chunks that a server handed over."""
    repeated: int = 0
    reordered: int = 0
    corrupted: int = 0
    last: int = -1
    """The newest attempt's record."""


def _found(sent: Sequence[str], texts: list[str], first: int, owed: int) -> tuple[Alignment, Array]:
    """Compare the texts of an attempt, which asked for the chunks from `first` on, with those of the schedule.

    Also the place of each among all chunks, -1 for none. Of a stream that broke off only what was owed counts, or what
    came.
    """
    rest = sent[first : max(owed, first + len(texts))]
    found = align(rest, texts)
    if first and (found.matched < len(texts) or found.reordered):
        other = align(sent[: max(owed, first + len(texts))], texts)
        if (other.matched, -other.reordered) > (found.matched, -found.reordered):  # it went on at another place
            first, found = 0, other
    places = np.arange(len(texts)) if found.places is None else np.array(found.places, dtype=np.int64)
    return found, np.where(places >= 0, places + first, -1)


def _add_trial_facts(
    facts: dict[str, Any],
    records: list[StreamRecord],
    schedules: Sequence[Schedule],
    owner: Array,
    due: Array,
    server: list[_Served],
) -> None:
    """Check that what the server says was due is what the schedule says."""
    taken_up = np.array([s.taken_up_ns if s.taken_up_ns is not None else 0 for s in server], dtype=np.int64)
    planned = np.fromiter((d for s in schedules for d in s.due_ns), dtype=np.int64, count=len(due))
    known = due != _NULL
    shift = due[known] - taken_up[owner[known]] - planned[known]
    # In lockstep a stream starts at the next step, so all its dues shift by the same wait; nothing else may.
    low, high = _range(shift, owner[known], len(records))
    facts["schedule_mismatches"] = int(np.count_nonzero(high > low))


def _phase_facts(
    load: AnyPhase, mine: Array, records: list[StreamRecord], schedules: Sequence[Schedule], chunks: _Chunks
) -> dict[str, Any]:
    """The facts of one phase, whose records are those where `mine` is true."""
    slots = mine[chunks.owner]
    owner, due, written, received = (
        values[slots] for values in (chunks.owner, chunks.due, chunks.written, chunks.received)
    )
    tokens, got, logged = chunks.tokens[slots], received != _NULL, written != _NULL
    begun = [
        (record, plan)
        for record, plan, here in zip(records, schedules, mine, strict=True)
        if here and record.outcome != DROPPED and not record.attempt
    ]
    work = sorted((record.ordinal, record.seed, sum(plan.tokens)) for record, plan in begun)
    # Who left was owed what came: the rest was for nobody.
    left = np.array([record.left_ns > 0 for record in records], dtype=bool)
    gone = {record.ordinal for record, here in zip(records, mine, strict=True) if here and record.left_ns}
    due_tokens = sum(n for ordinal, _, n in work if ordinal not in gone) + int(tokens[got & left[owner]].sum())
    fixed = isinstance(load, Open) or (isinstance(load, Closed) and load.turns is not None)
    return {
        "tokens": int(tokens[got].sum()),
        "tokens_due": due_tokens,
        "work": sha256(repr(work).encode()).hexdigest()[:16] if fixed else "",
        "unlogged": int(np.count_nonzero(got & ~logged)),
        "backwards": int(np.count_nonzero(logged & ((got & (received < written)) | (written < due)))),
        "write_pace": _pace(owner[logged], due[logged], written[logged], len(records)),
    }


def _pace(owner: Array, due: Array, written: Array, streams: int) -> float:
    """Due span over written span of each stream, first chunk to last; the median, or -1 where no span is due."""
    due_low, due_high = _range(due, owner, streams)
    low, high = _range(written, owner, streams)
    some = due_high > due_low
    if not some.any():
        return -1.0
    return float(np.median((due_high[some] - due_low[some]) / np.maximum(high[some] - low[some], 1)))


def _range(values: Array, owner: Array, streams: int) -> tuple[Array, Array]:
    """The lowest and the highest value of each stream; of one that has none the lowest lies above the highest."""
    low = np.full(streams, np.iinfo(np.int64).max)
    high = np.full(streams, np.iinfo(np.int64).min)
    np.minimum.at(low, owner, values)
    np.maximum.at(high, owner, values)
    return low, high


def _stream_columns(
    records: list[StreamRecord], server: list[_Served], flaws: dict[str, list[int]]
) -> dict[str, pa.Array]:
    """The columns that are one value per stream."""
    columns = {
        "phase": pa.array([r.phase for r in records], pa.string()).dictionary_encode(),
        "outcome": pa.array([r.outcome for r in records], pa.string()).dictionary_encode(),
        "detail": pa.array([r.detail for r in records], pa.string()),
        "completion_id": pa.array([r.completion_id or None for r in records], pa.string()),
        "reason": pa.array([r.reason for r in records], pa.string()).dictionary_encode(),
        **{name: pa.array([getattr(r, name) for r in records], pa.bool_()) for name in FLAGS},
        "server_reason": pa.array([s.reason for s in server], pa.string()).dictionary_encode(),
        "taken_up_ns": pa.array([s.taken_up_ns for s in server], pa.int64()),
        "server_ended_ns": pa.array([s.ended_ns for s in server], pa.int64()),
    }
    for name in ("step", "stream", "ordinal", "attempt", "resumed_from", "seed"):
        columns[name] = pa.array([getattr(r, name) for r in records], pa.int64())
    for name in SIZES:
        columns[name] = pa.array([getattr(r, name) for r in records], pa.int64())
    columns["segments"] = pa.array([r.segments if r.segments >= 0 else None for r in records], pa.int64())
    for name in DRIVER_STAMPS:
        columns[name] = pa.array([getattr(r, name) or None for r in records], pa.int64())
    for name, values in flaws.items():
        columns[name] = pa.array(values, pa.int64())
    return columns
