"""The conversation on one connection, sans-I/O: stamps and bytes in; bytes to send, deadlines and records out.

A driver owns the socket and the clock. It tells the session what happened and when, sends what the session gives it,
closes when told to, and calls `expired` once `deadline_ns` has passed. Nothing here knows asyncio, gevent or a
protocol: bytes become events in `bench.wire`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from bench.rawlog import RawLog, StreamRecord
from bench.scenario import Timeouts
from bench.wire.event_id import split_event_id
from bench.wire.events import (
    NO_STREAM,
    SEPARATOR,
    Accepted,
    Closed,
    Content,
    Finished,
    Identified,
    Idle,
    Outcome,
    Secured,
    Wire,
)

NEVER = 2**63 - 1


class Counters:
    """What all sessions of a trial count together."""

    __slots__ = ("chunks",)

    def __init__(self) -> None:
        self.chunks = 0
        """Content chunks received."""


class Session:
    """One connection and the stream under way on it.

    `out` holds bytes to send, `close` says that the connection is to be closed, `idle` that it can take a stream,
    `ended` is the record of a stream that has just ended: the driver takes these up whenever a call returned True.
    """

    __slots__ = (
        "_asking",
        "_body",
        "_counters",
        "_counts",
        "_deadline_ns",
        "_expiring",
        "_gap_ns",
        "_last_event_id",
        "_log",
        "_over",
        "_record",
        "_secured",
        "_segments_before",
        "_stamps",
        "_texts",
        "_timeouts",
        "_tls",
        "_total_deadline_ns",
        "_wire",
        "alive",
        "close",
        "ended",
        "idle",
        "leaving",
        "out",
        "segments",
    )

    def __init__(self, wire: Wire, timeouts: Timeouts, log: RawLog, counters: Counters, *, tls: bool = False) -> None:
        self._wire = wire
        self._tls = tls
        self._timeouts = timeouts
        self._gap_ns = int(timeouts.gap_s * 1e9)
        self._log = log
        self._counters = counters
        self._record: StreamRecord | None = None
        self._over: StreamRecord | None = None
        self._body = b""
        self._last_event_id = ""
        self._asking = False
        self._secured = False
        """The handshake's last read is over, and what it asks of this side is not yet."""
        self._texts: list[bytes] = []
        self._stamps = array("q")
        self._counts = array("I")
        self._expiring = ""
        self._total_deadline_ns = NEVER
        self._deadline_ns = NEVER
        self.out = b""
        self.close = False
        self.idle = False
        self.alive = True
        self.leaving = False
        """The client is to leave now: call `depart`."""
        self.ended: StreamRecord | None = None
        self.segments: Callable[[], int] = uncounted
        """How many data segments the connection has received so far; -1 where the owner of the socket cannot tell."""
        self._segments_before = 0

    # What the driver wants.

    def ask(self, record: StreamRecord, body: bytes, last_event_id: str = "") -> None:
        """Start a stream with this request body: at once on an idle connection, else as soon as the wire is ready.

        `last_event_id` asks for what comes after that event.
        """
        self._record = record
        self._body = body
        self._last_event_id = last_event_id
        after = split_event_id(last_event_id)
        if after is not None:
            record.completion_id, record.resumed_from = after
        self._texts = []
        self._stamps = array("q")
        self._counts = array("I")
        self.ended = None
        if self.idle:
            self.idle = False
            self._request(record)

    def sending(self, now_ns: int) -> None:
        """`out` is about to be written: the clock of a warm stream starts here. Clears nothing; take `out` yourself."""
        record = self._record
        if record is None:
            return
        if self._secured:
            # Not when the read came: checking the certificate comes after it, and is the handshake's.
            self._secured = False
            record.secured_ns = now_ns
            if self._asking:
                record.ready_ns = now_ns
        if not self._asking:
            return
        self._asking = False
        record.requested_ns = now_ns
        self._segments_before = 0 if record.cold else self.segments()
        if not record.cold:
            record.started_ns = now_ns
            self._total_deadline_ns = now_ns + int(self._timeouts.total_s * 1e9)
        self._expect(now_ns, self._timeouts.first_s, "first")

    def cancel(self, now_ns: int, detail: str) -> None:
        """End the stream under way as `cancelled`, if there is one, and the connection with it."""
        if self._record is not None:
            out = self._wire.cancel(self._record.stream)
            if out:
                self.out += out
            self._end(now_ns, Outcome.CANCELLED, detail, "stopped")
        self._shut()

    def depart(self, now_ns: int, *, by_message: bool) -> None:
        """Leave the stream under way: by a message where the protocol has one, else by closing the connection."""
        self.leaving = False
        record = self._record
        if record is None or record.left_ns:
            return
        record.left_ns = now_ns
        out = self._wire.cancel(record.stream) if by_message else None
        if out is None:
            self._end(now_ns, Outcome.CANCELLED, "", "left")
            self._shut()
        else:
            self.out += out

    def leave(self) -> None:
        """Close an idle connection in good order."""
        if self.alive:
            self.out += self._wire.close()
        self._shut()

    # What happened.

    def connecting(self, now_ns: int) -> None:
        """connect() is about to be called: the clock of a cold stream starts here."""
        if self._record is not None:
            self._record.started_ns = now_ns
            self._total_deadline_ns = now_ns + int(self._timeouts.total_s * 1e9)
        self._expect(now_ns, self._timeouts.connect_s, "connect")

    def connected(self, now_ns: int) -> None:
        """The transport is up."""
        if self._record is not None:
            self._record.connected_ns = now_ns
        self._expect(now_ns, self._timeouts.head_s, "tls" if self._tls else "head")
        self.out += self._wire.opening()
        if self._wire.ready:
            self._opened(now_ns)

    def received(self, now_ns: int, data: bytes) -> bool:
        """Bytes came, stamped before this call. Return True when there is more to do than to read on."""
        record, wire = self._record, self._wire
        attend = False
        if record is not None and not record.first_byte_ns and record.requested_ns:
            record.first_byte_ns = now_ns
        for event in wire.receive(data):
            if type(event) is not Content:
                self._event(now_ns, event)
                attend = True
            elif record is not None and event.stream == record.stream:
                # Once per token: appends and nothing else. What can be derived is derived when the stream ends.
                if not self._stamps:
                    self._first(record)
                    attend = True  # from here on another deadline holds
                self._stamps.append(now_ns)
                self._counts.append(event.chunks)
                self._texts.append(event.text)
                self._counters.chunks += event.chunks
        out = wire.to_send()
        if out:
            self.out += out
            attend = True
        return attend

    def lost(self, now_ns: int, error: BaseException | None) -> None:
        """The connection is gone, or could not be made (then `error` says why)."""
        record = self._record
        if record is not None and record.cold and not record.connected_ns:
            refused = isinstance(error, ConnectionRefusedError)
            self._end(now_ns, Outcome.REFUSED, _words(error), "refused" if refused else "unreachable")
        if record is not None and isinstance(error, ConnectionResetError):
            self._end(now_ns, Outcome.TRUNCATED, _words(error), "reset")
        # Also without a stream: the wire then lets go of what would keep it in memory while the collector is off.
        for event in self._wire.eof():
            self._event(now_ns, event)
        if self._record is not None:
            self._end(now_ns, Outcome.TRUNCATED, _words(error), "closed")
        self._shut()

    def expired(self, now_ns: int) -> bool:
        """`deadline_ns` may have passed: if it has, the stream timed out. Return whether it has."""
        if now_ns < self.deadline_ns:
            return False
        if self._record is not None:
            waiting_for = "gap" if self._stamps else self._expiring
            what = "total" if now_ns >= self._total_deadline_ns else waiting_for
            self._end(now_ns, Outcome.TIMED_OUT, "", f"{what}_timeout")
        self._shut()
        return True

    @property
    def flowing(self) -> bool:
        """Whether a stream is under way that has its first content."""
        return self._record is not None and bool(self._stamps)

    @property
    def last_event_id(self) -> str:
        """The id of the last event of the last stream, for who asks for the rest; "" where none is known."""
        return self._wire.last_event_id

    @property
    def retry_after_s(self) -> float | None:
        """How long the server asked to wait before the next request, in seconds."""
        return self._wire.retry_after_s

    @property
    def deadline_ns(self) -> int:
        """When to call `expired`; it moves away while tokens come, so ask again then."""
        if not self._stamps or self._record is None:
            return self._deadline_ns
        # Worked out when asked, a few times a stream, and not at every token.
        return min(self._stamps[-1] + self._gap_ns, self._total_deadline_ns)

    # Inside.

    def _expect(self, now_ns: int, seconds: float, what: str) -> None:
        self._expiring = what
        self._deadline_ns = min(now_ns + int(seconds * 1e9), self._total_deadline_ns)

    def _opened(self, now_ns: int) -> None:
        record = self._record
        if record is None:
            self.idle = True
            self._deadline_ns = NEVER
        else:
            record.ready_ns = now_ns
            self._request(record)

    def _request(self, record: StreamRecord) -> None:
        self.out += self._wire.request(record.stream, self._body, self._last_event_id or None)
        self._asking = True

    def _event(self, now_ns: int, event: object) -> None:
        record = self._record
        match event:
            case Secured():
                if record is not None:
                    self._secured = True
                    record.tls_resumed = event.resumed
                self._expect(now_ns, self._timeouts.head_s, "head")
                if self._wire.ready:
                    self._opened(now_ns)
            case Accepted():
                if record is not None and record.requested_ns:
                    record.head_ns = now_ns
                elif self._wire.ready:
                    self._opened(now_ns)
            case Identified():
                if record is not None and event.stream == record.stream:
                    record.completion_id = event.completion_id
            case Finished():
                if record is not None and event.stream in (record.stream, NO_STREAM):
                    self._end(now_ns, event.outcome, event.detail, event.reason)
                    if event.outcome is Outcome.PROTOCOL_ERROR:
                        self._shut()
            case Idle():
                self._settle()
                self.idle = self.alive and record is None
                if self.idle:
                    self._deadline_ns = NEVER
            case Closed():
                if record is not None:
                    self._end(now_ns, Outcome.TRUNCATED, f"closed {event.code} {event.reason}".rstrip(), "closed")
                self._shut()

    def _first(self, record: StreamRecord) -> None:
        """The first content is here: what it took to get it."""
        sizes = self._wire.sizes
        record.first_sent_bytes, record.first_received_bytes = sizes.sent_bytes, sizes.total_bytes
        if record.cold:
            record.first_sent_bytes += sizes.opening_sent_bytes
            record.first_received_bytes += sizes.opening_bytes

    def _end(self, now_ns: int, outcome: Outcome, detail: str, reason: str) -> None:
        """The stream is over. Its bytes may not be: an HTTP reply has an end of its own behind the last event."""
        record = self._record
        if record is None:
            return
        self._record, self._over = None, record
        record.ended_ns = now_ns
        record.outcome = outcome.value
        record.reason = reason
        record.detail = detail
        record.chunks = sum(self._counts)
        if self._stamps:
            record.first_content_ns = self._stamps[0]
        record.text = SEPARATOR.join(self._texts).decode("utf-8", "replace")
        # A connection whose reply does not come to its end is no use to the next stream.
        self._total_deadline_ns = NEVER
        self._expect(now_ns, self._timeouts.head_s, "idle")

    def _settle(self) -> None:
        """The connection is idle again, or gone: nothing more of the stream can come, so its bytes are counted."""
        record, self._over = self._over, None
        if record is None:
            return
        sizes = self._wire.sizes
        if sizes.late and record.outcome == Outcome.COMPLETE and not record.reason:
            record.reason = "late_data"
        record.sent_bytes = sizes.sent_bytes
        record.received_bytes = sizes.total_bytes
        record.head_bytes = sizes.head_bytes
        if record.cold:
            record.sent_bytes += sizes.opening_sent_bytes
            record.received_bytes += sizes.opening_bytes
            record.head_bytes += sizes.opening_bytes
        record.payload_bytes = sizes.payload_bytes
        record.content_bytes = sizes.content_bytes
        record.text_bytes = sizes.text_bytes
        segments = self.segments()
        record.segments = -1 if min(segments, self._segments_before) < 0 else segments - self._segments_before
        self.ended = record
        self._log.ended(record, self._stamps, self._counts)

    def _shut(self) -> None:
        self._settle()
        self.alive = False
        self.idle = False
        self.close = True
        self._deadline_ns = NEVER


class LeavingSession(Session):
    """A session whose client leaves after so many content chunks; a class of its own, so that others pay nothing."""

    __slots__ = ("leave_after",)

    def __init__(self, wire: Wire, timeouts: Timeouts, log: RawLog, counters: Counters, *, tls: bool = False) -> None:
        super().__init__(wire, timeouts, log, counters, tls=tls)
        self.leave_after = NEVER

    def received(self, now_ns: int, data: bytes) -> bool:
        attend = super().received(now_ns, data)
        record = self._record
        if record is not None and not record.left_ns and sum(self._counts) >= self.leave_after:
            self.leaving = True
        return attend or self.leaving

    def leave_with_next(self) -> None:
        """Leave as soon as another content chunk has come, when nothing of the stream is on its way."""
        self.leave_after = sum(self._counts) + 1


def uncounted() -> int:
    """Stand in for who can tell how many segments came."""
    return -1


def _words(error: BaseException | None) -> str:
    if error is None:
        return "connection closed"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
