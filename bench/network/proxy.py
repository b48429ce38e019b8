"""A relay for byte streams, where packets are not permitted: TCP on both sides of it, and a model of TCP between.

The kernel answers a connect() before the relay hears of it. So what a client sends is held until its connect() would
have returned: from connect() to the first byte of the answer it is two round trips, as it should be, though connect()
itself shows none.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from time import monotonic_ns, process_time_ns
from typing import Any

from bench.network.connection import Side, Way, reset
from bench.network.control import Orders, say
from bench.network.flow import Flow, handshake
from bench.network.lateness import Lateness
from bench.network.line import Line
from bench.network.namespaces import die_with_parent
from bench.network.pieces import Pieces
from bench.network.profiles import Network
from bench.network.scheduling import come_first
from servers.pacing import Pacer

HOST = "127.0.0.1"
BACKLOG = 4096


class Proxy:
    """Listeners, their targets, and the line each way that all connections share."""

    def __init__(self, network: Network, seed: int) -> None:
        self._start_ns = monotonic_ns()
        self._rtt_ns = round(network.rtt_ms * 1e6)
        self._up = Line(network, "up", seed, self._start_ns)
        self._down = Line(network, "down", seed, self._start_ns)
        self._loop = asyncio.get_running_loop()
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._cpu_ns = process_time_ns()
        self._pacer = Pacer(self._loop)
        self._late = Lateness()

    def ready(self) -> dict[str, Any]:
        return {"kind": "modelled", "pid": os.getpid(), "start_ns": self._start_ns}

    def report(self) -> dict[str, Any]:
        """What went through, how late it was passed on, and what that cost."""
        cpu_ns, up, down = process_time_ns() - self._cpu_ns, self._up.counts(), self._down.counts()
        return {
            "up": up,
            "down": down,
            "connections": self._connections,
            "late_us": self._late.summary(),
            "cpu_us": cpu_ns // 1000,
        }

    def reach(self, host: str, port: int, fragment: tuple[int, ...] = ()) -> dict[str, Any]:
        """Listen for those who want to reach that server; return where. `fragment` is for `Pieces`, unless empty."""
        listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        listener.setblocking(False)
        self._listeners.append(listener)
        self._loop.add_reader(listener, self._accept, listener, (host, port), fragment)
        return dict(zip(("host", "port"), listener.getsockname(), strict=True))

    def _accept(self, listener: socket.socket, target: tuple[str, int], fragment: tuple[int, ...]) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                client, _ = listener.accept()
                self._connections += 1
                task = self._loop.create_task(self._connect(client, target, fragment, monotonic_ns()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _connect(
        self, client: socket.socket, target: tuple[str, int], fragment: tuple[int, ...], at_ns: int
    ) -> None:
        """Carry out a connect() that the client made at about `at_ns`."""
        seen_ns, known_ns = handshake(self._up, self._down, at_ns)
        await self._pacer.until(seen_ns)
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, target)
        except OSError:
            server.close()
            await self._pacer.until(known_ns)
            reset(client)
            client.close()
            return
        near, far = Side(client), Side(server)
        near.out = far.back = up = self._way(self._up, near, far, fragment)
        far.out = near.back = down = self._way(self._down, far, near, fragment)
        # Unread, bytes wait in the kernel: the client's until it would know that it is connected, the server's until
        # it would know.
        await self._pacer.until(known_ns)
        await self._attach(near, client)
        down.go_on()
        await self._pacer.until(known_ns + self._rtt_ns // 2)
        self._late.add(monotonic_ns() - known_ns - self._rtt_ns // 2)
        await self._attach(far, server)
        up.go_on()

    async def _attach(self, side: Side, sock: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: side, sock)

    def _way(self, line: Line, source: Side, sink: Side, fragment: tuple[int, ...]) -> Way:
        pieces = Pieces(fragment) if fragment else None
        return Way(Flow(line, self._rtt_ns), source, sink, pieces, self._pacer, self._late)


def run(network: Network, seed: int) -> None:
    """Be the relay until told to stop."""
    import uvloop

    die_with_parent(signal.SIGTERM)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(network, seed))


async def _serve(network: Network, seed: int) -> None:
    loop = asyncio.get_running_loop()
    proxy = Proxy(network, seed)
    told_to_stop = asyncio.Event()
    orders = Orders()

    def hear() -> None:
        told = orders.read()
        if told is None:
            told_to_stop.set()
            return
        for words in told:
            match words:
                case ["reach", host, port, *sizes]:
                    fragment = tuple(int(size) for size in ",".join(sizes).split(",") if size)
                    say("reach", **proxy.reach(host, int(port), fragment))
                case _:
                    say("report", **proxy.report())

    loop.add_signal_handler(signal.SIGTERM, told_to_stop.set)
    loop.add_reader(orders.fd, hear)
    gc.freeze()
    say("ready", **proxy.ready(), scheduling=come_first())
    await told_to_stop.wait()
    say("report", **proxy.report())
