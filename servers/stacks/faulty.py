"""A server that breaks the protocols themselves: roofline, but for streams whose fault no library would commit.

Faults of the handshake come before a model is named: the first of them in the settings meets every handshake. Over a
protocol that a kind does not apply to, streams are served as if it were not there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from servers.bare.broken import ENDLESS, broken, broken_head
from servers.bare.connection import Connection
from servers.bare.http import HttpConnection
from servers.bare.http1 import LAST_CHUNK, Request, reply_head
from servers.bare.websocket import WebSocketConnection, accepted
from servers.faults import APPLIES, BROKEN, HANDSHAKE, Fault
from servers.generation import Generation
from servers.plant import Message
from servers.service import Service
from servers.stacks import PATIENCE_S, Stop, roofline
from servers.stacks.roofline import PROTOCOLS as PROTOCOLS
from servers.stacks.roofline import in_force as in_force
from servers.stacks.roofline import versions as versions
from servers.trouble import too_many

PAGE = b"<!doctype html><title>Welcome</title><p>There is no WebSocket here.\n"
ACCEPT = b"sec-websocket-accept: "
WRONG = b"%b=" % (b"A" * 27)
"""What answers no key that a client would send."""
PACE_S = 0.001
"""Between two writes of what has no end."""


def _fault(generation: Generation, protocol: str) -> Fault | None:
    """What breaks a stream below its messages."""
    trouble = generation.trouble
    if trouble is None or trouble.fault.kind not in BROKEN or protocol not in APPLIES[trouble.fault.kind]:
        return None
    # Without a content chunk to happen at, the reply has its usual form from the head on.
    if trouble.fault.kind == "short_body" and trouble.place(generation) is None:
        return None
    return trouble.fault


async def _end(connection: Connection, tail: bytes, kind: str) -> None:
    """Write the last of a stream, and end the connection as the kind does it."""
    transport = connection.transport
    transport.write(tail)
    if kind == "bad_close_code":
        await asyncio.wait([connection.lost], timeout=PATIENCE_S)
    while kind in ENDLESS and not transport.is_closing():
        transport.write(ENDLESS[kind])
        if connection.full:
            await connection.writable.wait()
        await asyncio.sleep(PACE_S)
    transport.close()


def _broken(
    connection: Connection, fault: Fault | None, generation: Generation, made: list[Message], head: int, after: bytes
) -> list[Message]:
    """The messages of a stream as the fault leaves them; how it ends then is the trouble's to know."""
    trouble = generation.trouble
    if fault is None or trouble is None:
        return made
    made, trouble.cut_ns, tail = broken(fault, made, trouble.place(generation), head, after)
    trouble.sever = partial(_end, connection, tail)
    return made


class _HttpConnection(HttpConnection):
    """HTTP, broken where a fault says so."""

    _head_bytes = 0

    def upgrade(self, request: Request) -> None:
        reply = accepted(request)
        faults = self.service.settings.faults.values()
        fault = next((fault for fault in faults if _meets_handshake(fault, len(reply))), None)
        kind = None if fault is None else fault.kind
        if fault is not None and kind == "handshake_429":
            raise too_many(fault)
        if kind == "no_upgrade":
            self.transport.write(reply_head(200, {"content-type": "text/html"}, PAGE, keep_alive=False) + PAGE)
            self.transport.close()
            return
        if fault is not None and kind == "cut_at_byte":
            self.transport.write(reply[: fault.byte])
            self.transport.close()
            return
        if kind == "wrong_accept":
            reply = reply.partition(ACCEPT)[0] + ACCEPT + WRONG + b"\r\n\r\n"
        self.transport.write(reply)
        _WebSocketConnection(self, len(reply))

    def stream_head(self, generation: Generation, request: Request) -> bytes:
        head = super().stream_head(generation, request)
        fault = _fault(generation, "sse")
        if fault is not None:
            self._head_bytes = len(head)
            head = broken_head(fault, head, sum(len(payload) for _, _, payload in generation.messages()))
        return head

    def wire(self, generation: Generation, framed: Callable[[bytes], bytes]) -> list[Message]:
        fault = _fault(generation, "sse")
        made = super().wire(generation, bytes if fault is not None and fault.kind == "short_body" else framed)
        return _broken(self, fault, generation, made, self._head_bytes, LAST_CHUNK)


def _meets_handshake(fault: Fault, reply_bytes: int) -> bool:
    """Whether it happens before a model is named."""
    return fault.kind in HANDSHAKE or (fault.kind == "cut_at_byte" and fault.byte < reply_bytes)


class _WebSocketConnection(WebSocketConnection):
    """WebSocket, broken where a fault says so."""

    def __init__(self, before: Connection, head_bytes: int) -> None:
        super().__init__(before)
        self._head_bytes = head_bytes

    def wire(self, generation: Generation, framed: Callable[[bytes], bytes]) -> list[Message]:
        made = super().wire(generation, framed)
        return _broken(self, _fault(generation, "websocket"), generation, made, self._head_bytes, b"")


async def start(service: Service, listener: socket.socket) -> Stop:
    """Serve on `listener`; see `servers.stacks`."""
    return await roofline.start(service, listener, _HttpConnection)
