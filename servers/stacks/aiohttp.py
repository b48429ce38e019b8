"""aiohttp: SSE and WebSocket on one application and one event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from time import monotonic_ns

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger

from servers.generation import GONE, SSE, SSE_WITH_IDS, complete, emit
from servers.payloads.chat_completions import ApiError, ChatRequest, parse_query, parse_request
from servers.service import CHAT_PATH, JSON, MAX_BODY, Reply, Service, internal_error
from servers.settings import Settings
from servers.stacks import BACKLOG, PATIENCE_S, Stop
from servers.tls import listening
from servers.trouble import sever
from servers.turns import GOING_AWAY, UNSUPPORTED_DATA, Turns

PROTOCOLS = ("sse", "websocket")
WEBSOCKET_WRITE_LIMIT = 262_144
"""Documented default of `WebSocketResponse(writer_limit=)`, bytes. `StreamResponse.write` has 65,536 built in."""
SSE_WRITE_LIMIT = 65_536

SSE_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, must-revalidate",
    # A proxy that buffers would turn a stream into one late reply.
    "x-accel-buffering": "no",
}

logger = logging.getLogger("servers")


def versions() -> dict[str, str]:
    """The libraries at work."""
    return {"aiohttp": aiohttp.__version__}


def in_force(settings: Settings) -> dict[str, object]:
    """The settings that hold."""
    return {
        "write_limit": {"sse": settings.limit(SSE_WRITE_LIMIT), "websocket": settings.limit(WEBSOCKET_WRITE_LIMIT)},
        "compression": {"sse": False, "websocket": settings.compress(True)},
        "heartbeat_s": {"sse": settings.heartbeat(None), "websocket": settings.heartbeat(None)},
        "access_log": settings.logs_access,
    }


class _Handlers:
    """The routes of the application."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self.connections: set[web.WebSocketResponse] = set()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer the chat path, whatever the method and protocol."""
        taken_up_ns = monotonic_ns()
        service = self._service
        if request.method not in ("GET", "POST"):
            return await self.plain(request)
        started: list[web.StreamResponse] = []
        try:
            service.open_for_requests()
            service.authorize(request.headers.get("Authorization"))
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._websocket(request)
            return await self._http(request, taken_up_ns, started)
        except ApiError as error:
            return _response(service.refusal(error, taken_up_ns))
        except web.HTTPRequestEntityTooLarge:
            too_large = ApiError(413, f"The body is longer than {MAX_BODY} bytes.")
            return _response(service.refusal(too_large, taken_up_ns))
        except web.HTTPException as error:
            return _response(service.refusal(ApiError(error.status, error.text or error.reason), taken_up_ns))
        except GONE:
            # Nobody is there to read it.
            return started[0] if started else web.Response()
        except Exception:
            logger.exception("a request failed")
            if not started:
                return _response(service.refusal(internal_error(), taken_up_ns))
            with suppress(*GONE):
                await started[0].write(b"data: " + internal_error().body + b"\n\n")
            return started[0]

    async def _http(
        self, request: web.Request, taken_up_ns: int, started: list[web.StreamResponse]
    ) -> web.StreamResponse:
        """Answer a POST or GET. A stream that was begun is put into `started`."""
        service = self._service
        last_event_id = request.headers.get("Last-Event-ID")
        if request.method == "GET":
            body: ChatRequest = parse_query(dict(request.query))
            framing = SSE_WITH_IDS
        else:
            body = parse_request(await request.read())
            framing = SSE_WITH_IDS if body.model in self._settings.resumable else SSE
        generation = service.begin(body, taken_up_ns, framing, last_event_id or body.last_event_id)
        generation.task = asyncio.current_task()
        try:
            if not body.stream:
                text = await complete(generation, service.pacer, service.log)
                return web.Response(body=text, content_type=JSON, headers=service.headers(taken_up_ns))
            if request.transport is not None:
                request.transport.set_write_buffer_limits(self._settings.limit(SSE_WRITE_LIMIT))
            if generation.trouble is not None:
                await generation.trouble.hold(generation, service.pacer, partial(sever, request.transport))
            response = web.StreamResponse(headers=service.headers(taken_up_ns) | SSE_HEADERS)
            started.append(response)
            await response.prepare(request)
            # In a task of its own: the loop then resumes this coroutine alone for each token, and not the handler's
            # whole chain of awaits. Cancelling the handler cancels it.
            generation.task = asyncio.create_task(emit(generation, response.write, service.pacer, service.log))
            await generation.task
            return response
        finally:
            service.end(generation)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        settings = self._settings
        limit = settings.limit(WEBSOCKET_WRITE_LIMIT)
        socket_ = web.WebSocketResponse(
            compress=settings.compress(True),
            writer_limit=limit,
            heartbeat=settings.heartbeat(None),
            max_msg_size=MAX_BODY,
        )
        await socket_.prepare(request)
        if settings.equal and request.transport is not None:
            request.transport.set_write_buffer_limits(limit)

        send_frame = socket_.send_frame
        text = aiohttp.WSMsgType.TEXT

        def send(message: bytes) -> Awaitable[None]:
            # Public, and spares encoding to UTF-8 what is UTF-8 already.
            return send_frame(message, text)

        async def close(code: int) -> object:
            return await socket_.close(code=code)

        turns = Turns(self._service, send, close, request.transport)
        self.connections.add(socket_)
        try:
            async for message in socket_:
                if message.type is text:
                    code = await turns.receive(message.data)
                elif message.type is aiohttp.WSMsgType.BINARY:
                    code = UNSUPPORTED_DATA
                else:
                    break
                if code is not None:
                    await turns.leave()
                    await socket_.close(code=code)
        except GONE:
            pass
        finally:
            self.connections.discard(socket_)
            await turns.leave()
        return socket_

    async def plain(self, request: web.Request) -> web.StreamResponse:
        """Answer everything that is no chat completion."""
        authorization = request.headers.get("Authorization")
        return _response(self._service.plain(request.method, request.path, authorization, monotonic_ns()))


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, headers=reply.headers, body=reply.body or None)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether what is logged is no malformed request. Those are answered with 400, and the log would show the line at
    fault, be there a key in it.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def start(service: Service, listener: socket.socket) -> Stop:
    """Serve on `listener`; see `servers.stacks`."""
    server_logger.addFilter(_is_ours)
    handlers = _Handlers(service)
    application = web.Application(client_max_size=MAX_BODY)
    application.router.add_route("*", CHAT_PATH, handlers.chat)
    application.router.add_route("*", "/{path:.*}", handlers.plain)
    runner = web.AppRunner(
        application,
        # A client that leaves cancels its handler, which ends its stream at once and not at the next token.
        handler_cancellation=True,
        access_log=logging.getLogger("aiohttp.access") if service.settings.logs_access else None,
        shutdown_timeout=PATIENCE_S,
    )
    await runner.setup()
    assert runner.server is not None
    # What `web.SockSite` does, which takes no time-outs of TLS.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(runner.server, sock=listener, backlog=BACKLOG, **listening(service.settings.tls))

    async def stop() -> None:
        server.close()
        await service.shut_down(PATIENCE_S)
        closing = [asyncio.ensure_future(socket_.close(code=GOING_AWAY)) for socket_ in handlers.connections]
        if closing:
            await asyncio.wait(closing, timeout=PATIENCE_S)
        await runner.cleanup()

    return stop
