"""websockets: its asyncio server, which speaks WebSocket and just enough HTTP for the plain endpoints."""

from __future__ import annotations

import asyncio
import http
import socket
from collections.abc import Awaitable
from contextlib import suppress
from time import monotonic_ns
from typing import ClassVar
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.version import version

from servers.payloads.chat_completions import ApiError
from servers.service import CHAT_PATH, MAX_BODY, Reply, Service
from servers.settings import Settings
from servers.stacks import BACKLOG, PATIENCE_S, Stop
from servers.tls import listening
from servers.turns import UNSUPPORTED_DATA, Turns

PROTOCOLS = ("websocket",)
# Documented defaults of `serve`.
WRITE_LIMIT = 32_768
PING_INTERVAL_S = 20.0


def versions() -> dict[str, str]:
    """The libraries at work."""
    return {"websockets": version}


def in_force(settings: Settings) -> dict[str, object]:
    """The settings that hold."""
    return {
        "write_limit": {"websocket": settings.limit(WRITE_LIMIT)},
        "compression": {"websocket": settings.compress(True)},
        "heartbeat_s": {"websocket": settings.heartbeat(PING_INTERVAL_S)},
        "access_log": False,
    }


class _Connection(ServerConnection):
    """A connection that is known from before the handshake until its TCP connection is gone."""

    known: ClassVar[set[ServerConnection]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.known.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.known.discard(self)
        super().connection_lost(exc)


class _Handlers:
    """What the server calls: for every request, and for every connection that became a WebSocket."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def process_request(self, _connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP; None lets the WebSocket handshake go on."""
        taken_up_ns = monotonic_ns()
        service = self._service
        authorization = request.headers.get("Authorization")
        path = urlsplit(request.path).path
        if path != CHAT_PATH or request.method not in ("GET", "POST"):
            return _response(service.plain(request.method, request.path, authorization, taken_up_ns))
        try:
            service.open_for_requests()
            service.authorize(authorization)
            if request.headers.get("Upgrade", "").lower() != "websocket":
                message = "This server streams over WebSocket only."
                headers = {"upgrade": "websocket"}
                raise ApiError(426, message, code="upgrade_required", headers=headers)
        except ApiError as error:
            return _response(service.refusal(error, taken_up_ns))
        return None

    async def handle(self, connection: ServerConnection) -> None:
        """Serve one WebSocket connection."""

        def send(message: bytes) -> Awaitable[None]:
            return connection.send(message, text=True)

        turns = Turns(self._service, send, connection.close, connection.transport, (ConnectionClosed,))
        receive = connection.recv
        try:
            while True:
                message = await receive()
                code = await turns.receive(message) if isinstance(message, str) else UNSUPPORTED_DATA
                if code is not None:
                    await turns.leave()
                    await connection.close(code)
        except ConnectionClosed:
            pass
        finally:
            await turns.leave()


def _response(reply: Reply) -> Response:
    headers = Headers(reply.headers)
    if reply.status != 204:  # RFC 9110, 8.6
        headers["content-length"] = str(len(reply.body))
    headers["connection"] = "close"
    return Response(reply.status, http.HTTPStatus(reply.status).phrase, headers, reply.body)


async def start(service: Service, listener: socket.socket) -> Stop:
    """Serve on `listener`; see `servers.stacks`."""
    settings = service.settings
    handlers = _Handlers(service)
    ping_interval = settings.heartbeat(PING_INTERVAL_S)
    server = await serve(
        handlers.handle,
        sock=listener,
        process_request=handlers.process_request,
        compression="deflate" if settings.compress(True) else None,
        ping_interval=ping_interval,
        write_limit=settings.limit(WRITE_LIMIT),
        max_size=MAX_BODY,
        backlog=BACKLOG,
        create_connection=_Connection,
        **listening(settings.tls),
    )

    async def stop() -> None:
        await service.shut_down(PATIENCE_S)
        server.close()  # with 1001
        with suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), PATIENCE_S)
        # Left are clients that do not answer the close, and connections that never sent a request; the library would
        # wait 10 s for either.
        for connection in list(_Connection.known):
            connection.transport.abort()
        await server.wait_closed()

    return stop
