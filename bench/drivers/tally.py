"""How a step of growing load went, worked out between steps from the driver's own raw log."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.rawlog import READ, READS_FILE, StreamRecord
from servers import appendlog
from servers.emitter import Profile, schedule


def p99_gap_excess_ns(folder: Path, records: Sequence[StreamRecord], profile: Profile) -> int:
    """The 99th percentile of `gap_excess` (gap received - gap due) over all gaps of these streams, in ns; 0 if none.

    By nearest rank, so that it is one of the gaps measured.
    """
    stamps: dict[int, list[int]] = defaultdict(list)
    for stream, chunks, received_ns, _, _ in struct.iter_unpack(READ, appendlog.read(folder / READS_FILE, READ)):
        stamps[stream].extend([received_ns] * chunks)
    excess: list[int] = []
    for record in records:
        received, due = stamps[record.stream], schedule(profile, record.seed).due_ns
        excess.extend(
            (b - a) - (due_b - due_a) for a, b, due_a, due_b in zip(received, received[1:], due, due[1:], strict=False)
        )
    excess.sort()
    return excess[-(-len(excess) * 99 // 100) - 1] if excess else 0
