"""One connection through the proxy: a side for each of its sockets, and a way from each side to the other."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
from collections.abc import Callable
from time import monotonic_ns
from typing import cast

from bench.network.flow import End, Flow, Item
from bench.network.lateness import Lateness
from bench.network.pieces import GAP_NS, Pieces
from servers.pacing import NEVER_NS, Pacer

READ_BYTES = 16_384
"""Read at once: more would let one connection hold the line for long."""
LOOK_AGAIN_NS = 200_000
"""A source that must wait is looked at no more often."""

_SIOCOUTQNSD = 0x894B


class Side(asyncio.BufferedProtocol):
    """The socket at one end of a connection."""

    out: Way
    """Where its bytes go."""
    back: Way
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

    def unsent(self) -> bool:
        """Whether anything written has not left yet: the kernel would put more into the same segment."""
        if not self._alive():
            return False
        if self._transport.get_write_buffer_size():
            return True
        return sys.platform == "linux" and any(fcntl.ioctl(self._socket, _SIOCOUTQNSD, bytes(4)))

    def _end(self, what: str) -> None:
        self._ended[what] = True
        if all(self._ended.values()):
            self._transport.close()


def reset(sock: socket.socket) -> None:
    """Have the socket, once closed, tell its peer so with an RST: SO_LINGER of 0 s, socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Way:
    """One direction of one connection: what one side reads, written to the other when it is due."""

    def __init__(
        self, flow: Flow, source: Side, sink: Side, pieces: Pieces | None, pacer: Pacer, late: Lateness
    ) -> None:
        """Nothing is written until `go_on` is called, which is when the sink is there."""
        self._flow, self._source, self._sink, self._pieces = flow, source, sink, pieces
        self._pacer, self._late = pacer, late
        self._armed_ns = NEVER_NS
        self._not_before_ns = 0
        self._going_ns = 0
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
            self._call_at(now_ns + max(wait_ns, LOOK_AGAIN_NS), self._read_on)
        else:
            self._paused = False
            self._source.resume_reading()

    def _call_at(self, due_ns: int, callback: Callable[[object], None]) -> None:
        cast("asyncio.Future[None]", self._pacer.until(due_ns)).add_done_callback(callback)

    def hold(self) -> None:
        """The sink takes nothing for now."""
        self._held = True

    def go_on(self) -> None:
        """The sink takes more, or is there; or is gone for good, and what comes is for nobody."""
        self._held = False
        self._going_ns = monotonic_ns()
        self._arm()

    def _arm(self) -> None:
        due_ns = self._flow.next_ns()
        if due_ns is None or self._held:
            return
        due_ns = max(due_ns, self._not_before_ns)
        if due_ns < self._armed_ns:
            self._armed_ns = due_ns
            self._call_at(due_ns, self._release)

    def _release(self, _woken: object) -> None:
        """Write what is due, which may be nothing: a wake-up is not taken back when a segment comes out sooner."""
        if monotonic_ns() < self._not_before_ns:
            return
        if self._pieces and self._sink.unsent():
            self._not_before_ns = monotonic_ns() + GAP_NS
        self._armed_ns = NEVER_NS
        flow = self._flow
        while not self._held:
            due_ns = flow.next_ns()
            if due_ns is None:
                return
            now_ns = monotonic_ns()
            if now_ns < max(due_ns, self._not_before_ns):
                break
            self._sink.write(flow.take())
            self._late.add(now_ns - max(due_ns, self._going_ns))  # what the sink held up is not the relay's
            if self._pieces:
                self._not_before_ns = monotonic_ns() + GAP_NS
                break
        self._arm()
