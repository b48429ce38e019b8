"""Clients on gevent that read the same streams, one kind a process: `locust_clients.py KIND PORT STREAMS CORE`.

Asks for STREAMS streams at once, the seeds being 0, 1, 2, ..., and prints as JSON, for each seed, how many tokens came
and when the code that reads had the first (CLOCK_MONOTONIC, ns). CORE is the one it keeps to; -1 where it may use all.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Callable, Iterator
from time import monotonic_ns
from typing import Any, NamedTuple

import gevent
from gevent import socket

CHAT = "/v1/chat/completions"
MODEL = "paced"
READ = 65_536


class Stream(NamedTuple):
    """What became of a stream."""

    tokens: int
    first_ns: int


def body(seed: int) -> dict[str, Any]:
    return {"model": MODEL, "stream": True, "seed": seed, "messages": [{"role": "user", "content": "hello"}]}


# The least that gevent can do: read, stamp, count.


def reads(connection: socket.socket, count: Callable[[bytearray, int], int], last: bytes) -> Stream:
    """Read up to `last`, with a stamp and a count of chunks for each read. The first chunk has the role and no token;
    the last says that the stream is done.
    """
    stamps_ns, counts = array("q"), array("I")
    buffer = bytearray(READ)
    while True:
        size = connection.recv_into(buffer)
        stamps_ns.append(monotonic_ns())
        counts.append(count(buffer, size))
        if not size or buffer.endswith(last, 0, size):
            break
    chunks = 0
    first_ns = 0
    for stamp_ns, came in zip(stamps_ns, counts, strict=True):
        chunks += came
        if chunks > 1 and not first_ns:
            first_ns = stamp_ns
    return Stream(chunks - 3, first_ns)  # the role, the reason why it stopped, the word that it is done


def events(buffer: bytearray, size: int) -> int:
    """Chunks in a read of SSE."""
    return buffer.count(b"data: ", 0, size)


def frames(buffer: bytearray, size: int) -> int:
    """Chunks in a read of WebSocket: its frames, the 16-bit lengths of which no read of these streams splits."""
    at = found = 0
    while at < size:
        length = buffer[at + 1]
        at += 4 + (buffer[at + 2] << 8 | buffer[at + 3]) if length == 126 else 2 + length
        found += 1
    assert at == size, "a read ended within a frame"
    return found


def bare_sse(port: int, seed: int) -> Stream:
    data = json.dumps(body(seed)).encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(data), data)
        )
        return reads(connection, events, b"0\r\n\r\n")


def bare_websocket(port: int, seed: int) -> Stream:
    data = bytearray(json.dumps(body(seed)).encode())
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(
            b"GET %b HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % CHAT.encode()
        )
        assert connection.recv(READ).endswith(b"\r\n\r\n")
        length = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        connection.sendall(b"\x81" + length + bytes(4) + data)  # a mask of zeros
        return reads(connection, frames, b"[DONE]")


# Users as people write them.


def read_texts(payloads: Iterator[str | bytes]) -> Stream:
    """Parse each payload, and count those with a text."""
    tokens = first_ns = 0
    for payload in payloads:
        if payload in ("[DONE]", b"[DONE]"):
            break
        if json.loads(payload)["choices"][0]["delta"].get("content"):
            tokens += 1
            first_ns = first_ns or monotonic_ns()
    return Stream(tokens, first_ns)


def count_lines(lines: Iterator[str]) -> Stream:
    """Look at no more than the beginning of each line."""
    chunks = first_ns = 0
    for line in lines:
        if line.startswith("data: "):
            chunks += 1
            if chunks == 2:
                first_ns = monotonic_ns()
    return Stream(chunks - 3, first_ns)


def locust_users(kind: str, port: int) -> Callable[[int], Stream]:
    """A stream of a new user of Locust, by seed."""
    # First of all it patches sockets, which the bare loops can do without.
    import locust
    import websocket
    from locust.env import Environment

    environment = Environment()

    class Fast(locust.FastHttpUser):
        host = f"http://127.0.0.1:{port}"

        def lines(self, seed: int) -> Iterator[str]:
            return self.client.iter_lines(CHAT, method="POST", json=body(seed))

    class Plain(locust.HttpUser):
        host = f"http://127.0.0.1:{port}"

        def payloads(self, seed: int) -> Iterator[bytes]:
            lines = self.client.post(CHAT, json=body(seed), stream=True).iter_lines()
            return (line[6:] for line in lines if line)

    class Socket(locust.User):
        def payloads(self, seed: int) -> Iterator[str | bytes]:
            connection = websocket.create_connection(f"ws://127.0.0.1:{port}{CHAT}")
            connection.send(json.dumps(body(seed)))
            return iter(connection.recv, None)

    kinds: dict[str, Callable[[int], Stream]] = {
        "fast": lambda seed: count_lines(Fast(environment).lines(seed)),
        "fast-json": lambda seed: read_texts(line[6:] for line in Fast(environment).lines(seed) if line),
        "http-json": lambda seed: read_texts(Plain(environment).payloads(seed)),
        "websocket-json": lambda seed: read_texts(Socket(environment).payloads(seed)),
    }
    return kinds[kind]


def main(kind: str, port: int, streams: int, core: int) -> None:
    if core >= 0:
        os.sched_setaffinity(0, {core})
    bare = {"bare-sse": bare_sse, "bare-websocket": bare_websocket}.get(kind)
    stream = (lambda seed: bare(port, seed)) if bare is not None else locust_users(kind, port)
    begun = [gevent.spawn(stream, seed) for seed in range(streams)]
    gevent.joinall(begun, raise_error=True)
    print(json.dumps([greenlet.value for greenlet in begun]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
