"""A connection that speaks WebSocket (RFC 6455), from the 101 on."""

from __future__ import annotations

import asyncio
import base64
import hashlib

from servers.bare import frames
from servers.bare.connection import MAX_WAITING, Connection
from servers.bare.http1 import Request, head
from servers.emission_log import EmissionLog
from servers.generation import GONE, Generation
from servers.pacing import Pacer
from servers.payloads.chat_completions import ApiError
from servers.service import MAX_BODY
from servers.stacks import PATIENCE_S
from servers.turns import GOING_AWAY, INVALID_DATA, UNSUPPORTED_DATA, Gone, Send, Turns

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Section 1.3."""


def accepted(request: Request) -> bytes:
    """The reply to a handshake (section 4.2). Raises `ApiError`: 400, or 426 for another version than 13."""
    key = request.headers.get("sec-websocket-key", "")
    if request.method != "GET" or not request.upgrade or not _is_key(key):
        raise ApiError(400, "The WebSocket handshake is not one of RFC 6455.")
    if request.headers.get("sec-websocket-version") != "13":
        raise ApiError(426, "The version of WebSocket here is 13.", headers={"sec-websocket-version": "13"})
    accept = base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()
    return head(101, {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-accept": accept})


def _is_key(key: str) -> bool:
    """Whether `key` is 16 bytes in base64 (section 4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


class WebSocketConnection(Connection):
    """Takes over the transport of a connection on which `accepted` was said."""

    def __init__(self, before: Connection) -> None:
        super().__init__(before.service, before.known, before.write_limit)
        before.known.discard(before)
        self.connection_made(before.transport)
        before.transport.set_protocol(self)
        self._reader = frames.FrameReader(MAX_BODY)
        self._messages: asyncio.Queue[str | int] = asyncio.Queue()
        """Text messages, and the code to close with when what came is none."""
        self._close_sent = False
        turns = Turns(self.service, self._send, self._close, self.transport, GONE, self._emit)
        self._conversation = self.loop.create_task(self._converse(turns))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._conversation.cancel()

    def data_received(self, data: bytes) -> None:
        if self.deaf or self.transport.is_closing():
            return
        try:
            for opcode, payload in self._reader.read(data):
                self._take(opcode, payload)
                if self.transport.is_closing():
                    return
        except frames.Fault as fault:
            self.deaf = True
            self._messages.put_nowait(fault.code)
        if self._messages.qsize() > MAX_WAITING:
            self.transport.pause_reading()

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.CLOSE:
            self._closed_by_client(payload)
        elif self._close_sent:
            pass  # Section 5.5.1: only the close frame that answers counts.
        elif opcode == frames.TEXT:
            self._messages.put_nowait(_decoded(payload))
        elif opcode == frames.BINARY:
            self._messages.put_nowait(UNSUPPORTED_DATA)
        elif opcode == frames.PING and not self.full:  # Section 5.5.3: a later one may be answered instead.
            self.transport.write(frames.frame(frames.PONG, payload))

    def _closed_by_client(self, payload: bytes) -> None:
        """Answer a close frame, unless it is an answer, and close before another token is written. Raises `Fault`."""
        frames.check_close(payload)
        if not self._close_sent:
            self._close_sent = True
            self.transport.write(frames.frame(frames.CLOSE, payload[:2]))
        self.transport.close()
        self._conversation.cancel()

    async def _converse(self, turns: Turns) -> None:
        """Answer messages in their order, until one of them, or the client, ends the connection."""
        code = None
        try:
            while code is None:
                if self._messages.empty():
                    self.transport.resume_reading()
                message = await self._messages.get()
                code = await turns.receive(message) if isinstance(message, str) else message
        finally:
            await turns.leave()
        await self._close(code)

    async def _emit(self, generation: Generation, _send: Send, pacer: Pacer, log: EmissionLog, _gone: Gone) -> None:
        await self.emit(generation, frames.text_frame, pacer, log)

    async def _send(self, message: bytes) -> None:
        if self.lost.done():
            raise ConnectionResetError
        if not self._close_sent:
            self.transport.write(frames.text_frame(message))
            if self.full:
                await self.writable.wait()

    async def _close(self, code: int) -> None:
        """Close with `code`, and wait for the client's answer, but not for long."""
        if not self._close_sent and not self.lost.done():
            self._close_sent = True
            self.transport.write(frames.close_frame(code))
            if not self.deaf:
                self.transport.resume_reading()
            elif self.transport.can_write_eof():  # TLS cannot
                self.transport.write_eof()
        await asyncio.wait([self.lost], timeout=PATIENCE_S)
        self.transport.abort()

    async def leave(self) -> None:
        await self._close(GOING_AWAY)


def _decoded(payload: bytes) -> str | int:
    """The text of a message, or the code to close with when it is not UTF-8 (section 8.1)."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return INVALID_DATA
