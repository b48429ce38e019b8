"""One HTTP/1.1 reply, read by llhttp (``httptools``): its status and headers, the bytes of its head, its body."""

from __future__ import annotations

import re
from collections.abc import Iterable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

HEAD_END = b"\r\n\r\n"
MAX_HEAD = 65_536
"""Bytes; a longer head, interim ones included, is refused."""


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header fields as they are sent. Raises ValueError for a line end inside one (RFC 9112 section 11.1)."""
    lines = [f"{name}: {value}" for name, value in headers]
    if any(c in line for line in lines for c in "\r\n\0"):
        raise ValueError("a header field must not contain a line end")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


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


class HTTPReply:
    """The reply to one request. Body bytes collect in ``bodies``, a piece for each HTTP chunk: take and clear them.

    Methods return what is wrong with the bytes, or an empty string.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.head_bytes = 0
        self.head_read = False
        self.bodies: list[bytes] = []
        self.complete = False
        self.keep_alive = False
        self._tail = b""
        self.on_body = self.bodies.append  # what the parser calls: no Python frame for each HTTP chunk
        self._parser: HttpResponseParser | None = HttpResponseParser(self)

    def feed(self, data: bytes) -> str:
        """Read on."""
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            return "the server switched protocols"
        except HttpParserError as error:
            return f"HTTP: {error.__context__ or error}"
        return ""

    def feed_head(self, data: bytes) -> tuple[bytes, str]:
        """Read up to the end of the head, to know its size; return what follows it too."""
        while data and not self.head_read:
            window = self._tail + data
            end = window.find(HEAD_END)
            cut = len(data) if end < 0 else end + len(HEAD_END) - len(self._tail)
            self._tail = window[-3:] if end < 0 else b""
            self.head_bytes += cut
            trouble = self.feed(data[:cut])
            data = data[cut:]
            if trouble:
                return b"", trouble
            if self.head_bytes > MAX_HEAD:
                return b"", f"an HTTP head of more than {MAX_HEAD} bytes"
            if self.head_read and self.status < 200:
                # "A client MUST be able to parse one or more 1xx responses received prior to a final response" (RFC
                # 9110 section 15.2)
                self.headers.clear()
                self.head_read = False
        return data, ""

    def release(self) -> None:
        """Let go of the parser: it holds methods of this object, a cycle only the garbage collector would free."""
        self._parser = None

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a reply nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
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
