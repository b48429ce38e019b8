"""What a driver writes while it runs: two append-only files per trial, standard library and msgspec only.

`reads.bin` has one fixed-width record per socket read that brought content; `streams.jsonl` one line per ended stream.
Both are bounded by what is open: a stream's texts are held until it ends, then written once.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from servers.appendlog import AppendLog

READ = "<IIqII"
READ_DTYPE = [("stream", "<u4"), ("chunks", "<u4"), ("received_ns", "<i8"), ("read", "<u4"), ("bytes", "<u4")]
"""Stream, content chunks in the read, stamp taken before parsing, number of the read in the trial, its bytes."""

READS_FILE = "reads.bin"
STREAMS_FILE = "streams.jsonl"


class StreamRecord(msgspec.Struct):
    """What a driver knows of one stream but its content stamps. `*_ns` are CLOCK_MONOTONIC, 0 where not reached."""

    stream: int
    """Number within the trial, from 1."""
    phase: str
    step: int
    """Users of a `steps` phase, else 0."""
    window: bool
    """False for the streams that prime kept connections."""
    ordinal: int
    seed: int
    cold: bool
    intended_ns: int
    started_ns: int = 0
    """The clock's start: connect() when cold, the request's write when warm."""
    connected_ns: int = 0
    ready_ns: int = 0
    requested_ns: int = 0
    head_ns: int = 0
    first_byte_ns: int = 0
    first_content_ns: int = 0
    last_content_ns: int = 0
    ended_ns: int = 0
    outcome: str = ""
    detail: str = ""
    completion_id: str = ""
    chunks: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    head_bytes: int = 0
    payload_bytes: int = 0
    content_bytes: int = 0
    text_bytes: int = 0
    text: str = ""
    """The texts of all content chunks, joined by U+001F."""


class RawLog:
    """Appends reads and ended streams under `folder`, which must exist. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._reads = AppendLog(folder / READS_FILE, READ)
        self._streams = open(folder / STREAMS_FILE, "wb", buffering=1 << 16)  # noqa: SIM115 - closed by close()
        self._encoder = msgspec.json.Encoder()
        self.read = self._reads.append
        """Append one `READ` record."""

    def ended(self, record: StreamRecord) -> None:
        """Append one stream's record."""
        self._streams.write(self._encoder.encode(record) + b"\n")

    def close(self) -> None:
        """Flush and close both files."""
        self._reads.close()
        self._streams.close()
