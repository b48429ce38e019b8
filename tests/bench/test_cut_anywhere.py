"""Replies that end after any of their bytes, and replies that come in pieces of any size, as the driver's client has
them: from servers, over sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from driven import ENGINES, Server, client_of, starting, stream, texts, together
from websockets.utils import accept_key

from bench.drivers.client import Client
from bench.drivers.engine import Engine
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
    """Clients on an engine of their own."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine
        self._clients: list[Client] = []

    def client(self, server: Server | None, protocol: str, port: int = 0) -> Client:
        folder = self._folder / f"{len(self._clients)}"
        self._clients.append(client_of(self._engine, folder, server, protocol, AMPLE, port))
        return self._clients[-1]

    async def streams(self, wanted: Iterable[tuple[Client, str]]) -> list[StreamRecord]:
        """One of each client and profile over new connections, always of the same seed."""
        return await together(self._engine, (stream(client, 0, profile, "cold") for client, profile in wanted), AT_ONCE)

    def close(self) -> None:
        for client in self._clients:
            client.log.close()
            assert not client.busy


def run(folder: Path, work: Callable[[Bench], Coroutine[Any, Any, T]], engine: str = "asyncio") -> T:
    async def all_of_it(engine: Engine) -> T:
        bench = Bench(folder / "clients", engine)
        found = await work(bench)
        bench.close()
        return found

    done = ENGINES[engine](all_of_it)
    assert (done.left, done.unhandled) == ([], [])
    return done.result


@contextlib.contextmanager
def answering(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> Iterator[int]:
    """A server in a thread of its own, for clients on any engine; yields its port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.close()


def brought(record: StreamRecord) -> list[str]:
    return record.text.split(SEPARATOR.decode()) if record.chunks else []


def model(byte: int) -> str:
    """That of a reply which is cut there; its name is as long as any other."""
    return f"m{byte:04}"


def accepting(key: str) -> bytes:
    """A reply to a WebSocket handshake, as long as any."""
    return head(101, {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-accept": accept_key(key)})


HANDSHAKE = len(accepting(""))


@pytest.mark.parametrize("engine", ["asyncio", pytest.param("gevent", marks=pytest.mark.thorough)])
@pytest.mark.parametrize(
    ("protocol", "first", "reason"), [("sse", 0, "closed"), ("websocket", HANDSHAKE, "no_close_frame")]
)
def test_a_reply_that_ends_after_any_of_its_bytes(
    tmp_path: Path, protocol: str, first: int, reason: str, engine: str
) -> None:
    """It is never complete unless all events were there, and what it brought is what was there."""
    # Where a fault would cut a handshake it would cut that of every model, so that these have a test of their own.
    faults = {model(byte): Fault(kind="cut_at_byte", byte=byte, attempts=0) for byte in range(first, LONGEST)}
    with starting() as servers:
        server = Server(tmp_path / "server", "faulty", dict.fromkeys(faults, SHORT), faults)
        servers.append(server)
        server.ready()

        async def work(bench: Bench) -> tuple[StreamRecord, list[StreamRecord]]:
            client = bench.client(server, protocol)
            (whole,) = await bench.streams([(client, model(LONGEST - 1))])
            cuts = range(first, whole.received_bytes)
            return whole, await bench.streams((client, model(byte)) for byte in cuts)

        whole, cut = run(tmp_path, work, engine)
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


@pytest.mark.parametrize("engine", ["asyncio", pytest.param("gevent", marks=pytest.mark.thorough)])
def test_a_handshake_that_ends_after_any_of_its_bytes(tmp_path: Path, engine: str) -> None:
    waiting = iter(range(HANDSHAKE))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        key = next(line for line in asked.decode().split("\r\n") if line.lower().startswith("sec-websocket-key:"))
        writer.write(accepting(key.partition(":")[2].strip())[: next(waiting)])
        writer.close()

    with answering(answer) as port:

        async def work(bench: Bench) -> list[StreamRecord]:
            return await bench.streams([(bench.client(None, "websocket", port), "any")] * HANDSHAKE)

        records = run(tmp_path, work, engine)
    found = sorted((record.received_bytes, record.outcome, record.reason) for record in records)
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
            return await bench.streams((client, "short") for client in clients)

        usual, *pieces = run(tmp_path, work)
    assert brought(usual) == texts(SHORT, usual.seed)
    for size, record in zip(SIZES, pieces, strict=True):
        assert (size, record.outcome, record.reason, record.text) == (size, "complete", "", usual.text)
        assert (size, record.received_bytes, record.sent_bytes) == (size, usual.received_bytes, usual.sent_bytes)
