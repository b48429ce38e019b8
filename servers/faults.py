"""What is to go wrong on purpose, as data: which streams, where in them, how often; seeded, so alike on every arm."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

Api = Literal[
    "http_429", "http_500", "http_503", "slow_head", "invalid_json", "error_event", "stall", "no_done", "garbage"
]
"""What an API makes of it, on every stack; over WebSocket a status becomes an error message."""
Cut = Literal["close", "reset"]
"""The connection ends mid-stream: in good order, as a proxy or a deployment ends it, or by a TCP reset."""
Broken = Literal[
    "content_type",
    "content_encoding",
    "bad_status_line",
    "bad_header",
    "endless_head",
    "bad_utf8",
    "huge_event",
    "endless_line",
    "bad_chunk_length",
    "short_body",
    "cut_at_byte",
    "wrong_accept",
    "no_upgrade",
    "handshake_429",
    "half_frame",
    "fragmented",
    "unended_fragment",
    "masked_frame",
    "reserved_opcode",
    "reserved_bits",
    "binary_message",
    "huge_frame",
    "long_control",
    "bad_close_code",
    "no_close_frame",
]
"""Bytes that no library would send; only stack `faulty` does."""
Kind = Api | Cut | Broken

BROKEN: frozenset[str] = frozenset(get_args(Broken))

HANDSHAKE: frozenset[str] = frozenset({"wrong_accept", "no_upgrade", "handshake_429"})
"""What happens before a model is named: one such fault of any model meets every WebSocket handshake of the process."""

_BOTH, _SSE, _WEBSOCKET = ("sse", "websocket"), ("sse",), ("websocket",)
APPLIES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*get_args(Api), *get_args(Cut)), _BOTH),
    **dict.fromkeys(("bad_utf8", "huge_event", "cut_at_byte"), _BOTH),
    "content_type": _SSE,
    "content_encoding": _SSE,
    "bad_status_line": _SSE,
    "bad_header": _SSE,
    "endless_head": _SSE,
    "endless_line": _SSE,
    "bad_chunk_length": _SSE,
    "short_body": _SSE,
    "wrong_accept": _WEBSOCKET,
    "no_upgrade": _WEBSOCKET,
    "handshake_429": _WEBSOCKET,
    "half_frame": _WEBSOCKET,
    "fragmented": _WEBSOCKET,
    "unended_fragment": _WEBSOCKET,
    "masked_frame": _WEBSOCKET,
    "reserved_opcode": _WEBSOCKET,
    "reserved_bits": _WEBSOCKET,
    "binary_message": _WEBSOCKET,
    "huge_frame": _WEBSOCKET,
    "long_control": _WEBSOCKET,
    "bad_close_code": _WEBSOCKET,
    "no_close_frame": _WEBSOCKET,
}
"""The protocols on which a kind happens; over another one its streams are served as if it were not there."""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of trouble, and whom it meets.

    The requests for a stream, which is a model and a seed, are counted from 0, those that resume it and those that
    were refused included. The first `attempts` of them meet the fault, each once at most, and each at a place of its
    own: `at` counts from the first content chunk that the request is sent. A request that has no content chunk left to
    be sent is served, unless it is refused or its head is slow.

    A refusal (`http_...`) meets every request; all else concerns streamed replies only.
    """

    kind: Kind
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Of the streams; which ones, their seeds decide."""
    at: tuple[Annotated[int, Meta(ge=0, le=100_000)], Annotated[int, Meta(ge=0, le=100_000)]] = (1, 1)
    """The content chunk before which it happens, when that is due: from the first to the second of these ordinals,
    drawn per request; the last chunk where fewer are left."""
    wait_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """How long a slow head takes; what `retry-after` says, in whole seconds, rounded up."""
    attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    """It happens to so many requests for a stream, and the next one is served; 0: to every one."""
    byte: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Of the whole reply, the first that `cut_at_byte` does not send. The reply to a WebSocket handshake counts as the
    beginning of each reply on its connection; a byte within it cuts every handshake of the process."""

    def __post_init__(self) -> None:
        if self.at[0] > self.at[1]:
            raise ValueError(f"at = [{self.at[0]}, {self.at[1]}]: the first must not be above the second")

    def meets(self, seed: int) -> bool:
        """Whether it happens to the stream with this seed."""
        return _draw(seed, "share") < self.share

    def happens(self, seed: int, request: int) -> bool:
        """Whether it happens to that request for the stream, counted from 0."""
        return (self.attempts == 0 or request < self.attempts) and self.meets(seed)

    def ordinal(self, seed: int, chunks: int, request: int = 0) -> int:
        """Before which of the `chunks` that the request is sent it happens, counted from 0; -1 when there is none."""
        low, high = self.at
        draw = _draw(seed, f"at {request}" if request else "at")
        return min(low + int(draw * (high - low + 1)), chunks - 1)


def _draw(seed: int, what: str) -> float:
    """From 0 up to 1, evenly, the same on every machine."""
    digest = blake2b(f"{seed}\0{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
