"""One HTTP/1.1 reply, read by llhttp (``httptools``): its status and headers, the bytes of its head, its body."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from bench.wire.chat_completions import api_error
from bench.wire.events import Trouble

HEAD_END = b"\r\n\r\n"
MAX_HEAD = 65_536
"""Bytes; a longer head, interim ones included, is refused, and so is a longer trailer or chunk extension."""
MAX_ERROR_BODY = 65_536
"""Bytes; no more is read of the body of an error."""
MAX_DELAY_S = 1e9
SWITCHING = 101


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as they are sent. Raises ValueError for a line end inside one (RFC 9112 section 11.1)."""
    lines = [f"{name}: {value}" for name, value in headers]
    if any(c in line for line in lines for c in "\r\n\0"):
        raise ValueError("a header field must not contain a line end")
    return "".join(f"{line}\r\n" for line in lines).encode()


_STATUS_101 = re.compile(rb"HTTP/1\.1 101 [ -~]*\r\n")
_FIELD = re.compile(rb"([!#-'*+.^-z|~0-9A-Z-]+):[ \t]*([!-~](?:[ -~]*[!-~])?)?[ \t]*\r\n")
_PLAIN_HEAD = 2048
"""Bytes; a longer head is for the full parser."""


def accepts_plainly(head: bytes, accept: bytes) -> bool:
    """Whether a whole reply head accepts a WebSocket handshake (RFC 6455 section 4.1) and negotiates nothing.

    True only for a head that no parser could read otherwise: each field once, on one line, in visible ASCII. False says
    nothing: it is for the full parser to tell why.
    """
    line = _STATUS_101.match(head)
    if line is None or len(head) > _PLAIN_HEAD:
        return False
    fields: dict[bytes, bytes] = {}
    at = line.end()
    while at < len(head) - 2:
        field = _FIELD.match(head, at)
        if field is None or field[1].lower() in fields:
            return False
        fields[field[1].lower()] = field[2] or b""
        at = field.end()
    return (
        fields.get(b"sec-websocket-accept") == accept
        and fields.get(b"upgrade", b"").lower() == b"websocket"
        and fields.get(b"connection", b"").lower() == b"upgrade"
        and not fields.keys() & {b"sec-websocket-extensions", b"sec-websocket-protocol"}
    )


def seconds_to_wait(retry_after: bytes, date: bytes) -> float | None:
    """A Retry-After field in seconds (RFC 9110 section 10.2.3); None when absent or unreadable.

    A point in time is counted from the reply's own Date, so neither a clock nor two clocks that agree are needed.
    """
    if retry_after.isdigit():
        return min(float(retry_after), MAX_DELAY_S)
    try:
        then = parsedate_to_datetime(retry_after.decode("ascii"))
        now = parsedate_to_datetime(date.decode("ascii"))
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class HTTPReply:
    """The reply to one request. Body bytes collect in ``bodies``, a piece for each HTTP chunk: take and clear them.

    Methods return what is wrong with the bytes, or None. What follows a complete reply is wrong, too.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.head = b""  # of the final reply, as it came
        self.head_bytes = 0  # interim ones included
        self.head_read = False
        self.bodies: list[bytes] = []
        self.error_body = b""
        self.complete = False
        self.keep_alive = False
        self._barren_bytes = 0  # since the last byte of a body
        self.on_body = self.bodies.append  # what the parser calls: no Python frame for each HTTP chunk
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def feed(self, data: bytes) -> Trouble | None:
        """Read on in the body."""
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except (HttpParserUpgrade, HttpParserError) as error:
            if self.status == SWITCHING and self.head_read:
                return None  # what follows is not HTTP
            return Trouble("bad_chunk" if self.head_read else "bad_head", f"HTTP: {error.__context__ or error}")
        if self.bodies:
            self._barren_bytes = 0
        elif self.head_read:
            self._barren_bytes += len(data)
            if self._barren_bytes > MAX_HEAD:
                return Trouble("head_too_long", f"a trailer or chunk extension of more than {MAX_HEAD} bytes")
        return None

    def feed_head(self, data: bytes) -> tuple[bytes, Trouble | None]:
        """Read up to the end of the head, to know its size; return what follows it too."""
        while data and not self.head_read:
            before = len(self.head)
            self.head += data
            end = self.head.find(HEAD_END, max(0, before - 3))
            if end >= 0:
                self.head = self.head[: end + len(HEAD_END)]
            cut = len(self.head) - before
            self.head_bytes += cut
            trouble = self.feed(data[:cut])
            data = data[cut:]
            if trouble is None and self.head_bytes > MAX_HEAD:
                trouble = Trouble("head_too_long", f"an HTTP head of more than {MAX_HEAD} bytes")
            if trouble is None and self.head_read and self.status < 100:
                trouble = Trouble("bad_head", f"HTTP: status {self.status}")
            if trouble is not None:
                return b"", trouble
            if end >= 0 and (not self.head_read or self.status < 200) and self.status != SWITCHING:
                # "A client MUST be able to parse one or more 1xx responses received prior to a final response" (RFC
                # 9110 section 15.2)
                self.headers.clear()
                self.head = b""
                self.head_read = False
        return data, None

    def take_error(self) -> None:
        """Keep the beginning of an error's body."""
        self.error_body = (self.error_body + b"".join(self.bodies))[:MAX_ERROR_BODY]
        self.bodies.clear()

    @property
    def error_full(self) -> bool:
        """Whether no more of an error's body is wanted."""
        return len(self.error_body) == MAX_ERROR_BODY

    def refusal(self) -> Trouble:
        """What an error says."""
        retry_after = self.headers.get(b"retry-after", b"").decode("latin-1")
        advice = f" (retry-after: {retry_after})" if retry_after else ""
        return Trouble(f"http_{self.status}", f"{self.status}: {api_error(self.error_body)}{advice}")

    @property
    def retry_after_s(self) -> float | None:
        """Seconds to wait, by Retry-After; None when absent or unreadable."""
        return seconds_to_wait(self.headers.get(b"retry-after", b""), self.headers.get(b"date", b""))

    def release(self) -> None:
        """Let go of the parser: it holds methods of this object, a cycle only the garbage collector would free."""
        self._parser = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a reply nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_read:  # else a trailer
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self.head_read = True
        self.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self.status >= 200:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()
