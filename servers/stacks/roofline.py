"""No library: what this machine and event loop can carry, as a ceiling for the stacks that people deploy.

The bytes of a stream are made in full when its request is taken up. What is left for a token is its wait, its record in
the log and one `transport.write`. Compression and heartbeats are left out whatever is set; the rest of what a stack
owes is here, so that any client can talk to it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from importlib.metadata import version

from servers.bare.connection import Connection
from servers.bare.http import WRITE_LIMIT, HttpConnection
from servers.service import Service
from servers.settings import Settings
from servers.stacks import BACKLOG, PATIENCE_S, Stop
from servers.tls import listening

PROTOCOLS = ("sse", "websocket")


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


async def start(
    service: Service,
    listener: socket.socket,
    connection: Callable[[Service, set[Connection]], Connection] = HttpConnection,
) -> Stop:
    """Serve on `listener`; see `servers.stacks`. `connection` makes what speaks on each connection accepted."""
    loop = asyncio.get_running_loop()
    known: set[Connection] = set()
    server = await loop.create_server(
        lambda: connection(service, known), sock=listener, backlog=BACKLOG, **listening(service.settings.tls)
    )

    async def stop() -> None:
        server.close()
        await service.shut_down(PATIENCE_S)
        leaving = [loop.create_task(open_one.leave()) for open_one in known]
        if leaving:
            await asyncio.wait(leaving)
        for open_one in list(known):
            open_one.transport.abort()

    return stop
