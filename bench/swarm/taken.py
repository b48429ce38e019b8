"""What a worker's ended streams add up to: histograms and counts, small enough to be sent every few seconds.

Imported by processes that measure, and called by them once a stream: standard library, msgspec and hdrh only.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain, repeat
from operator import sub
from typing import Any

import msgspec

from bench.arrivals import LATE_NS
from bench.rawlog import DROPPED, StreamRecord
from bench.swarm.histogram import Histogram


class Counts(msgspec.Struct):
    """What is counted of the streams of one protocol; an attempt to get a stream again is a stream of its own."""

    carried: int = 0
    """Open when the counts were last cleared."""
    started: int = 0
    ended: int = 0
    retried: int = 0
    """Ended attempts that were not a stream's first."""
    dropped: int = 0
    """Starts that were not carried out."""
    late: int = 0
    """First attempts that started more than 1 ms after their time."""
    misfits: int = 0
    """Streams of other chunks than their schedule has: nothing is known of their excess."""
    tokens: int = 0
    """Content chunks received."""
    received_bytes: int = 0


class Taken:
    """Streams of one protocol on one worker, since they began or `clear`.

    Only those of the window (`StreamRecord.window`) count: call `begun` for no other.
    """

    def __init__(self) -> None:
        self._seq = 0
        self._open = 0
        self.clear()

    def clear(self) -> None:
        """Forget what has been. A stream that is open now counts, whole, when it ends."""
        self._counts = Counts(carried=self._open)
        self._outcomes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._histograms: dict[str, Histogram] = {}

    @property
    def open(self) -> int:
        """Streams under way."""
        return self._open

    def begun(self) -> None:
        """An attempt to get a stream begins: its end must be told by `ended`."""
        self._open += 1
        self._counts.started += 1

    def ended(
        self, record: StreamRecord, stamps_ns: array[int], counts: array[int], due_ns: Sequence[int] | None = None
    ) -> None:
        """A stream has ended: its record, and for each read with content its stamp and how many chunks it brought.

        `due_ns` are the due times of all chunks of the whole stream, from when the server takes it up; None where they
        are not known. A start that was dropped is told by its record alone, without `begun`.
        """
        if not record.window:
            self._take_connection(record)
            return
        told = self._counts
        if record.outcome == DROPPED:
            told.dropped += 1
            return
        self._open -= 1
        told.ended += 1
        told.retried += record.attempt > 0
        told.tokens += record.chunks
        told.received_bytes += record.received_bytes
        self._outcomes[record.outcome] += 1
        if record.reason:
            self._reasons[record.reason] += 1
        first = max(0, record.resumed_from)
        if due_ns is not None and not _fits(record, len(due_ns) - first):
            told.misfits += 1
            due_ns = None
        self._take_times(record, due_ns)
        if record.chunks > 1:
            self._take_gaps(record, stamps_ns, counts, due_ns[first:] if first and due_ns is not None else due_ns)

    def _take_times(self, record: StreamRecord, due_ns: Sequence[int] | None) -> None:
        """What is measured once a stream."""
        started_ns = record.started_ns
        if not started_ns:
            return
        late_ns = started_ns - record.intended_ns
        self._of("late").add_ns((late_ns,))
        self._counts.late += late_ns > LATE_NS and not record.attempt
        self._take_connection(record)
        if record.first_content_ns:
            ttft_ns, temperature = record.first_content_ns - started_ns, "cold" if record.cold else "warm"
            self._of(f"ttft_{temperature}").add_ns((ttft_ns,))
            if due_ns and not record.attempt and record.resumed_from < 0:
                self._of(f"ttft_excess_{temperature}").add_ns((ttft_ns - due_ns[0],))
        if record.outcome == "complete":
            self._of("stream").add_ns((record.ended_ns - started_ns,))

    def _take_connection(self, record: StreamRecord) -> None:
        """What it took to open one, if it was opened: also one that is made to be kept, outside the window."""
        if record.cold and record.started_ns and record.connected_ns:
            self._of("connect").add_ns((record.connected_ns - record.started_ns,))
            if record.secured_ns:
                self._of("tls").add_ns((record.secured_ns - record.connected_ns,))

    def _take_gaps(
        self, record: StreamRecord, stamps_ns: array[int], counts: array[int], due_ns: Sequence[int] | None
    ) -> None:
        """What is measured once a token; `due_ns` are those of this attempt's chunks, and maybe of more."""
        stamps = stamps_ns.tolist()
        if len(stamps) != record.chunks:
            stamps = list(chain.from_iterable(map(repeat, stamps, counts)))
        gaps = list(map(sub, stamps[1:], stamps))
        self._of("icl").add_ns(gaps)
        if due_ns is not None:
            self._of("gap_excess").add_ns(list(map(sub, gaps, map(sub, due_ns[1:], due_ns))))

    def _of(self, measure: str) -> Histogram:
        found = self._histograms.get(measure)
        if found is None:
            found = self._histograms[measure] = Histogram()
        return found

    def report(self) -> dict[str, Any]:
        """All since `clear`, in types that JSON and msgpack have: of two reports, the one with the higher `seq` counts.

        `carried` and `started` are `ended` and `open`.
        """
        self._seq += 1
        return {
            "seq": self._seq,
            "open": self._open,
            "counts": msgspec.to_builtins(self._counts),
            "outcomes": dict(self._outcomes),
            "reasons": dict(self._reasons),
            "histograms": {measure: one.encode() for measure, one in self._histograms.items()},
        }


def _fits(record: StreamRecord, due: int) -> bool:
    """Whether what came can be the chunks of which so many were due: all of them where the stream is complete."""
    return record.chunks == due if record.outcome == "complete" else record.chunks <= due
