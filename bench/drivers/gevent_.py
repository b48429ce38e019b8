"""The gevent engine: the driver's coroutines in greenlets, sockets watched by gevent's hub.

A greenlet that awaits simply stops: nothing here yields to a loop of its own. Sockets are not read by greenlets, which
would cost two switches a read, but in the hub, where a readable one is read, stamped and taken in at once.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic_ns
from types import TracebackType
from typing import Any, Final, TypeVar

import gevent
from gevent import monkey
from gevent.hub import get_hub

from bench.arrivals import NS
from bench.drivers.connection import Connection
from bench.drivers.engine import Group, Handle, Users, Work
from servers.pacing import Pacer

READ, WRITE = 1, 2
"""What libev watches a descriptor for."""
READ_BYTES: Final = 256_000
"""As many as uvloop reads at once, so that tokens which have piled up are one read for either driver."""

_plain_socket = monkey.get_original("socket", "socket")
"""The system's own: gevent's blocks the greenlet that reads."""
_plain_getaddrinfo = monkey.get_original("socket", "getaddrinfo")
T = TypeVar("T")


def carry_out(work: Generator[Any, None, T] | Any) -> T:
    """Run a coroutine to its end in this greenlet. Raises what it raises."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a coroutine that awaits something of another event loop")


class Future:
    """Awaited by one greenlet, resolved by another or by the hub."""

    __slots__ = ("_done", "_greenlet")

    def __init__(self) -> None:
        self._done = False
        self._greenlet: Any = None

    def done(self) -> bool:
        """Whether it is resolved, or who waited for it is gone."""
        return self._done

    def set_result(self, _result: None) -> None:
        """Let go on who awaits it, when the hub has its next turn."""
        self._done = True
        if self._greenlet is not None:
            get_hub().loop.run_callback(self._wake)

    def _wake(self) -> None:
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.switch()

    def __await__(self) -> Generator[Any, None, None]:
        if not self._done:
            self._greenlet = gevent.getcurrent()
            try:
                get_hub().switch()
            finally:
                self._greenlet = None
                self._done = True
        return
        yield


class Timer:
    """A callback of the hub, later."""

    __slots__ = ("_callback", "_watcher")

    def __init__(self, loop: Any, delay_s: float, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._watcher = loop.timer(delay_s)
        self._watcher.start(self._fire, update=True)

    def _fire(self) -> None:
        self.cancel()
        self._callback()

    def cancel(self) -> None:
        """Do not call it."""
        self._watcher.stop()
        self._watcher.close()


class Running:
    """A greenlet that carries out some work."""

    __slots__ = ("_greenlet", "_work")

    def __init__(self, work: Work) -> None:
        self._work = work
        self._greenlet = gevent.spawn(carry_out, work)

    def cancel(self) -> None:
        """End it where it waits."""
        self._greenlet.kill(block=False)
        if self._greenlet.dead:
            self._work.close()  # it had not begun


class Tasks:
    """Greenlets that belong together: `asyncio.TaskGroup`, as far as it is needed."""

    def __init__(self) -> None:
        self._owner: Any = None
        """Who is in the group, as long as a failure is to end that."""
        self._running: dict[Any, Work] = {}
        self._error: BaseException | None = None
        self._all_over = Future()

    async def __aenter__(self) -> Tasks:
        self._owner = gevent.getcurrent()
        return self

    def create_task(self, work: Work) -> object:
        """Begin one."""
        greenlet = gevent.spawn(self._carry_out, work)
        self._running[greenlet] = work
        return greenlet

    def _carry_out(self, work: Work) -> None:
        try:
            carry_out(work)
        except BaseException as error:
            if self._error is None and not isinstance(error, gevent.GreenletExit):
                self._error = error
                get_hub().loop.run_callback(self._interrupt)
        finally:
            del self._running[gevent.getcurrent()]
            if not self._running:
                self._all_over.set_result(None)

    def _interrupt(self) -> None:
        # The error itself could be taken for one of what the owner waits for. Nor may it meet one that has left.
        if self._owner is not None:
            self._owner.throw(gevent.GreenletExit)

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                while self._running:
                    self._all_over = Future()
                    await self._all_over
        except gevent.GreenletExit:
            if self._error is None:
                raise
        finally:
            self._owner = None
            if self._running:
                gevent.killall(list(self._running))
                for work in self._running.values():
                    work.close()  # these had not begun
        if self._error is not None and error is not self._error:
            raise self._error


class Transport:
    """A connected socket, read in the hub."""

    __slots__ = ("_closing", "_connection", "_loop", "_lost", "_reader", "_socket", "_unsent", "_writer")

    buffer = memoryview(bytearray(READ_BYTES))
    """Of all connections: what is in it is taken in before the next one is read."""

    def __init__(self, loop: Any, connected: socket.socket, connection: Connection) -> None:
        self._loop = loop
        self._socket = connected
        self._connection = connection
        self._unsent: deque[bytes] = deque()
        self._closing = self._lost = False
        self._writer: Any = None
        self._reader = loop.io(connected.fileno(), READ)
        connection.connection_made(self)
        if not self._closing:
            self._reader.start(self._readable)

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self.buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if size:
            self._connection.data_received(self.buffer[:size].tobytes())
        else:
            self.close()

    def write(self, data: bytes) -> None:
        """Send it, what the socket does not take now as soon as it does."""
        if self._closing:
            return
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._loop.run_callback(self._lose, error)
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._writer = self._writer or self._loop.io(self._socket.fileno(), WRITE)
            self._writer.start(self._writable)
        self._unsent.append(data)

    def _writable(self) -> None:
        try:
            while self._unsent:
                data = self._unsent[0]
                sent = self._socket.send(data)
                if sent < len(data):
                    self._unsent[0] = data[sent:]
                    return
                self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        self._writer.stop()
        if self._closing:
            self._lose(None)

    def close(self) -> None:
        """Read nothing more, and close when all is sent."""
        if not self._closing:
            self._closing = True
            self._reader.stop()
            if not self._unsent:
                self._loop.run_callback(self._lose, None)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._reader.stop()
        self._unsent.clear()
        self._loop.run_callback(self._lose, None)

    def _lose(self, error: OSError | None) -> None:
        """The connection is over: give all back, once, and say so."""
        if self._lost:
            return
        self._closing = self._lost = True
        for watcher in (self._reader, self._writer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        try:
            self._connection.connection_lost(error)  # which asks the socket how many segments came
        finally:
            self._socket.close()

    def is_closing(self) -> bool:
        """Whether nothing more is read."""
        return self._closing

    def pause_reading(self) -> None:
        """Leave what comes in the socket."""
        self._reader.stop()

    def resume_reading(self) -> None:
        """Read again."""
        if not self._closing:
            self._reader.start(self._readable)

    def get_extra_info(self, name: str) -> Any:
        """The "socket"; there is nothing else."""
        return self._socket if name == "socket" else None


class GeventEngine:
    """gevent's hub."""

    name = "gevent"

    def __init__(self) -> None:
        self._loop = get_hub().loop
        self._readers: dict[int, Any] = {}
        self._addresses: dict[tuple[str, int], tuple[tuple[Any, Any], ...]] = {}
        self.pacer = Pacer(self)

    # What an asyncio loop calls the same.

    def create_future(self) -> Future:
        """Something to wait for."""
        return Future()

    def call_soon(self, callback: Callable[[], object]) -> object:
        """Have the hub call it when it has its next turn, and has looked at its sockets before."""
        # What run_callback is given is called in the same turn, a thousand of them before a socket is looked at: stamps
        # would wait for all streams that start at once.
        return Timer(self._loop, 0.0, callback)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        """Have the hub call it then, or a little later."""
        return Timer(self._loop, delay_s, callback)

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Have the hub call it whenever the descriptor can be read."""
        self.remove_reader(fd)
        watcher = self._readers[fd] = self._loop.io(fd, READ)
        watcher.start(callback)

    def remove_reader(self, fd: int) -> None:
        """Do not any more."""
        watcher = self._readers.pop(fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()

    # The engine.

    def start(self, work: Work) -> Handle:
        """Begin work that is on its own; cancelling ends it where it waits."""
        return Running(work)

    def group(self) -> AbstractAsyncContextManager[Group]:
        """Tasks that belong together."""
        return Tasks()

    @asynccontextmanager
    async def users(self, count: int) -> AsyncIterator[Users]:
        """So many users, ready to begin inside and gone behind it."""

        async def run(work: Callable[[int], Work]) -> None:
            async with Tasks() as running:
                for user in range(count):
                    running.create_task(work(user))

        yield run

    async def connect(self, connection: Connection, host: str, port: int, timeout_s: float) -> None:
        """Make the TCP connection and hand it over, with Nagle's algorithm off. Raises `OSError`, `TimeoutError`."""
        until_ns = monotonic_ns() + int(timeout_s * NS)
        addresses = self._addresses_of(host, port)
        for place, address in enumerate(addresses):
            left_s = (until_ns - monotonic_ns()) / NS
            try:
                await self._connect(connection, *address, max(left_s, 0.001))
            except OSError:
                if place + 1 == len(addresses) or monotonic_ns() >= until_ns:
                    raise
            else:
                if place:  # the next connection need not knock in vain
                    self._addresses[host, port] = (address, *addresses[:place], *addresses[place + 1 :])
                return

    async def _connect(self, connection: Connection, family: Any, address: Any, timeout_s: float) -> None:
        made = _plain_socket(family, socket.SOCK_STREAM)
        over, error = Future(), errno.ETIMEDOUT
        watcher: Any = None
        transport: Transport | None = None

        def connected() -> None:  # in the hub, so that no greenlet stands between the handshake and its stamp
            nonlocal error, transport
            if not over.done():
                error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                over.set_result(None)
                if not error:
                    watcher.stop()
                    watcher.close()
                    transport = Transport(self._loop, made, connection)

        def expire() -> None:
            if not over.done():
                over.set_result(None)

        timer = self.call_later(timeout_s, expire)
        try:
            made.setblocking(False)
            for option in connection.options:
                made.setsockopt(*option)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = made.connect_ex(address)
            if begun not in (0, errno.EINPROGRESS):
                raise OSError(begun, os.strerror(begun))
            watcher = self._loop.io(made.fileno(), WRITE)
            watcher.start(connected)
            await over
            if error:
                raise OSError(error, os.strerror(error))  # ETIMEDOUT is a TimeoutError
        except BaseException:
            if transport is not None:
                transport.abort()  # killed when the socket was no longer ours to close
            else:
                if watcher is not None:
                    watcher.stop()
                    watcher.close()
                made.close()
            raise
        finally:
            timer.cancel()

    def _addresses_of(self, host: str, port: int) -> tuple[tuple[Any, Any], ...]:
        """Families and addresses of a host, looked up once: a look-up is no part of what is measured."""
        key = (host, port)
        if key not in self._addresses:
            try:
                # gevent has a thread look up even what is a number.
                found = _plain_getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            except socket.gaierror:
                found = get_hub().resolver.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses[key] = tuple((family, address) for family, _, _, _, address in found)
        return self._addresses[key]
