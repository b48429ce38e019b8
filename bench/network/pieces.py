"""Bytes cut where a test wants them cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

GAP_NS = 200_000
"""Between two pieces on one connection, so that a reader that keeps up gets each in a read of its own."""


class Pieces:
    """Cuts one stream into pieces of the sizes given, the last of them again and again.

    A stream is also cut wherever what it was handed in ends, as TCP would; the count goes on across that.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        """`sizes` are of bytes, each at least 1."""
        self._sizes = chain(sizes, repeat(sizes[-1]))
        self._left = next(self._sizes)

    def cut(self, data: bytes) -> Iterator[bytes]:
        """The pieces of what comes next in the stream."""
        while data:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            if not self._left:
                self._left = next(self._sizes)
            yield piece
