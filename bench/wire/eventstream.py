"""The event stream format of Server-Sent Events: bytes in, the data of each event out.

WHATWG HTML section 9.2.6, "Interpreting an event stream", on bytes instead of decoded text: line ends, field names and
the colon are ASCII, so nothing changes but for bytes that are not UTF-8. These are handed on as they are, for whoever
reads the data to object, where a browser would put U+FFFD and say nothing.
"""

from __future__ import annotations

from bench.wire.events import MAX_MESSAGE

BOM = b"\xef\xbb\xbf"
MAX_RETRY_DIGITS = 15
"""A longer reconnection time, of more than 30,000 years, is ignored."""


class EventStream:
    """Parser of one event stream. The type of an event makes no difference to the dialect, so ``event`` is dropped."""

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_data_bytes",
        "_line",
        "_line_bytes",
        "last_id",
        "next_id",
        "retry_ms",
        "too_big",
    )

    def __init__(self, last_event_id: str = "") -> None:
        self.last_id = self.next_id = last_event_id.encode()  # of the last event; of the one that is being read
        self.retry_ms: int | None = None
        self.too_big = False  # a line or the data of an event had more than MAX_MESSAGE bytes: nothing more is read
        self._at_start = True
        self._after_cr = False
        self._line: list[bytes] = []  # pieces of the unfinished last line
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0  # of the data lines so far, each with its line end

    @property
    def last_event_id(self) -> str:
        """The "last event ID string"."""
        return self.last_id.decode(errors="replace")

    @property
    def between_events(self) -> bool:
        """Whether the next byte would begin a new event: nothing of an earlier one is kept."""
        kept = self._line or self._data or self._after_cr or self.next_id != self.last_id
        return not (kept or self._at_start or self.too_big)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Data of the events that end in this chunk; a stream may be split anywhere."""
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk[0] == 10:  # the LF of a CRLF that was split
                chunk = chunk[1:]
        if not chunk or self.too_big:
            return []
        if b"\r" in chunk:
            lines = chunk.splitlines()  # of bytes: LF, CR and CRLF, nothing else
            self._after_cr = chunk.endswith(b"\r")
            if self._after_cr or chunk.endswith(b"\n"):
                lines.append(b"")
        else:
            lines = chunk.split(b"\n")
        last = lines.pop()
        if lines and self._line:
            self._line.append(lines[0])
            lines[0] = b"".join(self._line)
            self._line.clear()
            self._line_bytes = 0
        if last:
            self._line.append(last)
            self._line_bytes += len(last)
        events: list[bytes] = []
        if lines:
            kept = len(self._data)
            events = self._interpret(lines)
            if self._data:
                if events or not kept:
                    kept = self._data_bytes = 0
                fresh = self._data[kept:]
                self._data_bytes += sum(map(len, fresh)) + len(fresh)
                self.too_big |= self._data_bytes - 1 > MAX_MESSAGE
        self.too_big |= self._line_bytes > MAX_MESSAGE
        if self.too_big:
            self._line.clear()
            self._data.clear()
        return events

    def _interpret(self, lines: list[bytes]) -> list[bytes]:
        if max(map(len, lines)) > MAX_MESSAGE:
            del lines[next(i for i, line in enumerate(lines) if len(line) > MAX_MESSAGE) :]
            self.too_big = True
        if self._at_start and lines:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line[:6] == b"data: ":
                data.append(line[6:])
            elif line:
                self._field(line)
            else:
                # "If the line is empty (a blank line): Dispatch the event". The id counts even if there is no data.
                self.last_id = self.next_id
                if len(data) == 1:
                    events.append(data.pop())
                elif data:
                    if sum(map(len, data)) + len(data) - 1 > MAX_MESSAGE:
                        break
                    events.append(b"\n".join(data))
                    data.clear()
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")  # a comment has an empty name
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"id":
            if b"\0" not in value:
                self.next_id = value
        elif name == b"retry" and value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
            self.retry_ms = int(value)
