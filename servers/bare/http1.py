"""HTTP/1.1 (RFC 9112), server half: requests read whole by httptools, and the bytes of replies."""

from __future__ import annotations

from collections import deque
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

import httptools

from servers.payloads.chat_completions import ApiError
from servers.service import MAX_BODY

MAX_HEAD = 65_536
"""Bytes of a head, and those that may come, from read to read, without a request that begins or a byte of its body:
of the extensions of chunks, and of trailers."""

MAX_HEADERS = 128
"""Lines of the head of a request."""

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request(NamedTuple):
    """A request, read to its end."""

    method: str
    target: str
    headers: dict[str, str]
    """By lower-case name; the last of several alike."""
    body: bytes
    version: str
    keep_alive: bool
    upgrade: bool


class RequestReader:
    """Takes bytes as they come and puts requests into `requests`. The methods named on_ are what httptools calls."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.expects_continue = False
        """Whether the client waits for `CONTINUE` before it sends the body."""
        self._parser = httptools.HttpRequestParser(self)
        self._in_head = False
        self._went_on = False
        self._idle_bytes = 0

    def read(self, data: bytes) -> int | None:
        """Take the bytes of one read; return where what is no HTTP begins, behind a request for an upgrade.

        Raises `ApiError` (400, 413, 431), after which nothing more can be read.
        """
        self._went_on = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return int(upgrade.args[0])
        except httptools.HttpParserCallbackError as error:
            raise (error.__context__ or error) from None
        except httptools.HttpParserError as error:
            raise ApiError(400, f"The request is not HTTP/1.1: {error}.") from error
        self._idle_bytes = 0 if self._went_on else self._idle_bytes + len(data)
        if self._idle_bytes > MAX_HEAD:
            raise _too_long()
        return None

    def on_message_begin(self) -> None:
        self._in_head = self._went_on = True
        self._url = b""
        self._lines = self._head_bytes = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD:
            raise _too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # but in trailers
            return
        self._lines += 1
        self._head_bytes += len(name) + len(value)
        if self._lines > MAX_HEADERS or self._head_bytes > MAX_HEAD:
            raise _too_long()
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._bound(int(self._headers.get("content-length", "0")))
        self.expects_continue = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, data: bytes) -> None:
        self.expects_continue = False
        self._went_on = True
        self._body += data
        self._bound(len(self._body))

    def on_message_complete(self) -> None:
        parser = self._parser
        upgrade = parser.should_upgrade()
        self.expects_continue = False
        self.requests.append(
            Request(
                parser.get_method().decode("ascii"),
                self._url.decode("latin-1"),
                self._headers,
                bytes(self._body),
                parser.get_http_version(),
                parser.should_keep_alive() and not upgrade,
                upgrade,
            )
        )

    def _bound(self, size: int) -> None:
        if size > MAX_BODY:
            raise ApiError(413, f"The body is longer than {MAX_BODY} bytes.")


def _too_long() -> ApiError:
    return ApiError(431, f"The head of the request is longer than {MAX_HEAD} bytes or {MAX_HEADERS} lines.")


def head(status: int, headers: dict[str, str], keep_alive: bool = True) -> bytes:
    """The head of a reply."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if not keep_alive:
        lines.append("connection: close")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def reply_head(status: int, headers: dict[str, str], body: bytes, keep_alive: bool) -> bytes:
    """The head of a reply with a `body` of known length; 204 has none (RFC 9110, 8.6)."""
    return head(status, headers if status == 204 else headers | {"content-length": str(len(body))}, keep_alive)


def chunk(data: bytes) -> bytes:
    """A chunk of a reply (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
