"""What a driver asks of an event loop, so that its coroutines run on asyncio and on gevent alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from servers.pacing import Pacer, Waiter

if TYPE_CHECKING:
    from bench.drivers.connection import Connection

Work: TypeAlias = Coroutine[Any, Any, Any]


class Handle(Protocol):
    """What is to be called later."""

    def cancel(self) -> object:
        """Do not call it."""


class Group(Protocol):
    """Tasks that belong together: leaving the group waits for all, and the first failure ends the others."""

    def create_task(self, work: Work, /) -> object:
        """Begin one."""


Users: TypeAlias = Callable[[Callable[[int], Work]], Awaitable[None]]
"""Has every user, numbered from 0, do its work, and waits until all have."""


class Engine(Protocol):
    """An event loop with its sockets. What has an asyncio loop's name does what it does there."""

    name: str
    """For the record: what runs the driver."""
    pacer: Pacer

    def create_future(self) -> Waiter: ...

    def call_later(self, delay_s: float, callback: Callable[[], object], /) -> Handle: ...

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...

    def start(self, work: Work) -> Handle:
        """Begin work that is on its own; cancelling ends it where it waits."""

    def group(self) -> AbstractAsyncContextManager[Group]:
        """Tasks that belong together."""

    def users(self, count: int) -> AbstractAsyncContextManager[Users]:
        """So many users, ready to begin inside and gone behind it."""

    async def connect(self, connection: Connection, host: str, port: int, timeout_s: float) -> None:
        """Make the TCP connection and hand it over, with Nagle's algorithm off. Raises `OSError`, `TimeoutError`."""


class Transport(Protocol):
    """The socket of a connection: the part of `asyncio.Transport` that connections use."""

    def write(self, data: bytes, /) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, /) -> Any: ...
