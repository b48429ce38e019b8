"""What reading one token costs the client, protocol by protocol: the instrument's own share of every measurement.

    taskset -c 1 python -m pytest tests/benchmarks/test_decode.py --benchmark-only -s

Each round reads TOKENS tokens; ns per token, printed and kept as ``extra_info``, is the fastest round divided by that.
Compare figures of one run only: a shared machine drifts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from bench.wire import make_wire
from bench.wire.events import Wire

TOKENS = 2048
READ = 65_536
VOCABULARY = [*(f" token{i}" for i in range(248)), "\n", ' "', "\\", "é", "中文", "😀", "👩‍👩‍👧", "\t"]


def chunk(delta: dict[str, str]) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    value = {"id": "chatcmpl-" + "0" * 29, "object": "chat.completion.chunk", "created": 1700000000, "model": "chat"}
    return json.dumps({**value, "choices": choices}, separators=(",", ":")).encode()


PAYLOADS = [chunk({"content": VOCABULARY[i % len(VOCABULARY)]}) for i in range(TOKENS)]
EVENTS = [b"data: %b\n\n" % payload for payload in PAYLOADS]
NUMBERED = [b"id: chatcmpl-%029d:%d\n%b" % (0, i, event) for i, event in enumerate(EVENTS)]
FRAMES = [Frame(Opcode.TEXT, payload).serialize(mask=False) for payload in PAYLOADS]


def http_chunks(bodies: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(body), body) for body in bodies]


def in_reads(pieces: list[bytes], size: int) -> list[bytes]:
    data = b"".join(pieces)
    return [data[i : i + size] for i in range(0, len(data), size)]


def sse() -> Wire:
    wire = make_wire("sse", "test:80")
    wire.request(1, b"{}")
    wire.receive(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    return wire


def websocket() -> Wire:
    wire, server = make_wire("websocket", "test:80"), ServerProtocol()
    server.receive_data(wire.opening())
    server.send_response(server.accept(server.events_received()[0]))  # type: ignore[arg-type]
    wire.receive(b"".join(server.data_to_send()))
    wire.request(1, b"{}")
    return wire


SSE_READS = {
    "coalesced, 64 KiB reads": in_reads(http_chunks(EVENTS), READ),
    "one token a read": http_chunks(EVENTS),
    "one segment a read (1448 bytes)": in_reads(http_chunks(EVENTS), 1448),
    "four events an HTTP chunk": in_reads(
        http_chunks([b"".join(EVENTS[i : i + 4]) for i in range(0, TOKENS, 4)]), READ
    ),
    "three HTTP chunks an event": in_reads(
        http_chunks([part for payload in PAYLOADS for part in (b"data: ", payload, b"\n\n")]), READ
    ),
    "with event ids": in_reads(http_chunks(NUMBERED), READ),
    "with event ids, one token a read": http_chunks(NUMBERED),
    "with event ids of another form": in_reads(
        http_chunks([b"id: %d-\n%b" % pair for pair in enumerate(EVENTS)]), READ
    ),
}
WEBSOCKET_READS = {
    "coalesced, 64 KiB reads": in_reads(FRAMES, READ),
    "one token a read": FRAMES,
    "one segment a read (1448 bytes)": in_reads(FRAMES, 1448),
    "a ping every 16 frames": in_reads([f if i % 16 else b"\x89\x00" + f for i, f in enumerate(FRAMES)], READ),
}
CASES = [
    *(pytest.param(sse, reads, id=f"sse: {name}") for name, reads in SSE_READS.items()),
    *(pytest.param(websocket, reads, id=f"websocket: {name}") for name, reads in WEBSOCKET_READS.items()),
]


def measure(benchmark: BenchmarkFixture, run: Callable[[], Any]) -> None:
    benchmark.pedantic(run, rounds=200, warmup_rounds=3)
    if benchmark.stats is not None:  # None with --benchmark-disable
        per_token = benchmark.stats.stats.min / TOKENS * 1e9
        benchmark.extra_info["ns_per_token"] = round(per_token)
        print(f"{per_token:6.0f} ns/token  {benchmark.name}")


@pytest.mark.parametrize(("connect", "reads"), CASES)
def test_wire(benchmark: BenchmarkFixture, connect: Callable[[], Wire], reads: list[bytes]) -> None:
    wire = connect()
    rounds = 0

    def run() -> None:
        nonlocal rounds
        rounds += 1
        receive, to_send = wire.receive, wire.to_send
        for data in reads:
            receive(data)
            to_send()

    measure(benchmark, run)
    assert wire.sizes.chunks == rounds * TOKENS


@pytest.mark.parametrize("reads", [in_reads(FRAMES, READ), FRAMES], ids=["coalesced", "one token a read"])
def test_websockets_alone(benchmark: BenchmarkFixture, reads: list[bytes]) -> None:
    """For comparison: the Sans-I/O protocol of websockets, frames only, JSON left alone."""
    protocol = ClientProtocol(parse_uri("ws://test"), state=State.OPEN)
    frames = 0

    def run() -> None:
        nonlocal frames
        frames = 0
        for data in reads:
            protocol.receive_data(data)
            frames += len(protocol.events_received())

    measure(benchmark, run)
    assert frames == TOKENS


@pytest.mark.parametrize("reads", [in_reads(FRAMES, READ), FRAMES], ids=["coalesced", "one token a read"])
def test_counting_alone(benchmark: BenchmarkFixture, reads: list[bytes]) -> None:
    """The floor: a reader that looks at every byte once and understands nothing."""

    def run() -> int:
        return sum([data.count(b'"content"') for data in reads])

    measure(benchmark, run)
    assert run() >= TOKENS - len(reads)
