"""Clients that leave, servers that end, and what the emission log says of both."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import time

import httpx
import pytest
from conftest import STACKS, Start
from serving import CHAT, Server, body
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from servers.appendlog import read
from servers.emission_log import RECORD, Ended
from servers.emitter import profile_hash


def begin_sse(server: Server, model: str) -> socket.socket:
    """Begin a stream on a plain socket and read something of it."""
    data = json.dumps(body(model)).encode()
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(data), data))
    seen = b""
    while b'"delta":{"content":' not in seen:
        seen += client.recv(65536)
    return client


def ended(server: Server, streams: int = 1) -> list[int | None]:
    """How streams ended, once the log of the running server says it of all of them."""
    deadline = time.monotonic() + 10
    while True:
        found = [stream["ended"] for stream in server.streams()]
        if (len(found) == streams and None not in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


@pytest.mark.parametrize("model", ["endless", "stalling"])
def test_an_sse_client_leaves(start: Start, sse_stack: str, model: str) -> None:
    server = start(sse_stack)
    begin_sse(server, model).close()
    assert ended(server) == [Ended.CLIENT_GONE], "at once, not at the next token"


@pytest.mark.parametrize("model", ["endless", "stalling"])
@pytest.mark.parametrize("politely", [True, False])
def test_a_websocket_client_leaves(start: Start, stack: str, model: str, politely: bool) -> None:
    server = start(stack)

    async def run() -> None:
        async with asyncio.timeout(10):
            client = await connect(server.ws)
            await client.send(json.dumps(body(model)))
            await client.recv()
            if politely:
                await client.close()
            else:
                client.transport.abort()

    asyncio.run(run())
    assert ended(server) == [Ended.CLIENT_GONE]


def test_a_client_that_waits_for_a_whole_reply_leaves(start: Start, sse_stack: str) -> None:
    server = start(sse_stack)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.http + CHAT, json=body("stalling", stream=False), timeout=0.2)
    assert ended(server) == [Ended.CLIENT_GONE]


def test_a_client_that_does_not_read_stops_the_emission(start: Start, sse_stack: str) -> None:
    """Back-pressure: what is not read is not emitted beyond the buffers of sockets and library."""
    profile = {"first": {"dist": "constant", "ms": 0}, "gap": {"dist": "constant", "ms": 0}}
    profile |= {"length": {"dist": "fixed", "tokens": 200_000}}  # type: ignore[dict-item]
    server = start(sse_stack, profiles={"flood": profile})
    client = begin_sse(server, "flood")
    seen, still = -1, 0
    while still < 5:
        time.sleep(0.1)
        now = len(read(server.log, RECORD)) // struct.calcsize(RECORD)
        seen, still = now, still + 1 if now == seen else 0
    assert seen < 150_000
    client.close()
    assert ended(server) == [Ended.CLIENT_GONE]


async def until_closed(client: ClientConnection) -> None:
    """Read on; raises `ConnectionClosed`."""
    while True:
        await client.recv()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_cuts_sse(start: Start, sse_stack: str, number: int) -> None:
    server = start(sse_stack)
    client = begin_sse(server, "endless")
    began = time.monotonic()
    assert server.stop(number) == (0, "", "")
    assert time.monotonic() - began < 2
    rest = b""
    while data := client.recv(65536):
        rest += data
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n"), "a cut must not look like an end"
    assert [stream["ended"] for stream in server.streams()] == [Ended.SHUTDOWN]


def test_shutdown_closes_websockets_with_1001(start: Start, stack: str) -> None:
    server = start(stack)

    async def run() -> list[int | None]:
        async with asyncio.timeout(10), connect(server.ws) as busy, connect(server.ws) as idle:
            await busy.send(json.dumps(body("endless")))
            await busy.recv()
            server.process.send_signal(signal.SIGTERM)
            for client in (busy, idle):
                with pytest.raises(ConnectionClosed):
                    await until_closed(client)
            return [busy.close_code, idle.close_code]

    assert asyncio.run(run()) == [1001, 1001]
    assert server.stop() == (0, "", "")
    assert [stream["ended"] for stream in server.streams()] == [Ended.SHUTDOWN]


def check_stops(servers: list[Server]) -> None:
    """All stop when they are told to, some time before the 10 s that libraries would give their clients."""
    began = time.monotonic()
    for server in servers:
        server.process.send_signal(signal.SIGTERM)
    for server in servers:
        assert server.process.communicate(timeout=10) == ("", ""), server.stack
        assert server.process.returncode == 0, server.stack
    assert time.monotonic() - began < 6


def test_shutdown_does_not_wait_for_clients_that_are_silent(start: Start) -> None:
    """One that never answers the closing handshake, and one that never sent a request."""
    servers = [start(stack) for stack in STACKS]
    clients = []
    for server in servers:
        idle, client = (socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2))
        clients += [idle, client]
        client.sendall(
            b"GET %b HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % CHAT.encode()
        )
        assert client.recv(65536).startswith(b"HTTP/1.1 101")
    check_stops(servers)
    for client in clients:
        client.close()


def test_the_log_of_a_stream(start: Start, sse_stack: str) -> None:
    server = start(sse_stack)
    for _ in range(2):
        httpx.post(server.http + CHAT, json=body(seed=-7))
    server.stop()
    for attempt, stream in enumerate(server.streams()):
        assert (stream["seed"], stream["attempt"], stream["first"]) == (-7, attempt, 0)
        assert stream["profile"] == profile_hash("quick")
        assert stream["ended"] == Ended.COMPLETE
        start_ns = stream["taken_up_ns"]
        assert [token[:2] for token in stream["tokens"]] == [(i, start_ns + (4 + 2 * i) * 10**6) for i in range(12)]
        assert all(written >= due for _, due, written in stream["tokens"])
        assert stream["tokens"][-1][2] <= stream["ended_ns"]


def test_a_killed_server_leaves_its_log(start: Start) -> None:
    server = start()
    client = begin_sse(server, "endless")
    server.process.kill()
    server.process.wait()
    (stream,) = server.streams()
    assert stream["ended"] is None
    assert stream["tokens"]
    client.close()
