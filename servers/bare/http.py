"""A connection that speaks HTTP/1.1: the plain endpoints, streams as SSE, and the way to WebSocket."""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic_ns
from urllib.parse import parse_qsl

from servers.bare import websocket
from servers.bare.connection import MAX_WAITING, Connection
from servers.bare.http1 import CONTINUE, LAST_CHUNK, Request, RequestReader, chunk, head, reply_head
from servers.emission_log import Ended
from servers.generation import SSE, SSE_WITH_IDS, Generation, complete
from servers.payloads.chat_completions import ApiError, parse_query, parse_request
from servers.service import CHAT_PATH, JSON, Reply, Service, internal_error, split_target
from servers.stacks import PATIENCE_S
from servers.trouble import sever

WRITE_LIMIT = 65_536
"""Bytes buffered before a write waits, when no mode or setting says otherwise."""

SSE_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, must-revalidate",
    "x-accel-buffering": "no",
    "transfer-encoding": "chunked",
}

logger = logging.getLogger("servers")


class HttpConnection(Connection):
    """One connection while it speaks HTTP."""

    def __init__(self, service: Service, known: set[Connection]) -> None:
        super().__init__(service, known, service.settings.limit(WRITE_LIMIT))
        self._reader = RequestReader()
        self._requests = self._reader.requests
        self._generation: Generation | None = None
        """What is being answered; requests behind it wait."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._requests.clear()
        if self._generation is not None and self._generation.ended in (Ended.FAULT, Ended.CUT):
            self._generation.stop(Ended.CLIENT_GONE)

    def data_received(self, data: bytes) -> None:
        if self.deaf or self.transport.is_closing():
            return
        try:
            end = self._reader.read(data)
        except ApiError as error:
            self._refuse(error)
            return
        if end is not None:
            self._switch(data[end:])
            return
        if self._reader.expects_continue and self._generation is None:
            self._reader.expects_continue = False
            self.transport.write(CONTINUE)
        if len(self._requests) > MAX_WAITING:
            self.transport.pause_reading()
        self._next()

    def _switch(self, rest: bytes) -> None:
        """Answer a request for an upgrade: a handshake, or one for what is not known here. No HTTP follows it."""
        if self._generation is not None or len(self._requests) > 1:
            self.transport.close()
            return
        self._next()
        protocol = self.transport.get_protocol()
        if rest and isinstance(protocol, websocket.WebSocketConnection):
            protocol.data_received(rest)

    def _refuse(self, error: ApiError) -> None:
        """Answer what cannot be read to its end, and go on taking it in: closing now would take the answer back."""
        if self._generation is not None or self._requests:
            self.transport.close()
            return
        self.deaf = True
        reply = self.service.refusal(error, monotonic_ns())
        self.transport.write(reply_head(reply.status, reply.headers, reply.body, keep_alive=False) + reply.body)
        if self.transport.can_write_eof():  # TLS cannot
            self.transport.write_eof()
        self.loop.call_later(PATIENCE_S, self.transport.abort)

    def _next(self) -> None:
        """Answer the requests that wait, in order, up to one that takes its time."""
        while self._requests and self._generation is None and not self.transport.is_closing():
            self._answer(self._requests.popleft())

    def _answer(self, request: Request) -> None:
        taken_up_ns = monotonic_ns()
        service = self.service
        authorization = request.headers.get("authorization")
        try:
            target = split_target(request.target)
            if target.path != CHAT_PATH or request.method not in ("GET", "POST"):
                reply = service.plain(request.method, request.target, authorization, taken_up_ns)
            else:
                service.open_for_requests()
                service.authorize(authorization)
                if request.headers.get("upgrade", "").lower() == "websocket":
                    self.upgrade(request)
                else:
                    self._begin(request, target.query, taken_up_ns)
                return
        except ApiError as error:
            reply = service.refusal(error, taken_up_ns)
        except Exception:
            logger.exception("a request failed")
            reply = service.refusal(internal_error(), taken_up_ns)
        self._reply(reply, request)

    def upgrade(self, request: Request) -> None:
        """Answer a handshake. Raises `ApiError`."""
        self.transport.write(websocket.accepted(request))
        websocket.WebSocketConnection(self)

    def _reply(self, reply: Reply, request: Request) -> None:
        body = b"" if request.method == "HEAD" else reply.body
        self.transport.write(reply_head(reply.status, reply.headers, reply.body, request.keep_alive) + body)
        if not request.keep_alive:
            self.transport.close()

    def _begin(self, request: Request, query: str, taken_up_ns: int) -> None:
        """Start to answer a request for a completion. Raises `ApiError`."""
        service = self.service
        if request.method == "GET":
            body = parse_query(dict(parse_qsl(query, keep_blank_values=True)))
        else:
            body = parse_request(request.body)
        if body.stream and request.version != "1.1":
            raise ApiError(505, "A stream needs HTTP/1.1, for its chunks.")
        with_ids = request.method == "GET" or body.model in service.settings.resumable
        framing = SSE_WITH_IDS if with_ids else SSE
        last_event_id = request.headers.get("last-event-id")
        generation = service.begin(body, taken_up_ns, framing, last_event_id or body.last_event_id)
        self._generation = generation
        answer = self._stream if body.stream else self._whole
        generation.task = self.loop.create_task(answer(generation, request))
        # Not in a `finally` of the task: a task cancelled before its first step has none.
        generation.task.add_done_callback(lambda task: self._over(generation, request.keep_alive, task.cancelled()))

    async def _stream(self, generation: Generation, request: Request) -> None:
        service, write = self.service, self.transport.write
        try:
            if generation.trouble is not None:
                await generation.trouble.hold(generation, service.pacer, partial(sever, self.transport))
            write(self.stream_head(generation, request))
            await self.emit(generation, chunk, service.pacer, service.log)
            write(LAST_CHUNK)
        except Exception:
            logger.exception("a stream failed")
            write(chunk(b"data: " + internal_error().body + b"\n\n") + LAST_CHUNK)
        finally:
            service.end(generation)

    def stream_head(self, generation: Generation, request: Request) -> bytes:
        """The head of a stream."""
        headers = self.service.headers(generation.taken_up_ns) | SSE_HEADERS
        return head(200, headers, request.keep_alive)

    async def _whole(self, generation: Generation, request: Request) -> None:
        service = self.service
        headers = service.headers(generation.taken_up_ns) | {"content-type": JSON}
        try:
            reply = Reply(200, headers, await complete(generation, service.pacer, service.log))
        except Exception:
            logger.exception("a request failed")
            reply = service.refusal(internal_error(), generation.taken_up_ns)
        finally:
            service.end(generation)
        self._reply(reply, request)

    def _over(self, generation: Generation, keep_alive: bool, cut: bool) -> None:
        self.service.end(generation)
        self._generation = None
        if cut or not keep_alive:
            self.transport.close()
        if self.transport.is_closing():
            return
        self._next()
        if not self._requests:
            self.transport.resume_reading()
