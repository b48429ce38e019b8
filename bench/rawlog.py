"""What a driver writes while it runs: two append-only files per trial, standard library and msgspec only.

`streams.jsonl` has one line per ended stream; `reads.bin` one block per ended stream with the stamps of the reads that
brought its content. What is held in memory is bounded by the streams that are open.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec

READS_FILE = "reads.bin"
STREAMS_FILE = "streams.jsonl"
DROPPED = "dropped"
"""The outcome of a start that the driver did not carry out."""

_BLOCK = struct.Struct("<II")
"""Stream and number of reads; then as many stamps (int64) and chunk counts (uint32) in the machine's byte order."""


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
    attempt: int = 0
    """0, and 1, 2, ... where the stream broke off and was asked for again: all attempts have one phase and ordinal."""
    resumed_from: int = -1
    """The event after which this attempt asked to go on; -1 where it asked for the whole."""
    slow: bool = False
    """Whether this client reads slowly on purpose."""
    started_ns: int = 0
    """The clock's start: connect() when cold, the request's write when warm."""
    connected_ns: int = 0
    secured_ns: int = 0
    """The TLS handshake was done, on both sides: the first write under TLS."""
    tls_resumed: bool = False
    ready_ns: int = 0
    requested_ns: int = 0
    head_ns: int = 0
    first_byte_ns: int = 0
    first_content_ns: int = 0
    left_ns: int = 0
    """The client left on purpose: the moment before it closed, or wrote that it cancels."""
    ended_ns: int = 0
    segments: int = -1
    """TCP segments with data that were received for this stream; -1 unknown."""
    outcome: str = ""
    reason: str = ""
    """The kind of outcome, a word of `bench.wire.events.REASONS`; empty where there is nothing to say."""
    detail: str = ""
    completion_id: str = ""
    chunks: int = 0
    first_sent_bytes: int = 0
    first_received_bytes: int = 0
    """Before the first content came, and with the read that brought it; of a cold stream since connect()."""
    sent_bytes: int = 0
    received_bytes: int = 0
    head_bytes: int = 0
    payload_bytes: int = 0
    content_bytes: int = 0
    text_bytes: int = 0
    text: str = ""
    """The texts of all content chunks, joined by U+001F."""


class RawLog:
    """Appends ended streams to the files under `folder`, which must exist. Raises `OSError`.

    `secret` never gets there: a server may repeat it in an error.
    """

    def __init__(self, folder: Path, secret: str = "") -> None:
        self._secret = secret.encode()
        self._reads = open(folder / READS_FILE, "wb", buffering=1 << 16)  # noqa: SIM115 - closed by close()
        self._streams = open(folder / STREAMS_FILE, "wb", buffering=1 << 16)  # noqa: SIM115
        self._encoder = msgspec.json.Encoder()

    def ended(self, record: StreamRecord, stamps_ns: array[int], counts: array[int]) -> None:
        """Append a stream: its record, and for each read with content its stamp and how many chunks it brought."""
        self._reads.write(_BLOCK.pack(record.stream, len(stamps_ns)))
        stamps_ns.tofile(self._reads)
        counts.tofile(self._reads)
        line = self._encoder.encode(record)
        if self._secret and self._secret in line:
            line = line.replace(self._secret, b"***")
        self._streams.write(line + b"\n")

    def flush(self) -> None:
        """Hand to the system what is buffered: others see it, and it outlives this process."""
        self._reads.flush()
        self._streams.flush()

    def close(self) -> None:
        """Flush and close both files."""
        self._reads.close()
        self._streams.close()


def content_reads(folder: Path) -> Iterator[tuple[int, array[int], array[int]]]:
    """Yield stream, stamps (ns) and chunks per read of every stream whose block is whole. Raises `OSError`."""
    data = (folder / READS_FILE).read_bytes()
    at = 0
    while at + _BLOCK.size <= len(data):
        stream, reads = _BLOCK.unpack_from(data, at)
        stamps, counts = array("q"), array("I")
        middle = at + _BLOCK.size + reads * stamps.itemsize
        end = middle + reads * counts.itemsize
        if end > len(data):
            return
        stamps.frombytes(data[at + _BLOCK.size : middle])
        counts.frombytes(data[middle:end])
        yield stream, stamps, counts
        at = end
