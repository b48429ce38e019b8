"""What a token costs Locust's users, beside a gevent loop that only reads, stamps and counts; and how late they are.

    make bench-micro

All read the same paced streams, one token a read, each kind in a process of its own on one core, the roofline server
on another. The CPU time of the process counts, of a span in which every stream runs, divided by the tokens sent in it.
At this rate most tokens wake the process, which is part of the figure. The first token is late by what the server had
sent after it when the user's code had it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import numpy as np
from locust_clients import MODEL
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.rawlog import STREAMS_FILE, StreamRecord
from bench.trial import Cores
from bench.usage import cpu_ns
from servers.emission_log import CLOSED, DTYPE, IDENT, read_emissions

STREAMS = 100
TOKENS = 76
GAP_MS = 25
SPAN_S = 1.0
ROUNDS = 3
PATIENCE_S = 20.0

# First tokens come when all are connected, and spread over several gaps: streams do not bring theirs at one moment.
PROFILE = {
    "first": {"dist": "lognormal", "median_ms": 300, "sigma": 0.2},
    "gap": {"dist": "constant", "ms": GAP_MS},
    "length": {"dist": "fixed", "tokens": TOKENS},
}

LOAD = {"load": "closed", "users": STREAMS, "turns": 1, "think_s": 60, "connections": "cold", "profile": MODEL}
ARMS = {"a": {"protocol": "sse", "stack": "roofline"}, "b": {"protocol": "websocket", "stack": "roofline"}}
LOCUSTFILE = Path(__file__).parents[2] / "bench/swarm/locustfile.py"

CLIENTS = {
    "bare-sse": "gevent loop, SSE",
    "fast": "FastHttpUser.iter_lines",
    "fast-json": "FastHttpUser.iter_lines, json.loads",
    "http-json": "HttpUser, stream=True, json.loads",
    "ours-sse": "tokenwire, SSE",
    "bare-websocket": "gevent loop, WebSocket",
    "websocket-json": "websocket-client, json.loads",
    "ours-websocket": "tokenwire, WebSocket",
}
"""Kind of client -> what it is called; after each bare loop those of its protocol."""


class Figure(NamedTuple):
    """One run of a client."""

    ns_per_token: float
    tokens_per_s: float
    core_share: float
    late_tokens: float
    late_ms: float
    """Of the median stream, as the one before."""


def ours(protocol: str, port: int, core: int, folder: Path) -> list[str]:
    """tokenwire's own locustfile, with all that it does: `STREAMS` users have one stream of model `MODEL` each."""
    tables = {"profiles": {MODEL: PROFILE}, "phases": {"phase": LOAD}, "arms": ARMS}
    file = folder / "paced.toml"
    file.write_text(
        'title = "Paced"\n'
        + "".join(toml(f"{kind}.{name}", table) for kind, of in tables.items() for name, table in of.items())
    )
    keep = (
        f"import os, sys; {core} < 0 or os.sched_setaffinity(0, [{core}]); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    return [
        *(sys.executable, "-c", keep, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"),
        *("-u", str(STREAMS), "-r", str(STREAMS), "-t", "4s", "--host", f"http://127.0.0.1:{port}"),
        *("--scenario", str(file), "--protocol", protocol, "--records", str(folder)),
    ]


def toml(name: str, table: dict[str, Any]) -> str:
    inline = {
        k: "{" + ", ".join(f"{n} = {json.dumps(v)}" for n, v in value.items()) + "}"
        for k, value in table.items()
        if isinstance(value, dict)
    }
    return f"[{name}]\n" + "".join(f"{k} = {inline.get(k) or json.dumps(value)}\n" for k, value in table.items())


def command(kind: str, port: int, core: int, folder: Path) -> list[str]:
    if kind.startswith("ours-"):
        return ours(kind.removeprefix("ours-"), port, core, folder)
    clients = Path(__file__).with_name("locust_clients.py")
    return [sys.executable, str(clients), kind, str(port), str(STREAMS), str(core)]


@contextmanager
def server(folder: Path, core: int) -> Iterator[int]:
    """A server for one run, on its core; yields its port. Its log is `emissions.bin`."""
    config = folder / "server.json"
    settings: dict[str, Any] = {"profiles": {MODEL: PROFILE}, "log": str(folder / "emissions.bin")}
    config.write_text(json.dumps(settings | ({"cpus": [core]} if core >= 0 else {})))
    process = subprocess.Popen(
        [sys.executable, "-m", "servers", "roofline", "--config", str(config)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["port"]
    finally:
        process.terminate()
        process.communicate()


def emitted(folder: Path) -> NDArray[Any]:
    return np.frombuffer(read_emissions(folder / "emissions.bin"), DTYPE)


def measured(arguments: list[str], folder: Path, told: Callable[[bytes], dict[int, tuple[int, int]]]) -> Figure:
    """Run a client whose streams all go to the server of `folder`; `told` makes of its output what `lateness` reads."""
    client = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while np.count_nonzero(emitted(folder)["ordinal"] == 0) < STREAMS:
            assert client.poll() is None, "the client ended early"
            assert time.monotonic() < deadline, "not all streams have begun"
            time.sleep(0.02)
        begin_ns, cpu_begin_ns = time.monotonic_ns(), cpu_ns(client.pid)
        time.sleep(SPAN_S)
        end_ns, cpu_end_ns = time.monotonic_ns(), cpu_ns(client.pid)
        output, _ = client.communicate(timeout=PATIENCE_S)
        assert client.returncode == 0
    finally:
        client.kill()
        client.wait()
    log = emitted(folder)
    closed_ns = log["a"][log["ordinal"] == CLOSED]
    assert len(closed_ns) == STREAMS
    assert closed_ns.min() > end_ns, "a stream ended within the span"
    written_ns = log["b"][log["ordinal"] < TOKENS]
    tokens = np.count_nonzero((written_ns >= begin_ns) & (written_ns < end_ns))
    used_ns, span_ns = cpu_end_ns - cpu_begin_ns, end_ns - begin_ns
    late = lateness(log, told(output))
    return Figure(
        used_ns / tokens,
        tokens / span_ns * 1e9,
        used_ns / span_ns,
        median(tokens for tokens, _ in late),
        median(ms for _, ms in late),
    )


def printed(output: bytes) -> dict[int, tuple[int, int]]:
    """Seed -> tokens and first token (ns) of each stream, as `locust_clients` prints them."""
    return {seed: (tokens, first_ns) for seed, (tokens, first_ns) in enumerate(json.loads(output))}


def recorded(folder: Path) -> dict[int, tuple[int, int]]:
    """The same, as tokenwire's raw records have them."""
    lines = [line for file in folder.rglob(STREAMS_FILE) for line in file.read_bytes().splitlines()]
    records = [msgspec.json.decode(line, type=StreamRecord) for line in lines]
    return {record.seed: (record.chunks, record.first_content_ns) for record in records if record.window}


def told_by(kind: str, folder: Path) -> Callable[[bytes], dict[int, tuple[int, int]]]:
    return (lambda _: recorded(folder)) if kind.startswith("ours-") else printed


def lateness(log: NDArray[Any], streams: dict[int, tuple[int, int]]) -> list[tuple[float, float]]:
    """By how many tokens and by how many ms the first token of each stream was late."""
    seeds = {int(ident["a"]): int(ident["stream"]) for ident in log[log["ordinal"] == IDENT]}
    late = []
    for seed, (tokens, first_ns) in streams.items():
        assert tokens == TOKENS
        written_ns = log["b"][(log["stream"] == seeds[seed]) & (log["ordinal"] < TOKENS)]
        late.append((float(np.count_nonzero(written_ns < first_ns)) - 1, (first_ns - written_ns.min()) / 1e6))
    return late


def test_cpu_per_token(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """All clients in turn, three times over, so that they see the same machine."""
    cores = Cores.split()
    server_core, client_core = (cores.server[0], cores.driver[0]) if cores is not None else (-1, -1)
    runs: dict[str, list[Figure]] = {}

    def take_turns() -> None:
        for turn in range(ROUNDS):
            for kind in CLIENTS:
                folder = tmp_path / f"{turn}-{kind}"
                folder.mkdir()
                with server(folder, server_core) as port:
                    arguments = command(kind, port, client_core, folder)
                    runs.setdefault(kind, []).append(measured(arguments, folder, told_by(kind, folder)))

    benchmark.pedantic(take_turns, rounds=1)
    print(f"\n{'':38}{'CPU µs/token':>14}{'ratio':>8}{'tokens/s':>10}{'core':>7}{'first token late by':>26}")
    bare = math.nan
    for kind, figures in runs.items():
        figure = Figure(*(median(values) for values in zip(*figures, strict=True)))
        bare = figure.ns_per_token if kind.startswith("bare-") else bare
        ratio = figure.ns_per_token / bare
        benchmark.extra_info[kind] = {"us_per_token": round(figure.ns_per_token / 1e3, 2), "ratio": round(ratio, 2)}
        print(
            f"{CLIENTS[kind]:38}{figure.ns_per_token / 1e3:14.1f}{ratio:8.2f}{figure.tokens_per_s:10,.0f}"
            f"{figure.core_share:7.0%}{figure.late_tokens:10.0f} tokens{figure.late_ms:7.1f} ms"
        )
