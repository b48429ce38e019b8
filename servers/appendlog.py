"""Fixed-width records appended to a memory-mapped file.

The map is shared with the file, so what was appended is in the page cache the moment `append` returns: it survives the
process being killed, costs no system call per record, and needs no flush. The file grows in steps; the unused tail is
zero and is cut off by `close`, or ignored by `read` when the process died before it could.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

GROWTH_BYTES = 4 << 20
"""The file grows by this much at a time: one allocation and one `mmap` per 170,000 records of 24 bytes."""


class AppendLog:
    """Appends records of one struct format to `path`, which is created or emptied.

    `record` is a `struct` format that must yield at least one non-zero byte for every record appended: an all-zero
    record marks the end. Raises `OSError` when the file cannot be created or grown.
    """

    def __init__(self, path: str | os.PathLike[str], record: str) -> None:
        layout = struct.Struct(record)
        self._record_size = layout.size
        self._pack_into = layout.pack_into
        self._size = 0
        self._end = 0
        self._closed = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self._map = self._grown()
        except OSError:
            os.close(self._fd)
            raise

    def _grown(self) -> mmap.mmap:
        """Make the file longer and return a map of all of it."""
        size = self._size + GROWTH_BYTES
        if hasattr(os, "posix_fallocate"):
            # A hole would do, but writing to a mapped hole on a full disk kills the process with SIGBUS; asking for
            # the blocks first makes that an OSError (ENOSPC) that can be told.
            os.posix_fallocate(self._fd, 0, size)
        else:
            os.ftruncate(self._fd, size)
        grown = mmap.mmap(self._fd, size)
        self._size = size
        return grown

    def append(self, *fields: int) -> None:
        """Append one record. Raises `struct.error` when a field does not fit its format, `OSError` on a full disk."""
        end = self._end + self._record_size
        if end > self._size:
            full = self._map
            self._map = self._grown()
            full.close()
        self._pack_into(self._map, self._end, *fields)
        self._end = end

    def close(self) -> None:
        """Cut the file to the records in it and release it. Closing twice is allowed."""
        if self._closed:
            return
        self._closed = True
        self._map.close()
        os.ftruncate(self._fd, self._end)
        os.close(self._fd)


def read(path: str | os.PathLike[str], record: str) -> bytes:
    """Return the bytes of the whole records in `path`, without the zero tail that a killed writer leaves.

    Raises `OSError` when the file cannot be read.
    """
    data = Path(path).read_bytes()
    size = struct.calcsize(record)
    end = len(data.rstrip(b"\0"))
    # The last record may end in zero bytes of its own: round up to a whole one.
    end = -(-end // size) * size
    return data[: min(end, len(data) // size * size)]
