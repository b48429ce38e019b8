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
import struct
from time import monotonic_ns, process_time_ns
from typing import Any, cast

from bench.network.control import Orders, say
from bench.network.flow import End, Flow, Item, handshake
from bench.network.lateness import Lateness
from bench.network.line import Line
from bench.network.namespaces import die_with_parent
from bench.network.pieces import GAP_NS, Pieces
from bench.network.profiles import Network
from bench.network.scheduling import come_first
from servers.pacing import NEVER_NS, Pacer

HOST = "127.0.0.1"
READ_BYTES = 16_384
"""Read at once: more would let one connection hold the line for long."""
BACKLOG = 4096
LOOK_AGAIN_NS = 200_000
"""A source that must wait is looked at no more often."""


class _Side(asyncio.BufferedProtocol):
    """The socket at one end of a connection."""

    out: _Way
    """Where its bytes go."""
    back: _Way
    """Where the bytes come from that are written to it."""
    _transport: asyncio.Transport

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray(READ_BYTES)
        self._ended = {"read": False, "write": False}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, _sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.out.put(bytes(memoryview(self._buffer)[:nbytes]))

    def eof_received(self) -> bool:
        self.out.put(End.FINISHED)
        self._end("read")
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self.back.go_on()
        if exc is not None:
            self.out.put(End.RESET)

    def pause_writing(self) -> None:
        self.back.hold()

    def resume_writing(self) -> None:
        self.back.go_on()

    def pause_reading(self) -> None:
        if self._alive() and not self._ended["read"]:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._alive() and not self._ended["read"]:
            self._transport.resume_reading()

    def _alive(self) -> bool:
        return not self._transport.is_closing()

    def write(self, item: Item) -> None:
        """Pass on bytes or an end; to nobody when the socket is gone."""
        if not self._alive():
            return
        if isinstance(item, bytes):
            self._transport.write(item)
        elif item is End.FINISHED:
            self._transport.write_eof()
            self._end("write")
        else:
            reset(self._socket)
            self._transport.abort()

    def _end(self, what: str) -> None:
        self._ended[what] = True
        if all(self._ended.values()):
            self._transport.close()


def reset(sock: socket.socket) -> None:
    """Have the socket, once closed, tell its peer so with an RST: SO_LINGER of 0 s, socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Way:
    """One direction of one connection: what one side reads, written to the other when it is due."""

    def __init__(self, flow: Flow, source: _Side, sink: _Side, proxy: Proxy, pieces: Pieces | None) -> None:
        self._flow, self._source, self._sink, self._proxy, self._pieces = flow, source, sink, proxy, pieces
        self._armed_ns = NEVER_NS
        self._not_before_ns = 0
        self._held = True
        self._paused = False

    def put(self, item: Item) -> None:
        """Send on what the source said."""
        now_ns = monotonic_ns()
        for piece in self._pieces.cut(item) if self._pieces and isinstance(item, bytes) else (item,):
            self._flow.put(now_ns, piece)
        self._arm()
        if not self._paused and self._flow.crowded_ns(now_ns):
            self._paused = True
            self._source.pause_reading()
            self._read_on()

    def _read_on(self, _woken: object = None) -> None:
        """Let the source be read again once there is room for what it says."""
        now_ns = monotonic_ns()
        wait_ns = self._flow.crowded_ns(now_ns)
        if wait_ns:
            self._proxy.pacer.until(now_ns + max(wait_ns, LOOK_AGAIN_NS)).add_done_callback(self._read_on)
        else:
            self._paused = False
            self._source.resume_reading()

    def hold(self) -> None:
        """The sink takes nothing for now."""
        self._held = True

    def go_on(self) -> None:
        """The sink takes more, or is there; or is gone for good, and what comes is for nobody."""
        self._held = False
        self._arm()

    def _arm(self) -> None:
        due_ns = self._flow.next_ns()
        if due_ns is None or self._held:
            return
        due_ns = max(due_ns, self._not_before_ns)
        if due_ns < self._armed_ns:
            self._armed_ns = due_ns
            self._proxy.pacer.until(due_ns).add_done_callback(self._release)

    def _release(self, _woken: object) -> None:
        """Write what is due, which may be nothing: a wake-up is not taken back when a segment comes out sooner."""
        if monotonic_ns() < self._not_before_ns:
            return
        self._armed_ns = NEVER_NS
        flow = self._flow
        while not self._held:
            due_ns = flow.next_ns()
            if due_ns is None:
                return
            late_ns = monotonic_ns() - due_ns
            if late_ns < 0:
                break
            self._sink.write(flow.take())
            self._proxy.late.add(late_ns)
            if self._pieces:
                self._not_before_ns = monotonic_ns() + GAP_NS
                break
        self._arm()


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
        self.pacer = Pacer(self._loop)
        self.late = Lateness()

    def ready(self) -> dict[str, Any]:
        return {"kind": "modelled", "pid": os.getpid(), "start_ns": self._start_ns}

    def report(self) -> dict[str, Any]:
        """What went through, how late it was passed on, and what that cost."""
        cpu_ns, up, down = process_time_ns() - self._cpu_ns, self._up.counts(), self._down.counts()
        return {
            "up": up,
            "down": down,
            "connections": self._connections,
            "late_us": self.late.summary(),
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
        await self.pacer.until(seen_ns)
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, target)
        except OSError:
            server.close()
            await self.pacer.until(known_ns)
            reset(client)
            client.close()
            return
        near, far = _Side(client), _Side(server)
        near.out = far.back = up = self._way(self._up, near, far, fragment)
        far.out = near.back = down = self._way(self._down, far, near, fragment)
        # Unread, bytes wait in the kernel: the client's until it would know that it is connected, the server's until
        # it would know.
        await self.pacer.until(known_ns)
        await self._attach(near, client)
        down.go_on()
        await self.pacer.until(known_ns + self._rtt_ns // 2)
        await self._attach(far, server)
        up.go_on()

    async def _attach(self, side: _Side, sock: socket.socket) -> None:
        await self._loop.connect_accepted_socket(lambda: side, sock)

    def _way(self, line: Line, source: _Side, sink: _Side, fragment: tuple[int, ...]) -> _Way:
        return _Way(Flow(line, self._rtt_ns), source, sink, self, Pieces(fragment) if fragment else None)


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
