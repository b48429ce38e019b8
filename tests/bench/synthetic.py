"""A run folder made up from a seed, with answers known in advance: no server, no driver, no clock.

Without noise every stream is the same in kind: `ttft_excess` is exactly `EXCESS_MS[arm]` (plus `CONNECT_MS` when cold,
`TLS_MS` over TLS, and `UPGRADE_MS` over WebSocket), lateness is `LATE_MS` and delivery `DELIVERY_MS`, so that every gap
is as it was due. With noise, delays vary by token and trial the way a real run's do, for looking at reports.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ARMS: dict[str, dict[str, Any]] = {
    "sse-aiohttp": {"protocol": "sse", "stack": "aiohttp", "loop": "uvloop"},
    "ws-aiohttp": {"protocol": "websocket", "stack": "aiohttp", "loop": "uvloop"},
    "ws-websockets": {"protocol": "websocket", "stack": "websockets", "loop": "uvloop"},
}
EXCESS_MS = {"sse-aiohttp": 1.0, "ws-aiohttp": 0.8, "ws-websockets": 0.7}
CONNECT_MS, UPGRADE_MS, LATE_MS, DELIVERY_MS = 0.25, 0.5, 0.125, 0.0625
TLS_MS = {"fresh": 1.5, "resumed": 0.75}
FIRST_SENT, FIRST_RECEIVED = {"sse": 300, "websocket": 350}, {"sse": 800, "websocket": 600}
TLS_SENT, TLS_RECEIVED = {"fresh": 600, "resumed": 650}, {"fresh": 1500, "resumed": 550}
"""Bytes before the first token: in the clear, and what a handshake adds; a warm stream has half of the former."""
HEAD, FRAMING, JSON, OTHER, TEXT = 320, {"sse": 14, "websocket": 4}, 200, 450, 4
"""Bytes: of a head, of framing a message, of a chunk's JSON, of the other messages of a stream, of a token's text."""
DEFLATED = 30

PHASES: dict[str, dict[str, Any]] = {
    "cold": {"load": "closed", "profile": "chat", "connections": "cold", "users": 4, "turns": 5},
    "warm": {"load": "closed", "profile": "chat", "connections": "warm", "users": 4, "turns": 5},
    "load": {
        "load": "open", "profile": "chat", "connections": "warm", "rate": 20.0, "duration_s": 5.0,
        "arrivals": "poisson", "pool": 64,
    },
    "unpaced": {"load": "closed", "profile": "instant", "connections": "warm", "users": 4, "turns": 8},
    "ladder": {
        "load": "steps", "profile": "chat", "connections": "warm", "users": [2, 4, 8], "turns": 2, "limit_ms": 5.0,
    },
}  # fmt: skip
PROFILES: dict[str, dict[str, Any]] = {
    "chat": {
        "first": {"dist": "lognormal", "median_ms": 120.0, "sigma": 0.4},
        "gap": {"dist": "lognormal", "median_ms": 18.0, "sigma": 0.5},
        "length": {"dist": "fixed", "tokens": 40},
        "text": "english", "bundle": 1, "step_ms": 0.0,
    },
    "instant": {
        "first": {"dist": "constant", "ms": 0.0},
        "gap": {"dist": "constant", "ms": 0.0},
        "length": {"dist": "fixed", "tokens": 128},
        "text": "english", "bundle": 1, "step_ms": 0.0,
    },
}  # fmt: skip
CONTRASTS = {
    "protocol": {"baseline": "sse-aiohttp", "other": "ws-aiohttp"},
    "library": {"baseline": "ws-aiohttp", "other": "ws-websockets"},
}
PRIMARY: dict[str, dict[str, Any]] = {
    "first-token": {"phase": "cold", "measure": "ttft_excess", "statistic": "p50", "smallest_effect": 0.1},
    "cpu": {"phase": "unpaced", "measure": "cpu_server", "smallest_effect": 0.03},
}
_STRINGS = ("arm", "phase", "outcome", "server_reason")


@dataclass
class Synthetic:
    """What to make up."""

    blocks: int = 3
    streams: int = 20
    tokens: int = 40
    noise: bool = False
    phases: tuple[str, ...] = tuple(PHASES)
    arms: tuple[str, ...] = tuple(ARMS)
    late: int = 0
    """Late starts of every phase of a trial."""
    outcome: str = "truncated"
    """Of streams that are cut."""
    died: int | None = None
    """Exit code of every trial's server."""
    mismatches: int = 0
    """Streams off the schedule in every trial."""
    finished: int | None = None
    """Trials on disk; fewer than planned make an interrupted run."""
    fail_every: int = 0
    """Every n-th stream of a phase is cut half-way: truncated, with the other half of its chunks lost."""
    steps_ms: tuple[float | None, ...] = (0.9, 2.4, 6.0)
    """The p99 gap excess of each step; None where a step has no gaps."""
    compressed: tuple[str, ...] = ()
    """Arms whose messages were compressed to `DEFLATED` bytes, framing included."""
    network: dict[str, Any] | None = None
    """What trials say lay between; None: nothing."""
    tls: tuple[str, ...] | None = None
    """Arms that speak TLS; None: files from before there was TLS, without the columns that came with it."""
    resumed: tuple[str, ...] = ()
    """Phases whose TLS handshakes resume a session, but for the first of a trial."""
    primary: tuple[str, ...] = ()
    """Primary measures of the scenario, of `PRIMARY`; with any, `CONTRASTS` are compared."""


def write_run(folder: Path, what: Synthetic | None = None, seed: int = 1) -> Path:
    """Write run.json and trials/*.parquet into `folder`, and return it."""
    what = what or Synthetic()
    rng = np.random.default_rng(seed)
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    order = [[what.arms[(i + b) % len(what.arms)] for i in range(len(what.arms))] for b in range(what.blocks)]
    planned = [(b, p, arm) for b, arms in enumerate(order) for p, arm in enumerate(arms)]
    finished = len(planned) if what.finished is None else what.finished
    for trial, (block, position, arm) in enumerate(planned[:finished]):
        _write_trial(folder / "trials" / f"{block:03d}-{arm}.parquet", what, rng, arm, (block, trial, position))
    info = {
        "format": 1, "tokenwire": "0.1.0", "run": folder.name, "created": "2026-11-22T14:40:00+00:00",
        "state": "finished" if finished == len(planned) else "interrupted",
        "scenario": {
            "name": "chat", "title": "Chat over loopback", "arms": {a: ARMS[a] for a in what.arms},
            "profiles": PROFILES, "phases": {p: PHASES[p] for p in what.phases},
            "experiment": {"blocks": what.blocks, "seed": 1, "mode": "equal"},
            "primary": {name: PRIMARY[name] for name in what.primary}, "contrasts": CONTRASTS if what.primary else {},
            "timeouts": {"connect_s": 5.0, "head_s": 10.0, "first_s": 30.0, "gap_s": 30.0, "total_s": 300.0},
        },
        "overrides": [f"experiment.blocks={what.blocks}"], "seed": 1, "order": order,
        "machine": {
            "cpu": "Example CPU 3.0 GHz", "cores": 2, "memory_bytes": 8 << 30, "kernel": "6.1.0", "os": "Linux",
            "python": "3.11.9",
        },
        "versions": {"python": "3.11.9", "pandas": "3.1.1", "pyarrow": "26.0.1"},
        "pinning": {"server": [0], "driver": [1]},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def _write_trial(path: Path, what: Synthetic, rng: Any, arm: str, place: tuple[int, int, int]) -> None:
    block, trial, position = place
    rows: list[dict[str, Any]] = []
    phases: dict[str, Any] = {}
    clock = 1_000_000_000_000 + trial * 600_000_000_000
    for phase in what.phases:
        start, clock = clock, _phase_rows(rows, what, rng, arm, phase, clock)
        kept = [r for r in rows if r["phase"] == phase and r["window"]]
        tokens = sum(r["tokens"] or 0 for r in kept if r["received_ns"] is not None)
        wobble = float(rng.normal(1, 0.03)) if what.noise else 1.0
        per_token = {"sse-aiohttp": 32_000, "ws-aiohttp": 30_000, "ws-websockets": 36_000}[arm] * wobble
        phases[phase] = {
            "window_start_ns": start, "window_end_ns": clock, "tokens": tokens,
            "server_cpu_ns": int(per_token * tokens), "driver_cpu_ns": int(per_token * tokens / 4),
            "server_rss_start": 40 << 20, "server_rss_peak": (40 << 20) + 64 * 30_720, "driver_rss_start": 30 << 20,
            "driver_rss_peak": 31 << 20, "peak_open": 64 if phase == "load" else 4,
            "starts": len({r["stream"] for r in kept}), "starts_late": what.late, "dropped": 0,
            "loop_lag_p99_ns": 80_000, "loop_lag_max_ns": 400_000, "sent_bytes_opening": 0,
        }  # fmt: skip
        if PHASES[phase]["load"] == "steps":
            p99 = [-1 if ms is None else round(ms * 1e6 * (wobble if ms > 5 else 1)) for ms in what.steps_ms]
            phases[phase]["steps"] = [
                {"users": users, "p99_gap_excess_ns": ns, "within_limit": 0 <= ns <= 5_000_000}
                for users, ns in zip(PHASES[phase]["users"], p99, strict=True)
            ]
    for row in rows:
        row.update(arm=arm, block=block, trial=trial, position=position)
    settings = {
        "write_limit": 65536, "compression": {"sse": False, "websocket": arm in what.compressed}, "heartbeat": None,
        "nodelay": True, "loop": "uvloop",
    } | ({} if what.tls is None else {"tls": {"minimum": "1.2"} if arm in what.tls else None})  # fmt: skip
    facts = {
        "arm": arm, "block": block, "trial": trial, "position": position, "started_at": "2026-11-22T14:40:00+00:00",
        "server": {
            "stack": ARMS[arm]["stack"], "settings": settings,
            "versions": {"python": "3.11.9", ARMS[arm]["stack"]: "3.14.1" if "aiohttp" in arm else "16.0"},
            "died": what.died,
        },
        "driver": {"versions": {"python": "3.11.9", "uvloop": "0.22.1"}, "loop": "uvloop", "gc": "frozen"},
        "phases": phases, "schedule_mismatches": what.mismatches,
    } | ({} if what.network is None else {"network": what.network})  # fmt: skip
    table = pa.Table.from_pylist(rows)
    if what.tls is not None:
        table = table.set_column(
            table.schema.get_field_index("secured_ns"), "secured_ns", table.column("secured_ns").cast(pa.int64())
        )
    for name in _STRINGS:
        column = table.column(name).cast(pa.string()).dictionary_encode()
        table = table.set_column(table.schema.get_field_index(name), name, column)
    table = table.replace_schema_metadata({"tokenwire": json.dumps({"format": 1, "trial": facts})})
    pq.write_table(table, path)


def _phase_rows(rows: list[dict[str, Any]], what: Synthetic, rng: Any, arm: str, phase: str, clock: int) -> int:
    """Append the rows of a phase that begins at `clock`, and return when it ends (both ns)."""
    settings = PHASES[phase]
    paced = settings["profile"] == "chat"
    steps = settings["users"] if settings["load"] == "steps" else [0]
    streams = [(step, n) for step in steps for n in range(what.streams)]
    first_stream = len({r["stream"] for r in rows})
    cold = settings["connections"] == "cold"
    primed = _stream(what, arm, phase, first_stream, 0, clock - 50_000_000, "warm")
    rows.append(primed | {"window": False, **_NO_CHUNK})
    schedules = np.random.default_rng(7)
    end = clock
    for ordinal, (step, _) in enumerate(streams):
        gaps = 1e6 * (schedules.lognormal(2.9, 0.5, what.tokens) if paced else np.zeros(what.tokens))
        due = (np.cumsum(gaps) + (120e6 if paced else 0)).astype(np.int64) // 1000 * 1000
        start = clock + ordinal * (150_000_000 if paced else 2_000_000)
        cut = what.fail_every > 0 and ordinal % what.fail_every == what.fail_every - 1
        how = handshake(what, arm, phase, ordinal) if cold else "warm"
        some = _chunks(what, rng, arm, due, start, how, paced=paced, cut=cut)
        stream = _stream(what, arm, phase, first_stream + 1 + ordinal, ordinal, start, how)
        got = [c for c in some if c["received_ns"] is not None]
        end = max(end, got[-1]["received_ns"] + 200_000)
        protocol = ARMS[arm]["protocol"]
        message = DEFLATED if arm in what.compressed else JSON + FRAMING[protocol]
        stream |= {
            "step": step, "taken_up_ns": some[0].pop("taken_up_ns"), "ended_ns": got[-1]["received_ns"] + 100_000,
            "outcome": what.outcome if cut else "complete", "lost": len(some) - len(got),
            "received_bytes": HEAD + len(got) * message + (0 if arm in what.compressed else OTHER),
            "payload_bytes": OTHER + len(got) * JSON, "content_bytes": len(got) * JSON, "text_bytes": TEXT * len(got),
        }  # fmt: skip
        rows += [stream | chunk | {"read": len(rows) + i} for i, chunk in enumerate(some)]
    return end


_NO_CHUNK = dict.fromkeys(("chunk", "tokens", "due_ns", "written_ns", "received_ns", "read"))


def handshake(what: Synthetic, arm: str, phase: str, ordinal: int) -> str:
    """How a cold stream got its connection: fresh or resumed over TLS, none in the clear."""
    if arm not in (what.tls or ()):
        return "none"
    return "resumed" if phase in what.resumed and ordinal else "fresh"


def _stream(what: Synthetic, arm: str, phase: str, stream: int, ordinal: int, start: int, how: str) -> dict[str, Any]:
    protocol = ARMS[arm]["protocol"]
    websocket, cold = protocol == "websocket", how != "warm"
    connected = start + int(CONNECT_MS * 1e6)
    secured = connected + int(TLS_MS.get(how, 0.0) * 1e6)
    ready = secured + int(UPGRADE_MS * 1e6) if websocket else secured
    requested = ready if cold else start
    opening = {} if what.tls is None else {
        "secured_ns": secured if how in TLS_MS else None, "tls_resumed": how == "resumed",
        "first_sent_bytes": FIRST_SENT[protocol] // (1 if cold else 2) + TLS_SENT.get(how, 0),
        "first_received_bytes": FIRST_RECEIVED[protocol] // (1 if cold else 2) + TLS_RECEIVED.get(how, 0) + ordinal % 2,
    }  # fmt: skip
    return opening | {
        "phase": phase, "step": 0, "window": True, "stream": stream, "ordinal": ordinal, "seed": 1000 + ordinal,
        "completion_id": f"chatcmpl-{ordinal:029x}", "cold": cold, "outcome": "complete", "detail": None,
        "intended_ns": start, "started_ns": start, "connected_ns": connected if cold else None,
        "ready_ns": ready if cold else None, "requested_ns": requested,
        "head_ns": None if websocket else requested + 300_000, "first_byte_ns": requested + 300_000,
        "taken_up_ns": requested + 200_000, "ended_ns": start + 1_000_000, "server_ended_ns": start + 1_000_000,
        "server_reason": "complete", "sent_bytes": 300, "received_bytes": HEAD, "head_bytes": HEAD, "payload_bytes": 0,
        "content_bytes": 0, "text_bytes": 0, "lost": 0, "repeated": 0, "reordered": 0, "corrupted": 0,
    }  # fmt: skip


def _chunks(
    what: Synthetic, rng: Any, arm: str, due: Any, start: int, how: str, *, paced: bool, cut: bool
) -> list[dict[str, Any]]:
    websocket = ARMS[arm]["protocol"] == "websocket"
    opening = (CONNECT_MS + TLS_MS.get(how, 0.0) + UPGRADE_MS * websocket) * 1e6 if how != "warm" else 0.0
    n = len(due)
    late, delivery, take_up = np.full(n, LATE_MS * 1e6), np.full(n, DELIVERY_MS * 1e6), EXCESS_MS[arm] - LATE_MS
    if what.noise:
        slow = {"sse-aiohttp": 1.0, "ws-aiohttp": 0.9, "ws-websockets": 1.2}[arm]
        late = 60e3 + slow * 120e3 * rng.lognormal(0, 0.7, n) + 4e6 * (rng.random(n) < 0.004) * rng.exponential(1, n)
        delivery = 15e3 + 10e3 * rng.lognormal(0, 0.5, n)
        take_up *= rng.lognormal(0, 0.2)
    if not paced:
        late = late + np.arange(n) * 9_000
    base = start + opening + (take_up - DELIVERY_MS) * 1e6
    written = base + np.maximum.accumulate(due + late)
    received = np.maximum.accumulate(written + delivery)
    half = n // 2 if cut else n
    return [
        {
            "taken_up_ns": int(base), "chunk": i, "tokens": 1, "due_ns": int(base + due[i]),
            "written_ns": int(written[i]), "received_ns": int(received[i]) if i < half else None,
        }
        for i in range(n)
    ]  # fmt: skip
