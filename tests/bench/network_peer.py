"""The two ends of a path, as processes: `network_peer.py serve HOST` and `network_peer.py WHAT HOST PORT N`.

The server says its port and echoes, on every connection, until the client is done. The client prints JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from random import Random
from typing import Any

TOTAL_RETRANSMITS = 100
"""Where struct tcp_info has them."""


def echo(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while data := connection.recv(65_536):
            connection.sendall(data)


def serve(host: str) -> None:
    listener = socket.create_server((host, 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def connect(host: str, port: int) -> tuple[socket.socket, float]:
    """A connection, and how long connect() took in ms."""
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.settimeout(20)
    start = time.monotonic()
    client.connect((host, port))
    return client, (time.monotonic() - start) * 1e3


def receive(client: socket.socket, size: int) -> bytes:
    parts = []
    while size and (part := client.recv(min(size, 65_536))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def ping(host: str, port: int, times: int) -> dict[str, Any]:
    """How long connect(), the first answer since connect() began, and round trips take, in ms."""
    start = time.monotonic()
    client, connect_ms = connect(host, port)
    trips = []
    first_ms = 0.0
    with client:
        for _ in range(times):
            sent = time.monotonic()
            client.sendall(b"x" * 200)
            assert receive(client, 200) == b"x" * 200
            trips.append((time.monotonic() - sent) * 1e3)
            first_ms = first_ms or (time.monotonic() - start) * 1e3
    return {"connect": connect_ms, "first": first_ms, "trips": trips}


def bulk(host: str, port: int, size: int) -> dict[str, Any]:
    """Whether so many bytes come back as they went, how long that took in s, and segments sent again."""
    sent = Random(size).randbytes(size)
    client, _ = connect(host, port)
    with client:
        start = time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        same = receive(client, size) == sent
        sender.join()
        seconds = time.monotonic() - start
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    retransmits = int.from_bytes(info[TOTAL_RETRANSMITS : TOTAL_RETRANSMITS + 4], sys.byteorder)
    return {"same": same, "seconds": seconds, "retransmits": retransmits}


def connects(host: str, port: int, times: int) -> dict[str, Any]:
    """How long so many connects took, one after another, in ms."""
    took = []
    for _ in range(times):
        client, connect_ms = connect(host, port)
        client.close()
        took.append(connect_ms)
    return {"took": took}


def paced(host: str, port: int, times: int) -> dict[str, Any]:
    """Round trips in ms on so many connections at once, 50 a second on each, for two seconds."""
    import asyncio  # takes longer than most of what others do here

    async def one(number: int, start: float) -> list[float]:
        reader, writer = await asyncio.open_connection(host, port)
        trips = []
        for turn in range(100):
            await asyncio.sleep(start + (turn + number / times) / 50 - time.monotonic())
            sent = time.monotonic()
            writer.write(b"x" * 200)
            await reader.readexactly(200)
            trips.append((time.monotonic() - sent) * 1e3)
        writer.close()
        return trips

    async def every() -> list[list[float]]:
        start = time.monotonic() + 1
        return await asyncio.gather(*(one(number, start) for number in range(times)))

    return {"trips": [trip for trips in asyncio.run(every()) for trip in trips]}


def many(host: str, port: int, times: int) -> dict[str, Any]:
    """How many of so many connections, open at once, have their own bytes come back."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(20) as pool:
        clients = [client for client, _ in pool.map(lambda _: connect(host, port), range(times))]
    for number, client in enumerate(clients):
        client.sendall(b"%6d" % number)
    right = sum(receive(client, 6) == b"%6d" % number for number, client in enumerate(clients))
    for client in clients:
        client.close()
    return {"right": right}


def refused(host: str, port: int, _times: int) -> dict[str, Any]:
    """What a client meets where no server listens, and after how long in ms."""
    start = time.monotonic()
    try:
        with connect(host, port)[0] as client:
            client.recv(1)
            met = "nothing"
    except OSError as error:
        met = type(error).__name__
    return {"met": met, "after": (time.monotonic() - start) * 1e3}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        host, port, times = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        print(
            json.dumps(
                {f.__name__: f for f in (ping, bulk, connects, paced, many, refused)}[sys.argv[1]](host, port, times)
            )
        )
