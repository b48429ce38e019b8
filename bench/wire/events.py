"""What a wire half tells its driver, and the interface every wire half has.

The events of one ``receive()`` come in a fixed order, each at most once for a stream: Secured, Accepted, Identified,
Content, Finished, Idle, Closed. Nothing here knows the time: whoever reads the socket stamps the read.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec

SEPARATOR: Final = b"\x1f"
"""Stands between the texts of a Content event (ASCII "unit separator")."""

NO_STREAM: Final = -1
"""The stream of a Finished event that concerns a connection on which nothing was asked yet (a refused handshake)."""

MAX_MESSAGE: Final = 2**20
"""Bytes of the largest WebSocket message or SSE event that is read; a larger one is a protocol error."""


REASONS: Final[dict[str, str]] = {
    # truncated
    "closed": "the connection ended before [DONE]",
    "reset": "the connection was reset before [DONE]",
    "close_frame": "the server closed the WebSocket with a close frame before [DONE]",
    "no_close_frame": "the WebSocket ended before [DONE], and without a close frame",
    "no_done": "the HTTP reply came to its proper end before [DONE]",
    "handshake_closed": "the connection ended during the WebSocket handshake",
    # http_error
    "http_<status>": "the server refused with this HTTP status",
    # api_error
    "error_event": "an error of the API came in place of a chunk",
    # protocol_error, of HTTP
    "bad_head": "the head of the reply is not HTTP/1.1",
    "head_too_long": "an HTTP head, a trailer or a chunk extension of more than 64 KiB",
    "bad_chunk": "the chunked coding of the reply is malformed",
    "content_type": "the reply is not an event stream",
    "content_encoding": "the reply has a coding that was not asked for",
    "bad_upgrade": "the 101 does not switch to WebSocket, or no switch was asked for",
    "bad_accept": "the 101 answers another key than the one sent",
    "not_negotiated": "the 101 chooses an extension or subprotocol that was not offered",
    # protocol_error, of events and messages
    "bad_json": "a payload is not JSON of the dialect",
    "bad_utf8": "a payload is not UTF-8",
    "event_too_big": "an event, or a line of one, of more than 1 MiB",
    "message_too_big": "a WebSocket message of more than 1 MiB",
    "binary_message": "a binary WebSocket message",
    # protocol_error, of frames
    "masked_frame": "a masked frame, which only clients send",
    "reserved_opcode": "a frame with a reserved opcode",
    "reserved_bits": "a frame with a reserved bit that no extension gave a meaning",
    "bad_fragment": "a continuation of nothing, or a message or a close frame inside another message",
    "bad_control": "a control frame that is fragmented or longer than 125 bytes",
    "bad_close": "a close frame with a code or reason that is not allowed",
    "bad_compression": "a message that cannot be decompressed",
    # protocol_error, of TLS
    "tls_handshake": "the TLS handshake failed",
    "tls_certificate": "the server's certificate was refused",
    "tls_record": "a TLS record that cannot be read",
    # complete
    "late_data": "complete, but something came after [DONE]",
    "nothing_to_resume": "the stream had already been read to its end",
    # timed_out
    "connect_timeout": "no connection in time",
    "tls_timeout": "no end of the TLS handshake in time",
    "head_timeout": "no HTTP head, or no 101, in time",
    "first_timeout": "no first token in time",
    "gap_timeout": "no further token in time",
    "total_timeout": "no end of the stream in time",
    "idle_timeout": "no end of the reply in time after the last event",
    # refused
    "refused": "the server refused the connection",
    "unreachable": "the server could not be reached",
    # cancelled
    "left": "the client left on purpose",
    "stopped": "the run was stopped",
}
"""Why a stream ended as it did, a word for each kind, beside its outcome; see ``meaning``.

A stream that is plainly complete has none. With unreadable payloads, the first one's kind is the reason.
"""

_HTTP = re.compile(r"http_[1-9][0-9]{2}")


def meaning(reason: str) -> str:
    """One line about a reason; empty for a word that is none."""
    return REASONS.get("http_<status>" if _HTTP.fullmatch(reason) else reason, "")


class Trouble(NamedTuple):
    """What is wrong with the bytes of a peer: a word of ``REASONS`` for reports, a line for people."""

    reason: str
    detail: str


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
        """What ``request()`` takes to resume after the last whole event; empty while none is known.

        SSE has it from the server's ``id:`` lines. Over a WebSocket the client counts, so it knows at the first chunk.
        """

    @property
    def retry_after_s(self) -> float | None:
        """Seconds to wait, by the Retry-After of the last HTTP head; None when absent or unreadable."""

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
