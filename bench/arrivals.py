"""When streams should start, and with which seeds. No protocol, no clock: offsets in ns from the start of a phase."""

from __future__ import annotations

import hashlib
import random
from typing import Literal

NS = 1_000_000_000


def open_offsets(arrivals: Literal["constant", "poisson"], rate: float, duration_s: float, seed: int) -> list[int]:
    """Start offsets of an open load: every one before `duration_s`, `rate` per second on average.

    Poisson arrivals are exponential gaps from `random.Random(seed).random`, whose sequence Python guarantees.
    """
    end = int(duration_s * NS)
    if arrivals == "constant":
        gap = NS / rate
        return [offset for i in range(int(duration_s * rate) + 1) if (offset := int(i * gap)) < end]
    draw = random.Random(seed).expovariate
    offsets: list[int] = []
    at = draw(rate)
    while (offset := int(at * NS)) < end:
        offsets.append(offset)
        at += draw(rate)
    return offsets


def ramp_offsets(users: int, ramp_s: float) -> list[int]:
    """Start offsets of `users` closed-load users, evenly spread over `ramp_s` seconds."""
    return [int(user * ramp_s * NS / users) for user in range(users)]


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """A seed for a part of a run, the same on every machine: 15 decimal digits, so that requests are of one length."""
    text = "\0".join(str(part) for part in (run_seed, *parts))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return 10**14 + int.from_bytes(digest, "little") % (9 * 10**14)


def draw(seed: int, what: str) -> float:
    """From 0 up to 1, evenly: what a stream's seed decides about its client, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}\0{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
