"""How a step of growing load went, worked out between steps from the driver's own raw log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.rawlog import StreamRecord, content_reads
from servers.emitter import Profile, schedule


def p99_gap_excess_ns(folder: Path, records: Sequence[StreamRecord], profile: Profile) -> int:
    """The 99th percentile of `gap_excess` (gap received - gap due) over all gaps of these streams, in ns; -1 if none.

    By nearest rank, so that it is one of the gaps measured.
    """
    seeds = {record.stream: record.seed for record in records}
    excess: list[int] = []
    for stream, stamps, counts in content_reads(folder):
        if stream not in seeds:
            continue
        received = [stamp for stamp, chunks in zip(stamps, counts, strict=True) for _ in range(chunks)]
        due = schedule(profile, seeds[stream]).due_ns
        excess.extend(
            (b - a) - (due_b - due_a) for a, b, due_a, due_b in zip(received, received[1:], due, due[1:], strict=False)
        )
    excess.sort()
    return excess[-(-len(excess) * 99 // 100) - 1] if excess else -1
