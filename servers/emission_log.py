"""What the server did and when, token by token, out of band: 24 bytes a record, standard library only.

Records of one stream are told apart from those of the streams that ran beside it by their stream number, which counts
from 0 in the order in which requests were taken up. All times are CLOCK_MONOTONIC in ns, as in the driver's logs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import IntEnum

from servers import appendlog
from servers.emitter import completion_key

RECORD = "<IIqq"
DTYPE = [("stream", "<u4"), ("ordinal", "<u4"), ("a", "<i8"), ("b", "<i8")]
"""A record for `numpy.frombuffer`, which this process does not import."""

OPENED = 2**32 - 1
"""`a` = taken up (first line of the handler, or message receipt), `b` = attempt << 32 | profile hash."""
IDENT = 2**32 - 2
"""`a` = seed (signed), `b` = ordinal of the first content chunk that will be sent: above 0 when resumed."""
CLOSED = 2**32 - 3
"""`a` = ended, `b` = an `Ended`."""
# Every ordinal below these is a content chunk of the whole completion: `a` = due, `b` = written, which is read
# immediately before the chunk is handed to the library.


class Ended(IntEnum):
    """Why a stream ended."""

    COMPLETE = 0
    CLIENT_GONE = 1
    CANCELLED = 2
    FAULT = 3
    SHUTDOWN = 4
    CUT = 5
    """By a fault of the settings; `a` is read immediately before the connection ends, or falls silent."""


def _nowhere(*_fields: int) -> None:
    """Stand in for the log when none is wanted."""


class EmissionLog:
    """Appends to `path`, or keeps nothing when it is None. Raises `OSError` when the file cannot be made or grown."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._file = None if path is None else appendlog.AppendLog(path, RECORD)
        self._streams = 0
        # The method called once per token is the file's own: a frame less each time.
        self.token: Callable[[int, int, int, int], None] = _nowhere if self._file is None else self._file.append
        """`token(stream, ordinal, due_ns, written_ns)`."""

    def open(self, completion_id: str, taken_up_ns: int, first_ordinal: int) -> int:
        """Record that a request was taken up, and return its stream number."""
        stream = self._streams
        self._streams += 1
        profile, seed, attempt = completion_key(completion_id)
        self.token(stream, OPENED, taken_up_ns, attempt << 32 | profile)
        self.token(stream, IDENT, seed, first_ordinal)
        return stream

    def close_stream(self, stream: int, ended_ns: int, reason: Ended) -> None:
        """Record that nothing more will be sent on `stream`."""
        self.token(stream, CLOSED, ended_ns, reason)

    def close(self) -> None:
        """Cut the file to what is in it."""
        if self._file is not None:
            self._file.close()


def read_emissions(path: str | os.PathLike[str]) -> bytes:
    """Return the whole records of a log, also of a server that was killed, for `numpy.frombuffer(_, DTYPE)`.

    Raises `OSError` when the file cannot be read.
    """
    return appendlog.read(path, RECORD)
