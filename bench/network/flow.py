"""A byte stream on a line, as a model of TCP: nothing is dropped, what a packet would have lost is waited for instead.

What it charges is stated in docs/networks.md. No window grows here: a stream is as fast as its line from the start.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple, TypeAlias

from bench.network.line import Line

SEGMENT_BYTES = 1448
"""What a packet of 1,500 bytes carries with TCP time-stamps."""
HEADER_BYTES = 52

RTO_NS = 200_000_000
"""Linux waits for an acknowledgement a round trip and at least this much longer; then twice as long, and so on."""
SYN_RTO_NS = 1_000_000_000
"""RFC 6298, section 2.1: before a round trip was measured."""
LONGEST_RTO_NS = 120_000_000_000
TRIES = 15
"""Linux's tcp_retries2. A packet lost as often comes through all the same: no stream is given up here."""
SYN_TRIES = 6
"""Linux's tcp_syn_retries, likewise: two minutes in all."""
DUPLICATES = 3
"""So many later segments tell a sender that one is missing: RFC 5681, section 3.2."""

WINDOW_BYTES = 4 << 20
"""How much of a stream may be under way: Linux's largest send buffer by default."""


class End(Enum):
    """How a stream ends."""

    FINISHED = "no more bytes this way"
    RESET = "the connection is gone, both ways"


Item: TypeAlias = bytes | End


class _Segment(NamedTuple):
    number: int
    due_ns: int
    item: Item


class Flow:
    """One direction of one connection; other connections have theirs on the same line."""

    def __init__(self, line: Line, rtt_ns: int) -> None:
        self._line = line
        self._rtt_ns = rtt_ns
        self._segments: deque[_Segment] = deque()
        self._entered = 0
        self._last_due_ns = 0
        # While a segment is missing, it and all behind it are held until `_held_ns`.
        self._missing = 0
        self._held_ns = 0
        self._duplicates = 0
        self.bytes = 0
        """Bytes under way."""

    def put(self, now_ns: int, item: Item) -> None:
        """Take in bytes, in segments, or an end. The calls of all flows on a line come in the order of time."""
        if isinstance(item, End):
            self._enter(now_ns, b"", item)
            return
        self.bytes += len(item)
        for start in range(0, len(item), SEGMENT_BYTES):
            piece = item[start : start + SEGMENT_BYTES]
            self._enter(now_ns, piece, piece)

    def _enter(self, now_ns: int, data: bytes, item: Item) -> None:
        line = self._line
        size = len(data) + HEADER_BYTES
        line.packets += 1
        line.bytes += size
        sent_ns = line.send(now_ns, size)
        arrived_ns = retried_ns(line, sent_ns, self._rtt_ns + RTO_NS)
        due_ns = max(self._last_due_ns, sent_ns + line.flight_ns())
        self._last_due_ns = due_ns
        self._entered += 1
        waits_ns = arrived_ns - sent_ns
        if waits_ns:
            if due_ns >= self._held_ns:
                self._missing = self._entered
            self._held_ns = max(self._held_ns, due_ns + waits_ns)
            # What was lost twice is found missing by no duplicate, only by its timer.
            self._duplicates = 0 if waits_ns == self._rtt_ns + RTO_NS else DUPLICATES
        elif due_ns < self._held_ns:
            self._duplicates += 1
            if self._duplicates == DUPLICATES:
                self._held_ns = min(self._held_ns, due_ns + self._rtt_ns)
        self._segments.append(_Segment(self._entered, due_ns, item))

    def next_ns(self) -> int | None:
        """When the next segment comes out, as far as is known now; None: nothing is under way."""
        if not self._segments:
            return None
        number, due_ns, _ = self._segments[0]
        return max(due_ns, self._held_ns) if self._missing and number >= self._missing else due_ns

    def take(self) -> Item:
        """The next segment or end, which must be due."""
        item = self._segments.popleft().item
        if isinstance(item, bytes):
            self.bytes -= len(item)
        return item

    def crowded_ns(self, now_ns: int) -> int:
        """How long it takes from now until the sender may send on; 0: it may. Segments that come out make room too."""
        if self.bytes >= WINDOW_BYTES:
            return max(1, (self.next_ns() or now_ns) - now_ns)
        return self._line.crowded_ns(now_ns)


def retried_ns(line: Line, at_ns: int, wait_ns: int) -> int:
    """When a packet sent at `at_ns`, and again after `wait_ns`, twice that and so on, is sent and not lost."""
    for _ in range(TRIES):
        if line.is_cut(at_ns):
            line.cut += 1
        elif not line.loses():
            break
        at_ns += wait_ns
        wait_ns = min(2 * wait_ns, LONGEST_RTO_NS)
    return at_ns


def handshake(up: Line, down: Line, at_ns: int) -> tuple[int, int]:
    """A connect() at that time: when the server sees it, and when the client knows it is connected."""
    wait_ns = SYN_RTO_NS
    for _ in range(SYN_TRIES):
        # The answer is lost as the question is: either way the client asks again.
        answer_ns = at_ns + up.flight_ns()
        if not (up.is_cut(at_ns) or up.loses() or down.is_cut(answer_ns) or down.loses()):
            break
        at_ns += wait_ns
        wait_ns *= 2
    seen_ns = at_ns + up.flight_ns()
    return seen_ns, seen_ns + down.flight_ns()
