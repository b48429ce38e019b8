"""What the whole client costs per token, one read a token, beside a protocol that only counts its reads.

Both run on the same uvloop over TCP loopback in this process, which is kept to one core. A round writes one token to
each of many sockets, outside the clock; then the loop reads them all, and only its CPU time counts. `make bench-micro`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from frames import content, opening_reply
from pytest_benchmark.fixture import BenchmarkFixture

from bench.drivers.connection import Connection
from bench.rawlog import RawLog, StreamRecord, content_reads
from bench.scenario import Timeouts
from bench.session import Counters, Session
from bench.wire import make_wire

SOCKETS = 250
ROUNDS = 40
WARM_UP = 10
TOKENS = SOCKETS * ROUNDS


class Counting(asyncio.Protocol):
    """The least a client can do with a read: count it."""

    reads = 0

    def data_received(self, _data: bytes) -> None:
        Counting.reads += 1


@pytest.fixture
def pinned() -> Iterator[None]:
    """One core, and no collections, as in the driver."""
    gc.collect()
    gc.disable()
    yield from on_one_core()
    gc.enable()


def on_one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


class Crowd:
    """Sockets whose far ends are in our hands."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], asyncio.Protocol]) -> None:
        self.loop = loop
        self.ends: list[socket.socket] = []
        self.protocols: list[asyncio.Protocol] = []
        with socket.create_server(("127.0.0.1", 0), backlog=SOCKETS) as listener:
            for _ in range(SOCKETS):
                near = socket.create_connection(listener.getsockname())
                end, _ = listener.accept()
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                near.setblocking(False)
                _, protocol = loop.run_until_complete(loop.create_connection(make, sock=near))
                self.ends.append(end)
                self.protocols.append(protocol)

    def send(self, data: bytes) -> None:
        for end in self.ends:
            end.sendall(data)

    def read_until(self, count: Callable[[], int], target: int) -> int:
        """Run the loop until all is read; return the CPU time that took, in ns."""

        async def wait() -> None:
            while count() < target:  # noqa: ASYNC110 - nothing else could set an event without costing what is measured
                await asyncio.sleep(0)

        start = time.process_time_ns()
        self.loop.run_until_complete(wait())
        return time.process_time_ns() - start

    def close(self) -> None:
        for end in self.ends:
            end.close()


def bare_ns(loop: asyncio.AbstractEventLoop, token: bytes) -> float:
    """CPU ns per token of the counting protocol."""
    Counting.reads = 0
    crowd = Crowd(loop, Counting)
    total = 0
    for done in range(1, ROUNDS + 1):
        crowd.send(token)
        total += crowd.read_until(lambda: Counting.reads, done * SOCKETS)
    crowd.close()
    return total / TOKENS


def client_ns(loop: asyncio.AbstractEventLoop, protocol: str, folder: Path) -> float:
    """CPU ns per token of the driver's connection, session, wire half and raw log."""
    log, counters = RawLog(folder), Counters()
    timeouts = Timeouts()
    records: list[StreamRecord] = []

    def make() -> Connection:
        session = Session(make_wire(protocol, "localhost:1"), timeouts, log, counters)
        number = len(records) + 1
        records.append(StreamRecord(number, "p", 0, True, number, 1, True, 0))
        session.ask(records[-1], b"{}")
        session.connecting(time.monotonic_ns())
        return Connection(loop, session)

    crowd = Crowd(loop, make)
    for end in crowd.ends:
        end.sendall(opening_reply(protocol, end.recv(65_536)))
    # Every request must be on its way before the first chunk.
    crowd.read_until(lambda: sum(record.requested_ns > 0 for record in records), SOCKETS)
    # The first chunks teach the wire half what a chunk looks like; they are no part of the figure.
    for warm_up in range(1, WARM_UP + 1):
        crowd.send(content(protocol, f" token{warm_up % 10}"))
        crowd.read_until(lambda: counters.chunks, warm_up * SOCKETS)
    total = 0
    for done in range(WARM_UP + 1, WARM_UP + ROUNDS + 1):
        crowd.send(content(protocol, f" token{done % 10}"))
        total += crowd.read_until(lambda: counters.chunks, done * SOCKETS)
    crowd.close()
    crowd.read_until(lambda: sum(record.ended_ns > 0 for record in records), SOCKETS)
    log.close()
    reads = [len(stamps) for _, stamps, _ in content_reads(folder)]
    assert reads == [WARM_UP + ROUNDS] * SOCKETS, (
        "a read brought more than one token: the figure would mean another thing"
    )
    return total / TOKENS


@pytest.mark.parametrize("protocol", ["sse", "websocket"])
@pytest.mark.usefixtures("pinned")
def test_whole_client_per_token(benchmark: BenchmarkFixture, protocol: str, tmp_path: Path) -> None:
    """Ratios of client to bare counting, taken in turn so that both see the same machine."""
    loop = uvloop.new_event_loop()
    pairs: list[tuple[float, float]] = []

    def pair() -> None:
        folder = tmp_path / str(len(pairs))
        folder.mkdir()
        pairs.append((client_ns(loop, protocol, folder), bare_ns(loop, content(protocol, " token"))))

    benchmark.pedantic(pair, rounds=7, warmup_rounds=1)
    loop.close()
    pairs.sort(key=lambda both: both[0] / both[1])
    client, bare = pairs[len(pairs) // 2]
    record(benchmark, client_us=client / 1e3, bare_us=bare / 1e3, ratio=client / bare)


def record(benchmark: BenchmarkFixture, **figures: Any) -> None:
    """Keep figures with the benchmark and say them."""
    benchmark.extra_info.update({name: round(value, 3) for name, value in figures.items()})
    print(f"\n{benchmark.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
