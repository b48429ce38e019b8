"""What a wire half tells its driver, and the interface every wire half has.

The events of one ``receive()`` come in a fixed order, each at most once for a stream: Secured, Accepted, Identified,
Content, Finished, Idle, Closed. Nothing here knows the time: whoever reads the socket stamps the read.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

SEPARATOR: Final = b"\x1f"
"""Stands between the texts of a Content event (ASCII "unit separator")."""

NO_STREAM: Final = -1
"""The stream of a Finished event that concerns a connection on which nothing was asked yet (a refused handshake)."""

MAX_MESSAGE: Final = 2**20
"""Bytes of the largest WebSocket message or SSE event that is read; a larger one is a protocol error."""


class Outcome(StrEnum):
    """How a stream ended. ``refused`` and ``timed_out`` are the session's: a wire half has no sockets and no clock."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    HTTP_ERROR = "http_error"
    PROTOCOL_ERROR = "protocol_error"
    API_ERROR = "api_error"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The whole HTTP head of a good reply was read: 101 for a WebSocket, 200 or 204 for SSE."""

    status: int


class Secured(msgspec.Struct, frozen=True, gc=False):
    """The TLS handshake is done: the connection can be used."""

    resumed: bool
    """Whether an earlier session was resumed, so that no certificate was sent."""


class Identified(msgspec.Struct, frozen=True, gc=False):
    """The first chunk named the completion."""

    stream: int
    completion_id: str


class Content(msgspec.Struct, frozen=True, gc=False):
    """All content chunks of one stream in one read: how many, and their UTF-8 texts joined by SEPARATOR.

    A text that itself holds U+001F carries U+241F instead, so splitting always gives ``chunks`` pieces.
    """

    stream: int
    chunks: int
    text: bytes


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The stream is over. ``reason`` is the outcome's kind, a word of ``REASONS``; ``detail`` is for people.

    Both are empty when there is nothing to say.
    """

    stream: int
    outcome: Outcome
    detail: str
    reason: str = ""


class Idle(msgspec.Struct, frozen=True, gc=False):
    """The connection can take the next request."""


class Closed(msgspec.Struct, frozen=True, gc=False):
    """The connection takes no further request: send what ``to_send()`` gives, then close the socket.

    ``code`` is the WebSocket close code (RFC 6455 section 7.4; 1006 when no close frame came), always 0 for SSE.
    """

    code: int
    reason: str


Event: TypeAlias = Accepted | Secured | Identified | Content | Finished | Idle | Closed


class Sizes(NamedTuple):
    """Bytes and counts of the current stream (the last one asked for), and of what opened its connection.

    ``total_bytes - head_bytes - payload_bytes`` is the framing: chunk lengths and field names for SSE, frame heads and
    control frames for a WebSocket. With compression it can be negative, because payloads are counted decompressed.
    """

    sent_bytes: int  # the request
    total_bytes: int  # received since the request
    head_bytes: int  # HTTP head of the reply; 0 for a WebSocket
    payload_bytes: int  # what SSE calls data and WebSocket a message: every JSON text and [DONE]
    content_bytes: int  # of these, the JSON texts of content chunks
    chunks: int  # content chunks
    text_bytes: int  # UTF-8 texts of the content chunks
    faults: int  # payloads that are not a JSON text of the dialect
    late: int  # payloads after the end of the stream
    opening_sent_bytes: int  # WebSocket handshake; 0 for SSE
    opening_bytes: int  # its 101 head; 0 for SSE


class Wire(Protocol):
    """The client half of one connection. No method blocks, none raises on any bytes the peer may send."""

    @property
    def ready(self) -> bool:
        """Whether ``request()`` may be called."""

    @property
    def sizes(self) -> Sizes:
        """A snapshot; stays until the next request."""

    @property
    def last_event_id(self) -> str:
        """What ``request()`` takes to resume; empty when the server sent none."""

    @property
    def retry_ms(self) -> int | None:
        """The reconnection time the server asked for."""

    def opening(self) -> bytes:
        """What to send as soon as TCP (or TLS) is up; empty for SSE."""

    def request(self, stream: int, body: bytes, last_event_id: str | None = None) -> bytes:
        """What to send to ask for a completion. Raises RuntimeError unless ``ready``."""

    def cancel(self, stream: int) -> bytes | None:
        """What to send to stop a stream, or None when only closing the socket does it (then call ``eof()``)."""

    def close(self) -> bytes:
        """What to send before closing the socket in good order."""

    def receive(self, data: bytes) -> list[Event]:
        """Take the bytes of one read."""

    def eof(self) -> list[Event]:
        """The peer closed, or the socket was closed under us."""

    def to_send(self) -> bytes:
        """What is due by itself: pongs and the echo of a close."""
