"""When streams should start, and with which seeds. No protocol, no clock: offsets in ns from the start of a phase."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from typing import Literal, TypeAlias

NS = 1_000_000_000
LATE_NS = 1_000_000
"""A start this much after its intended time counts as late."""


Arrivals: TypeAlias = Literal["constant", "poisson"]


def open_offsets(arrivals: Arrivals, rate: float, duration_s: float, seed: int) -> list[int]:
    """Start offsets of an open load: every one before `duration_s`, `rate` per second on average."""
    end = int(duration_s * NS)
    return list(itertools.takewhile(lambda offset: offset < end, endless_offsets(arrivals, rate, seed)))


def endless_offsets(arrivals: Arrivals, rate: float, seed: int) -> Iterator[int]:
    """Start offsets of an open load whose end is not known, in order.

    Poisson arrivals are exponential gaps from `random.Random(seed).random`, whose sequence Python guarantees.
    """
    if arrivals == "constant":
        gap = NS / rate
        yield from (int(i * gap) for i in itertools.count())
    draw = random.Random(seed).expovariate
    at = draw(rate)
    while True:
        yield int(at * NS)
        at += draw(rate)


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
