"""Replies that end after any of their bytes, and replies that come in pieces of any size, as the driver's client has
them: from servers, over sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop
from driven import Server, client_of, starting, stream, texts
from websockets.utils import accept_key

from bench.drivers.asyncio_ import AsyncioEngine
from bench.drivers.client import Client
from bench.network.between import between
from bench.network.profiles import Network
from bench.rawlog import StreamRecord
from bench.scenario import OFFERS, Timeouts
from bench.wire.events import SEPARATOR
from servers.bare.http1 import head
from servers.emitter import Constant, Fixed, Profile
from servers.faults import Fault

SHORT = Profile(first=Constant(ms=0), gap=Constant(ms=0), length=Fixed(tokens=2), text="chinese")
AMPLE = Timeouts(connect_s=20, head_s=20, first_s=20, gap_s=20, total_s=60)
AT_ONCE = 64
"""Connections; half of the smallest common listen backlog."""
LONGEST = 2000
"""Bytes; longer than any reply here."""
BEHIND_DONE = len(b"\r\n0\r\n\r\n")
"""Bytes of an HTTP reply behind its last event."""
SIZES = range(1, 257)
"""Bytes of the pieces: up to more than the longest message has."""

T = TypeVar("T")


class Bench:
    """Clients in an event loop of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._engine = AsyncioEngine(self._loop)
        self._clients: list[Client] = []
        self._room = asyncio.Semaphore(AT_ONCE)

    def client(self, server: Server | None, protocol: str, port: int = 0) -> Client:
        folder = self._folder / f"{len(self._clients)}"
        self._clients.append(client_of(self._engine, folder, server, protocol, AMPLE, port))
        return self._clients[-1]

    async def stream(self, client: Client, profile: str) -> StreamRecord:
        """One over a new connection, always of the same seed."""
        async with self._room:
            return await stream(client, 0, profile, "cold")

    def close(self) -> None:
        for client in self._clients:
            client.log.close()
            assert not client.busy
        self._engine.pacer.close()


def run(folder: Path, work: Callable[[Bench], Awaitable[T]]) -> T:
    async def all_of_it() -> T:
        bench = Bench(folder / "clients")
        async with asyncio.timeout(60):
            found = await work(bench)
        bench.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(all_of_it())


def brought(record: StreamRecord) -> list[str]:
    return record.text.split(SEPARATOR.decode()) if record.chunks else []


def model(byte: int) -> str:
    """That of a reply which is cut there; its name is as long as any other."""
    return f"m{byte:04}"


def accepting(key: str) -> bytes:
    """A reply to a WebSocket handshake, as long as any."""
    return head(101, {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-accept": accept_key(key)})


HANDSHAKE = len(accepting(""))


@pytest.mark.parametrize(
    ("protocol", "first", "reason"), [("sse", 0, "closed"), ("websocket", HANDSHAKE, "no_close_frame")]
)
def test_a_reply_that_ends_after_any_of_its_bytes(tmp_path: Path, protocol: str, first: int, reason: str) -> None:
    """It is never complete unless all events were there, and what it brought is what was there."""
    # Where a fault would cut a handshake it would cut that of every model, so that these have a test of their own.
    faults = {model(byte): Fault(kind="cut_at_byte", byte=byte, attempts=0) for byte in range(first, LONGEST)}
    with starting() as servers:
        server = Server(tmp_path / "server", "faulty", dict.fromkeys(faults, SHORT), faults)
        servers.append(server)
        server.ready()

        async def work(bench: Bench) -> tuple[StreamRecord, list[StreamRecord]]:
            client = bench.client(server, protocol)
            whole = await bench.stream(client, model(LONGEST - 1))
            cuts = range(first, whole.received_bytes)
            return whole, await asyncio.gather(*(bench.stream(client, model(byte)) for byte in cuts))

        whole, cut = run(tmp_path, work)
    expected = texts(SHORT, whole.seed)
    assert (whole.outcome, whole.reason, brought(whole)) == ("complete", "", expected)
    assert first < 500 < whole.received_bytes < LONGEST - 1
    assert protocol == "sse" or whole.head_bytes == HANDSHAKE
    assert [record.received_bytes for record in cut] == [*range(first, whole.received_bytes)]
    done = whole.received_bytes - (BEHIND_DONE if protocol == "sse" else 0)
    fates = [(record.outcome, record.reason) for record in cut]
    assert fates[: done - first] == [("truncated", reason)] * (done - first)
    assert fates[done - first :] == [("complete", "")] * (whole.received_bytes - done)
    counts = [record.chunks for record in cut]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}
    assert all(brought(record) == expected[: record.chunks] for record in cut)


def test_a_handshake_that_ends_after_any_of_its_bytes(tmp_path: Path) -> None:
    waiting = iter(range(HANDSHAKE))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        key = next(line for line in asked.decode().split("\r\n") if line.lower().startswith("sec-websocket-key:"))
        writer.write(accepting(key.partition(":")[2].strip())[: next(waiting)])
        writer.close()

    async def work(bench: Bench) -> list[StreamRecord]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            client = bench.client(None, "websocket", server.sockets[0].getsockname()[1])
            return await asyncio.gather(*(bench.stream(client, "any") for _ in range(HANDSHAKE)))

    found = sorted((record.received_bytes, record.outcome, record.reason) for record in run(tmp_path, work))
    assert found == [(byte, "truncated", "handshake_closed") for byte in range(HANDSHAKE)]


@pytest.mark.parametrize(
    ("stack", "protocol"),
    [(stack, protocol) for stack, protocols in OFFERS.items() if stack != "faulty" for protocol in protocols],
)
def test_a_reply_in_pieces_of_any_size(tmp_path: Path, stack: str, protocol: str) -> None:
    """Requests and handshakes come in such pieces, too."""
    with starting() as servers, between(Network(rtt_ms=0), "proxy", 1) as path:
        server = Server(tmp_path / "server", stack, {"short": SHORT}, {})
        servers.append(server)
        server.ready()
        ports = [path.reach("127.0.0.1", server.port, (size,))[1] for size in SIZES]

        async def work(bench: Bench) -> list[StreamRecord]:
            clients = [bench.client(server, protocol, port) for port in (server.port, *ports)]
            return await asyncio.gather(*(bench.stream(client, "short") for client in clients))

        usual, *pieces = run(tmp_path, work)
    assert brought(usual) == texts(SHORT, usual.seed)
    for size, record in zip(SIZES, pieces, strict=True):
        assert (size, record.outcome, record.reason, record.text) == (size, "complete", "", usual.text)
        assert (size, record.received_bytes, record.sent_bytes) == (size, usual.received_bytes, usual.sent_bytes)
