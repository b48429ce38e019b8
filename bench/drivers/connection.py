"""One socket carrying out what its session asks for, told of what happens by whatever loop there is."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from time import monotonic_ns
from typing import cast

from bench.arrivals import NS
from bench.drivers.engine import Engine, Handle, Transport
from bench.session import NEVER, Session, uncounted
from bench.usage import data_segments
from servers.pacing import Waiter


class Connection(asyncio.Protocol):
    """One socket and its session.

    The stamp is the first thing `data_received` does: one reading of the monotonic clock per socket read, taken before
    any parsing, on every protocol.
    """

    options: Sequence[tuple[int, int, int]] = ()
    """Socket options (level, name, value) that have to be set before connect()."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine = engine
        self.session = session
        self._transport: Transport | None = None
        self._timer: Handle | None = None
        self._armed_ns = NEVER
        self.settled: Waiter | None = None
        """Resolved when the stream has ended and the connection is idle again, or gone."""
        self.by_message = False
        """Whether a client that leaves says so, where the protocol can, instead of closing the connection."""

    def connection_made(self, transport: asyncio.BaseTransport | Transport) -> None:
        self.session.connected(monotonic_ns())
        self._transport = cast(Transport, transport)
        self.session.segments = self._segments
        self.act()

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        if self.session.received(now, data):
            self.act()

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.lost(monotonic_ns(), exc)
        self._transport = None
        self.act()
        self.session.segments = uncounted  # else each would hold the other until the collector comes

    def _segments(self) -> int:
        transport = self._transport
        return -1 if transport is None else data_segments(transport.get_extra_info("socket"))

    def failed(self, error: OSError) -> None:
        """connect() failed."""
        self.session.lost(monotonic_ns(), error)
        self.act()

    def act(self) -> None:
        """Send, close, and report, as the session now asks."""
        session = self.session
        transport = self._transport
        if session.leaving:
            session.depart(monotonic_ns(), by_message=self.by_message)
        if session.out and transport is not None:
            out, session.out = session.out, b""
            session.sending(monotonic_ns())
            transport.write(out)
        if session.close and transport is not None:
            transport.close()
        record = session.ended
        if record is not None and (session.idle or session.close) and self.settled is not None:
            settled, self.settled = self.settled, None
            self._disarm()
            if not settled.done():
                settled.set_result(None)
        elif record is None and session.deadline_ns < self._armed_ns:
            self._disarm()
            self._arm()

    def _arm(self) -> None:
        # One timer per stream. A deadline that moves away is looked at when the timer fires, so tokens do not touch it;
        # one that comes nearer (another part of the stream begins) arms it anew.
        self._armed_ns = self.session.deadline_ns
        delay = (self._armed_ns - monotonic_ns()) / NS
        self._timer = self._engine.call_later(max(delay, 0.001), self._wake)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed_ns = NEVER

    def expire(self) -> None:
        """connect() took too long."""
        self.session.expired(self.session.deadline_ns)
        self.act()

    def _wake(self) -> None:
        self._timer = None
        self._armed_ns = NEVER
        if self.session.expired(monotonic_ns()):
            if self._transport is not None:
                self._transport.abort()
            self.act()
        elif self.session.deadline_ns != NEVER:
            self._arm()

    def hang_up(self) -> None:
        """Close the connection, in good order when it is idle."""
        self._disarm()
        self.session.leave()
        self.act()


SLOW_SEGMENT = 1448
"""The largest segment that a slow client takes, in bytes, as over Ethernet: for the 64 KiB of loopback Linux lets a
server's send buffer grow to 4 MiB, which hides a slow client from it for 20,000 tokens."""
SLOW_BUFFER = 4096
"""Receive buffer of a slow client, in bytes, which Linux doubles: what is not read must soon be felt by the server."""


class SlowConnection(Connection):
    """A client that reads `bytes_per_s` at most, a little at a time."""

    # The buffer has to be set before the handshake, which tells its size.
    options = (
        (socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER),
        *([(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SLOW_SEGMENT)] if sys.platform == "linux" else []),
    )

    def __init__(self, engine: Engine, session: Session, bytes_per_s: int) -> None:
        super().__init__(engine, session)
        self._bytes_per_s = bytes_per_s

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
            self._engine.call_later(len(data) / self._bytes_per_s, self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
