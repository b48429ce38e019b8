"""The asyncio driver: `python -m bench.drivers.asyncio_ PLAN.json` runs one trial's phases and leaves raw logs.

One event loop (uvloop) serves every wire protocol; loads are coroutines, streams are sessions on connections.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import uvloop

from bench.drivers.connection import Connection
from bench.drivers.driver import Driver, give_up, main
from bench.drivers.engine import Group, Handle, Users, Work
from bench.drivers.plan import Plan
from servers.pacing import Pacer


class AsyncioEngine:
    """An asyncio event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.name = type(loop).__module__.partition(".")[0]
        self.pacer = Pacer(loop)
        self.create_future = loop.create_future
        self.call_later = loop.call_later
        self.add_reader = loop.add_reader
        self.remove_reader = loop.remove_reader

    def start(self, work: Work) -> Handle:
        """Begin work that is on its own; cancelling ends it where it waits."""
        return self._loop.create_task(work)

    def group(self) -> AbstractAsyncContextManager[Group]:
        """Tasks that belong together."""
        return asyncio.TaskGroup()

    @asynccontextmanager
    async def users(self, count: int) -> AsyncIterator[Users]:
        """So many users, ready to begin inside and gone behind it."""

        async def run(work: Any) -> None:
            async with asyncio.TaskGroup() as running:
                for user in range(count):
                    running.create_task(work(user))

        yield run

    async def connect(self, connection: Connection, host: str, port: int, timeout_s: float) -> None:
        """Make the TCP connection and hand it over, with Nagle's algorithm off. Raises `OSError`, `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            if not connection.options:
                await self._loop.create_connection(lambda: connection, host, port)
                return
            one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            one.setblocking(False)
            try:
                for option in connection.options:
                    one.setsockopt(*option)
                await self._loop.sock_connect(one, (host, port))
            except BaseException:
                one.close()
                raise
            await self._loop.create_connection(lambda: connection, sock=one)


def run(plan: Plan) -> Driver:
    """Carry out a plan."""
    loop = uvloop.new_event_loop()

    def fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        give_up(context["message"], context.get("exception"))

    loop.set_exception_handler(fault)
    driver = Driver(plan, AsyncioEngine(loop))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, driver.stop)
    loop.run_until_complete(driver.run(("uvloop",)))
    return driver


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], run))
