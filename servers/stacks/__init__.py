"""Server stacks by name. A stack is one module, imported only when it is asked for.

A stack module has:

- `PROTOCOLS`: the names of the protocols it offers;
- `versions()`: the libraries that make it up, with their versions;
- `in_force(settings)`: the settings that hold, after the mode and the library's defaults had their say;
- `start(service, listener)`: begin to serve on a listening socket and return a coroutine function that stops it: it
  closes WebSocket connections with 1001 and returns in about a second whatever the clients do.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Protocol, cast

from servers.service import Service
from servers.settings import Settings

STACKS = {
    "aiohttp": "servers.stacks.aiohttp",
    "websockets": "servers.stacks.websockets",
    "roofline": "servers.stacks.roofline",
    "faulty": "servers.stacks.faulty",
}

BACKLOG = 4096
"""Connections the kernel may hold for a busy server, on every arm: the libraries' 100 or 128 make a burst of new
clients wait for the retransmission of a SYN, a second or more that no protocol is to blame for."""

PATIENCE_S = 1.0
"""How long a stop waits for clients to answer."""

Stop = Callable[[], Awaitable[None]]


class Stack(Protocol):
    """What a stack module has."""

    PROTOCOLS: tuple[str, ...]

    def versions(self) -> dict[str, str]: ...

    def in_force(self, settings: Settings) -> dict[str, object]: ...

    async def start(self, service: Service, listener: socket.socket) -> Stop: ...


def load(name: str) -> Stack:
    """Import a stack. Raises `KeyError` for a name that is not in `STACKS`, `ImportError` without its library."""
    return cast(Stack, import_module(STACKS[name]))
