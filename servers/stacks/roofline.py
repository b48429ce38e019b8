"""No library: what this machine and event loop can carry, as a ceiling for the stacks that people deploy.

The bytes of a stream are made in full when its request is taken up. What is left for a token is its wait, its record in
the log and one `transport.write`. Compression and heartbeats are left out whatever is set; the rest of what a stack
owes is here, so that any client can talk to it. HTTP/1.1 (RFC 9112) is parsed by httptools, once per request.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from importlib.metadata import version
from time import monotonic_ns
from typing import NamedTuple, cast
from urllib.parse import parse_qsl

import httptools

from servers.emission_log import EmissionLog, Ended
from servers.generation import GONE, SSE, SSE_WITH_IDS, Generation, complete
from servers.pacing import Pacer
from servers.payloads.chat_completions import ApiError, parse_query, parse_request
from servers.service import CHAT_PATH, JSON, MAX_BODY, Reply, Service, internal_error, split_target
from servers.settings import Settings
from servers.stacks import BACKLOG, PATIENCE_S, Stop
from servers.stacks.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Fault,
    FrameReader,
    check_close,
    close_frame,
    frame,
    text_frame,
)
from servers.turns import GOING_AWAY, INVALID_DATA, UNSUPPORTED_DATA, Gone, Send, Turns

PROTOCOLS = ("sse", "websocket")
WRITE_LIMIT = 65_536
"""Bytes buffered before a write waits, when no mode or setting says otherwise."""

MAX_HEAD = 65_536
"""Bytes of a request head; RFC 6585, 5, names the refusal."""
MAX_WAITING = 16
"""Requests or messages that may wait for their turn on one connection before it is read no more."""

LAST_CHUNK = b"0\r\n\r\n"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 4.2.2"""
SSE_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, must-revalidate",
    "x-accel-buffering": "no",
    "transfer-encoding": "chunked",
}

logger = logging.getLogger("servers")


def versions() -> dict[str, str]:
    """The libraries at work."""
    return {"httptools": version("httptools")}


def in_force(settings: Settings) -> dict[str, object]:
    """The settings that hold."""
    return {
        "write_limit": dict.fromkeys(PROTOCOLS, settings.limit(WRITE_LIMIT)),
        "compression": dict.fromkeys(PROTOCOLS, False),
        "heartbeat_s": dict.fromkeys(PROTOCOLS),
        "access_log": False,
    }


class _Request(NamedTuple):
    """A request, read in full."""

    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name; the last of several alike."""
    body: bytes
    version: str
    keep_alive: bool
    upgrade: bool


class _Connection(asyncio.Protocol):
    """One TCP connection: HTTP/1.1 at first, WebSocket after an upgrade."""

    transport: asyncio.Transport

    def __init__(self, service: Service, known: set[_Connection]) -> None:
        self._service = service
        self._known = known
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._full = False
        self._writable = asyncio.Event()
        self._deaf = False
        """Whether the rest of what comes is discarded, until the client closes."""
        # HTTP
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[_Request] = deque()
        self._generation: Generation | None = None
        """What is being answered over HTTP."""
        self._in_head = False
        self._head_began = False
        self._head_bytes = 0
        # WebSocket
        self._frames: FrameReader | None = None
        self._messages: asyncio.Queue[str | int] = asyncio.Queue()
        """Text messages, and the code to close with when what came is none."""
        self._conversation: asyncio.Task[None] | None = None
        self._close_sent = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(self._service.settings.limit(WRITE_LIMIT))
        self._known.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._known.discard(self)
        self._requests.clear()
        if self._conversation is not None:
            self._conversation.cancel()
        if self._generation is not None and self._generation.ended is Ended.FAULT:
            self._generation.stop(Ended.CLIENT_GONE)
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        self._full = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self._full = False
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            return
        if self._frames is not None:
            self._read_frames(self._frames, data)
            return
        self._head_began = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # A handshake, or an upgrade that is not known here; either way no more HTTP is read.
            if self._generation is not None or len(self._requests) > 1:
                self.transport.close()
                return
            self._next()
            if self._frames is not None and upgrade.args[0] < len(data):
                self._read_frames(self._frames, data[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, ApiError):
                raise
            self._refuse(error.__context__)
            return
        except httptools.HttpParserError as error:
            self._refuse(ApiError(400, f"The request is not HTTP/1.1: {error}."))
            return
        if self._in_head and not self._head_began:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse(ApiError(431, f"The head of the request is longer than {MAX_HEAD} bytes."))
                return
        if len(self._requests) > MAX_WAITING:
            self.transport.pause_reading()
        self._next()

    # What the HTTP parser calls.

    def on_message_begin(self) -> None:
        self._in_head = self._head_began = True
        self._head_bytes = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False
        if int(self._headers.get("content-length", "0")) > MAX_BODY:
            raise _too_large()
        if self._headers.get("expect", "").lower() == "100-continue" and self._generation is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY:
            raise _too_large()

    def on_message_complete(self) -> None:
        parser = self._parser
        upgrade = parser.should_upgrade()
        self._requests.append(
            _Request(
                parser.get_method().decode("ascii"),
                self._url.decode("latin-1"),
                self._headers,
                bytes(self._body),
                parser.get_http_version(),
                parser.should_keep_alive() and not upgrade,
                upgrade,
            )
        )

    # HTTP

    def _next(self) -> None:
        """Answer the requests that wait, in order, up to one that takes its time."""
        while self._requests and self._generation is None and not self.transport.is_closing():
            self._answer(self._requests.popleft())

    def _answer(self, request: _Request) -> None:
        taken_up_ns = monotonic_ns()
        service = self._service
        authorization = request.headers.get("authorization")
        try:
            target = split_target(request.target)
            if target.path != CHAT_PATH or request.method not in ("GET", "POST"):
                reply = service.plain(request.method, request.target, authorization, taken_up_ns)
            else:
                service.open_for_requests()
                service.authorize(authorization)
                if request.headers.get("upgrade", "").lower() == "websocket":
                    self._upgrade(request)
                else:
                    self._begin(request, target.query, taken_up_ns)
                return
        except ApiError as error:
            reply = service.refusal(error, taken_up_ns)
        except Exception:
            logger.exception("a request failed")
            reply = service.refusal(internal_error(), taken_up_ns)
        self._reply(reply, request.keep_alive, request.method == "HEAD")

    def _reply(self, reply: Reply, keep_alive: bool, without_body: bool = False) -> None:
        headers = reply.headers
        if reply.status != 204:  # RFC 9110, 8.6
            headers = headers | {"content-length": str(len(reply.body))}
        self.transport.write(_head(reply.status, headers, keep_alive) + (b"" if without_body else reply.body))
        if not keep_alive:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be read to its end, and go on taking it in: closing now would take the answer back."""
        if self._generation is not None or self._requests:
            self.transport.close()
            return
        self._deaf = True
        reply = self._service.refusal(error, monotonic_ns())
        head = _head(reply.status, reply.headers | {"content-length": str(len(reply.body))}, keep_alive=False)
        self.transport.write(head + reply.body)
        self.transport.write_eof()
        self._loop.call_later(PATIENCE_S, self.transport.abort)

    def _begin(self, request: _Request, query: str, taken_up_ns: int) -> None:
        """Start to answer a request for a completion. Raises `ApiError`."""
        service = self._service
        if request.method == "GET":
            body = parse_query(dict(parse_qsl(query, keep_blank_values=True)))
        else:
            body = parse_request(request.body)
        if body.stream and request.version != "1.1":
            raise ApiError(505, "A stream needs HTTP/1.1, for its chunks.")
        framing = SSE_WITH_IDS if request.method == "GET" or service.settings.event_ids else SSE
        last_event_id = request.headers.get("last-event-id")
        generation = service.begin(body, taken_up_ns, framing, last_event_id or body.last_event_id)
        self._generation = generation
        answer = self._stream if body.stream else self._whole
        generation.task = self._loop.create_task(answer(generation, request.keep_alive))
        # Not in a `finally` of the task: a task cancelled before its first step has none.
        generation.task.add_done_callback(lambda task: self._over(generation, request.keep_alive, task.cancelled()))

    def _over(self, generation: Generation, keep_alive: bool, cut: bool) -> None:
        self._service.end(generation)
        self._generation = None
        if cut or not keep_alive:
            self.transport.close()
        if self.transport.is_closing():
            return
        self._next()
        if not self._requests:
            self.transport.resume_reading()

    async def _stream(self, generation: Generation, keep_alive: bool) -> None:
        service, write = self._service, self.transport.write
        try:
            write(_head(200, service.headers(generation.taken_up_ns) | SSE_HEADERS, keep_alive))
            await self._emit(generation, _chunk, service.pacer, service.log)
            write(LAST_CHUNK)
        except Exception:
            logger.exception("a stream failed")
            write(_chunk(b"data: " + internal_error().body + b"\n\n") + LAST_CHUNK)
        finally:
            service.end(generation)

    async def _whole(self, generation: Generation, keep_alive: bool) -> None:
        service = self._service
        headers = service.headers(generation.taken_up_ns) | {"content-type": JSON}
        try:
            reply = Reply(200, headers, await complete(generation, service.pacer, service.log))
        except Exception:
            logger.exception("a request failed")
            reply = service.refusal(internal_error(), generation.taken_up_ns)
        finally:
            service.end(generation)
        self._reply(reply, keep_alive)

    # What both have.

    async def _emit(
        self, generation: Generation, framed: Callable[[bytes], bytes], pacer: Pacer, log: EmissionLog
    ) -> None:
        """Do what `servers.generation.emit` does, with all that can be done beforehand done beforehand."""
        until = pacer.until
        log_token = log.token
        stream = generation.stream
        write: Callable[[bytes], None] = self.transport.write
        messages = generation.messages()
        planted = generation.planted
        if planted is not None:
            messages = planted.alter(messages, split=bool(generation.framing.before))
        made = iter([(ordinal, due_ns, framed(payload) if payload else b"") for ordinal, due_ns, payload in messages])
        if planted is not None:
            made, write = planted.slow(made, write, _nothing)
        try:
            for ordinal, due_ns, data in made:
                if due_ns:
                    await until(due_ns)
                    if ordinal >= 0:
                        log_token(stream, ordinal, due_ns, monotonic_ns())
                write(data)
                if self._full:
                    await self._writable.wait()
            generation.ended = Ended.COMPLETE
        except asyncio.CancelledError:
            if generation.ended is Ended.FAULT:
                generation.ended = Ended.CLIENT_GONE
            raise

    # WebSocket

    def _upgrade(self, request: _Request) -> None:
        """Accept a handshake (RFC 6455, 4.2). Raises `ApiError`."""
        key = request.headers.get("sec-websocket-key", "")
        if request.method != "GET" or not request.upgrade or not _is_key(key):
            raise ApiError(400, "The WebSocket handshake is not one of RFC 6455.")
        if request.headers.get("sec-websocket-version") != "13":
            raise ApiError(426, "The version of WebSocket here is 13.", headers={"sec-websocket-version": "13"})
        accept = base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()
        headers = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-accept": accept}
        self.transport.write(_head(101, headers, keep_alive=True))
        self._frames = FrameReader(MAX_BODY)

        async def emit(generation: Generation, _send: Send, pacer: Pacer, log: EmissionLog, _gone: Gone) -> None:
            await self._emit(generation, text_frame, pacer, log)

        turns = Turns(self._service, self._send, self._close, GONE, emit)
        self._conversation = self._loop.create_task(self._converse(turns))

    def _read_frames(self, frames: FrameReader, data: bytes) -> None:
        try:
            for opcode, payload in frames.read(data):
                if opcode == CLOSE:
                    self._closed_by_client(payload)
                    return
                if self._close_sent:
                    continue
                if opcode == TEXT:
                    self._messages.put_nowait(_decoded(payload))
                elif opcode == BINARY:
                    self._messages.put_nowait(UNSUPPORTED_DATA)
                elif opcode == PING and not self._full:  # RFC 6455, 5.5.3: the next one may be answered instead
                    self.transport.write(frame(PONG, payload))
        except Fault as fault:
            self._deaf = True
            self._messages.put_nowait(fault.code)
        if self._messages.qsize() > MAX_WAITING:
            self.transport.pause_reading()

    def _closed_by_client(self, payload: bytes) -> None:
        """Answer a close frame, unless it is an answer. Raises `Fault`."""
        check_close(payload)
        if not self._close_sent:
            self._close_sent = True
            self.transport.write(frame(CLOSE, payload[:2]))
        # Before another token is written.
        self.transport.close()
        if self._conversation is not None:
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

    async def _send(self, message: bytes) -> None:
        if not self._close_sent:
            self.transport.write(text_frame(message))
            if self._full:
                await self._writable.wait()

    async def _close(self, code: int) -> None:
        """Close with `code`, and wait for the client's answer, but not for long."""
        if not self._close_sent:
            self._close_sent = True
            self.transport.write(close_frame(code))
            if self._deaf:
                self.transport.write_eof()
            else:
                self.transport.resume_reading()
        await asyncio.wait([self.lost], timeout=PATIENCE_S)
        self.transport.abort()

    async def leave(self) -> None:
        """End the connection, as the server shuts down."""
        if self._frames is not None:
            await self._close(GOING_AWAY)
        else:
            self.transport.close()
            await asyncio.wait([self.lost], timeout=PATIENCE_S)


def _nothing() -> None:
    """Stand in for a write that is not done."""


def _chunk(data: bytes) -> bytes:
    """A chunk of a reply (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(status: int, headers: dict[str, str], keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if not keep_alive:
        lines.append("connection: close")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def _is_key(key: str) -> bool:
    """Whether `key` is 16 bytes in base64 (RFC 6455, 4.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def _decoded(payload: bytes) -> str | int:
    """The text of a message, or the code to close with when it is not UTF-8 (RFC 6455, 8.1)."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return INVALID_DATA


def _too_large() -> ApiError:
    return ApiError(413, f"The body is longer than {MAX_BODY} bytes.")


async def start(service: Service, listener: socket.socket) -> Stop:
    """Serve on `listener`; see `servers.stacks`."""
    loop = asyncio.get_running_loop()
    known: set[_Connection] = set()
    server = await loop.create_server(lambda: _Connection(service, known), sock=listener, backlog=BACKLOG)

    async def stop() -> None:
        server.close()
        await service.shut_down(PATIENCE_S)
        leaving = [loop.create_task(connection.leave()) for connection in known]
        if leaving:
            await asyncio.wait(leaving)
        for connection in list(known):
            connection.transport.abort()

    return stop
