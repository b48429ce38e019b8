"""Replies as no library would send them: bytes on the wire in, broken bytes out. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from servers.bare.frames import BINARY, CONTINUATION, FINAL, MASKED, PING, TEXT, close_frame, frame, masked
from servers.bare.http1 import chunk
from servers.faults import Fault
from servers.plant import Message

HUGE = 1 << 40
"""Bytes that the head of a huge frame claims."""
MASK = b"\x37\xfa\x21\x3d"
RESERVED_BITS = 0x70
RESERVED_OPCODE = 0x3
NO_STATUS = 1005
"""A close code that only ever stands for the lack of one (RFC 6455, 7.4.1)."""


def _content_length(head: bytes, length: int) -> bytes:
    return head.replace(b"transfer-encoding: chunked", b"content-length: %d" % length)


HEADS: dict[str, Callable[[bytes], bytes]] = {
    "content_type": lambda head: head.replace(b"text/event-stream", b"text/html"),
    "content_encoding": lambda head: head[:-2] + b"content-encoding: gzip\r\n\r\n",
    "bad_status_line": lambda head: head.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 two hundred", 1),
    "bad_header": lambda head: head[:-2] + b"a line without what ends a name\r\n\r\n",
    "endless_head": lambda head: head[:-2],
}
"""What a kind makes of the head of an event stream."""

CHUNKS: dict[str, Callable[[bytes], bytes]] = {
    "bad_chunk_length": lambda data: b"length" + data[data.index(b"\r\n") :],
}
"""What a kind makes of the HTTP chunk with the content chunk drawn."""


def _payload(data: bytes) -> bytes:
    """What is in a frame of a server."""
    return data[{126: 4, 127: 10}.get(data[1], 2) :]


def _fragments(data: bytes) -> bytes:
    """A message in three frames (RFC 6455, 5.4), the first of which ends within a character where one is long."""
    payload = _payload(data)
    inside = next((place for place, byte in enumerate(payload) if byte & 0xC0 == 0x80), len(payload) // 3)
    middle = (inside + len(payload)) // 2
    return (
        _begun(payload[:inside])
        + _unended(CONTINUATION, payload[inside:middle])
        + frame(CONTINUATION, payload[middle:])
    )


def _unended(opcode: int, payload: bytes) -> bytes:
    data = frame(opcode, payload)
    return bytes((data[0] & ~FINAL,)) + data[1:]


def _begun(payload: bytes) -> bytes:
    return _unended(TEXT, payload)


def _masked(data: bytes) -> bytes:
    payload = _payload(data)
    head = data[: len(data) - len(payload)]
    return head[:1] + bytes((head[1] | MASKED,)) + head[2:] + MASK + masked(MASK, payload)


FRAMES: dict[str, Callable[[bytes], bytes]] = {
    "fragmented": _fragments,
    "unended_fragment": lambda data: _begun(_payload(data)[:20]) + data,
    "masked_frame": _masked,
    "reserved_opcode": lambda data: bytes((FINAL | RESERVED_OPCODE,)) + data[1:],
    "reserved_bits": lambda data: bytes((data[0] | RESERVED_BITS,)) + data[1:],
    "binary_message": lambda data: bytes((FINAL | BINARY,)) + data[1:],
    "huge_frame": lambda data: bytes((FINAL | TEXT, 127)) + HUGE.to_bytes(8, "big") + _payload(data),
    "long_control": lambda data: frame(PING, b"p" * 126) + data,
}
"""What a kind makes of the frame of the content chunk drawn."""

TAILS: dict[str, Callable[[bytes], bytes]] = {
    "short_body": lambda _data: b"",
    "endless_line": lambda _data: chunk(b"data: "),
    "half_frame": lambda data: data[: len(data) // 2],
    "bad_close_code": lambda _data: close_frame(NO_STATUS),
    "no_close_frame": lambda _data: b"",
}
"""What is written in place of the bytes of the content chunk drawn, where a stream then ends."""

ENDLESS = {"endless_head": b"x-endless: %b\r\n" % (b"x" * 1000), "endless_line": chunk(b"x" * 16_384)}
"""What follows again and again until the client leaves."""


class Broken(NamedTuple):
    """A stream on the wire."""

    made: list[Message]
    cut_ns: int | None = None
    """When it ends before its end: the due time of what is sent no more. None: it does not."""
    tail: bytes = b""
    """What is written then."""


def broken(fault: Fault, made: list[Message], place: int | None, head_bytes: int, after: bytes) -> Broken:
    """What `fault` makes of a stream, of which `head_bytes` come before it, and `after` comes behind it.

    It happens at the content chunk with the ordinal `place`, for kinds that have a place.
    """
    kind = fault.kind
    if kind == "endless_head":
        return Broken([], 0)
    if kind == "cut_at_byte":
        return _cut([*made, (-1, 0, after)], fault.byte - head_bytes)
    at = next((index for index, message in enumerate(made) if message[0] == place), None)
    if at is None:
        return Broken(made)
    ordinal, due_ns, data = made[at]
    if (tail := TAILS.get(kind)) is not None:
        return Broken(made[:at], due_ns, tail(data))
    if (other := CHUNKS.get(kind) or FRAMES.get(kind)) is not None:
        return Broken([*made[:at], (ordinal, due_ns, other(data)), *made[at + 1 :]])
    return Broken(made)


def _cut(made: list[Message], left: int) -> Broken:
    """The first `left` bytes of a stream; all of it when it has no more."""
    if left < 0:
        return Broken([], 0)
    for index, (_, due_ns, data) in enumerate(made):
        if left < len(data):
            return Broken(made[:index], due_ns, data[:left])
        left -= len(data)
    return Broken(made[:-1])


def broken_head(fault: Fault, head: bytes, length: int) -> bytes:
    """What `fault` makes of the head of an event stream whose body has `length` bytes."""
    if fault.kind == "cut_at_byte":
        return head[: fault.byte]
    if fault.kind == "short_body":
        return _content_length(head, length)
    return HEADS.get(fault.kind, bytes)(head)
