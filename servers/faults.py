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


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of trouble, and whom it meets."""

    kind: Kind
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Of the streams; which ones, their seeds decide."""
    at: tuple[Annotated[int, Meta(ge=0, le=100_000)], Annotated[int, Meta(ge=0, le=100_000)]] = (1, 1)
    """The content chunk before which it happens, from the first to the second of these ordinals, drawn per stream; the
    last chunk where a stream is shorter."""
    wait_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    """How long a slow head takes; what `retry-after` says, in whole seconds."""
    attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    """It happens to so many requests for a stream, and the next one is served; 0: to every one."""
    byte: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Of the whole reply, the first that `cut_at_byte` does not send."""

    def __post_init__(self) -> None:
        if self.at[0] > self.at[1]:
            raise ValueError(f"at = [{self.at[0]}, {self.at[1]}]: the first must not be above the second")

    def meets(self, seed: int) -> bool:
        """Whether it happens to the stream with this seed."""
        return _draw(seed, "share") < self.share

    def ordinal(self, seed: int, chunks: int) -> int:
        """The content chunk of that stream, which has so many, before which it happens."""
        low, high = self.at
        return min(low + int(_draw(seed, "at") * (high - low + 1)), chunks - 1)


def _draw(seed: int, what: str) -> float:
    """From 0 up to 1, evenly, the same on every machine."""
    digest = blake2b(f"{seed}\0{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
