"""Plain sockets: requests as bytes, and all that comes back, byte for byte."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec
from serving import CHAT, Server, body
from test_sse import expected
from websockets.frames import Frame, Opcode

from servers.emitter import profile_hash

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" % CHAT.encode()
)
DONE_FRAME = b"\x81\x06[DONE]"
GOING_AWAY = b"\x88\x02\x03\xe9"
LAST_CHUNK = b"0\r\n\r\n"


def opened(server: Server, wait_s: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=wait_s)


class Secured:
    """TLS above a plain socket, whose own errors are not taken for an end: `ssl.SSLSocket` makes no difference."""

    def __init__(self, client: socket.socket, trust: ssl.SSLContext, name: str) -> None:
        self._client = client
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust.wrap_bio(self._in, self._out, server_hostname=name)
        self._until(self._tls.do_handshake)

    def _until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._client.sendall(self._out.read())
                data = self._client.recv(65_536)
                self._in.write(data) if data else self._in.write_eof()
            else:
                self._client.sendall(self._out.read())
                return done

    def sendall(self, data: bytes) -> None:
        self._until(lambda: self._tls.write(data))

    def recv(self, most: int) -> bytes:
        try:
            return bytes(self._until(lambda: self._tls.read(most)))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""


def post(model: str, *headers: bytes, **fields: Any) -> bytes:
    """A request for an event stream."""
    data = json.dumps(body(model, **fields)).encode()
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (CHAT.encode(), lines, len(data), data)


def message(model: str, **fields: Any) -> bytes:
    """A request in a masked frame."""
    return Frame(Opcode.TEXT, json.dumps(body(model, **fields)).encode()).serialize(mask=True)


def received(client: socket.socket | Secured, enough: Callable[[bytes], bool] = lambda _: False) -> tuple[bytes, str]:
    """What comes until it is enough ("open"), the connection ends ("fin") or is reset ("reset"), or nothing more does,
    by the time-out of the socket ("silence").
    """
    seen = bytearray()
    while not enough(seen):
        try:
            data = client.recv(262_144)
        except ConnectionResetError:
            return bytes(seen), "reset"
        except TimeoutError:
            return bytes(seen), "silence"
        if not data:
            return bytes(seen), "fin"
        seen += data
    return bytes(seen), "open"


def frames(server: Server, client: socket.socket | Secured, end: bytes) -> tuple[bytes, str]:
    """What comes until `end`; a close with 1001 is answered where a server waits for that.

    aiohttp does not: it closes at once, and an answer that it has not read by then has the kernel reset the connection.
    """
    data, how = received(client, lambda seen: seen.endswith((end, GOING_AWAY)))
    if data.endswith(GOING_AWAY):
        if server.stack != "aiohttp":
            client.sendall(Frame(Opcode.CLOSE, GOING_AWAY[2:]).serialize(mask=True))
        rest, how = received(client)
        return data + rest, how
    return data, how


def payloads(role: bytes, model: str, seed: int) -> list[bytes]:
    """All payloads of a stream, given its first."""
    delta = b'"delta":{"role":"assistant","content":""},"finish_reason":null'
    assert delta in role
    stop = role.replace(delta, b'"delta":{},"finish_reason":"stop"')
    contents = [
        role.replace(delta, b'"delta":{"content":%b},"finish_reason":null' % msgspec.json.encode(text))
        for text in expected(model, seed)
    ]
    return [role, *contents, stop, b"[DONE]"]


def framed(payload: bytes) -> bytes:
    """A text frame of a server."""
    size = len(payload)
    return b"\x81" + (bytes((size,)) if size < 126 else b"\x7e" + struct.pack(">H", size)) + payload


def first_frame(data: bytes) -> bytes:
    """The payload of the role chunk, which has a length of 16 bits."""
    assert data[:2] == b"\x81\x7e"
    return data[4 : 4 + int.from_bytes(data[2:4], "big")]


def chunked(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def data_event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"


def logged(server: Server, model: str, seed: int, requests: int = 1) -> list[dict[str, Any]]:
    """What the log of a running server tells of the requests for a stream, once all have ended."""
    deadline = time.monotonic() + 10
    while True:
        found = [s for s in server.streams() if (s["profile"], s["seed"]) == (profile_hash(model), seed)]
        if len(found) == requests and all(stream["ended"] is not None for stream in found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
