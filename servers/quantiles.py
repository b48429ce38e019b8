"""Random draws that are the same on every machine and Python: hash bits index tables of quantiles.

`random.Random` may change between releases, and a libm may differ in the last bit. Here random bits come from SHAKE128
(FIPS 202), whose output for a longer request begins with that for a shorter one, and a distribution is 65536 quantiles
rounded to whole microseconds, far coarser than any last bit. A draw is then one look-up. Standard library only.
"""

from __future__ import annotations

import hashlib
import math
import sys
from array import array
from functools import lru_cache
from statistics import NormalDist

DRAWS = 65536
"""Quantiles in a table: as many as 16 bits can pick. The outermost are at probability 0.5 / 65536 from the ends."""

VERSION = b"tokenwire/1"
"""Part of every hash. Change it when the same seed shall no longer mean the same stream."""

MAX_DELAY_US = 86_400_000_000
"""A delay is cut off at one day: only an absurd sigma gets there, and it must not overflow what holds it."""


def random_bytes(domain: bytes, seed: int, choice: int, size: int) -> bytes:
    """Return `size` bytes fixed by the arguments; `seed` counts modulo 2**64, `choice` is below 2**32."""
    key = b"%b/%b/%d/%d" % (VERSION, domain, seed & 0xFFFF_FFFF_FFFF_FFFF, choice)
    return hashlib.shake_128(key).digest(size)


def random_words(domain: bytes, seed: int, choice: int, count: int) -> array[int]:
    """Return `count` draws of 16 bits, little-endian in the hash whatever the machine is."""
    words = array("H", random_bytes(domain, seed, choice, 2 * count))
    if sys.byteorder == "big":
        words.byteswap()
    return words


@lru_cache(maxsize=1)
def _normal() -> list[float]:
    """The standard normal quantiles at the midpoints (i + 0.5) / 65536; the upper half mirrors the lower."""
    inverse = NormalDist().inv_cdf
    lower = [inverse((i + 0.5) / DRAWS) for i in range(DRAWS // 2)]
    return lower + [-z for z in reversed(lower)]


def constant(value: float) -> list[float]:
    """Return the quantiles of what never varies."""
    return [value] * DRAWS


def exponential(mean: float) -> list[float]:
    """Return the quantiles of the exponential distribution, in the unit of `mean`."""
    log1p = math.log1p
    return [-mean * log1p(-(i + 0.5) / DRAWS) for i in range(DRAWS)]


def lognormal(median: float, sigma: float) -> list[float]:
    """Return the quantiles of `median * exp(sigma * Z)` with Z standard normal, in the unit of `median`."""
    exp = math.exp
    return [median * exp(sigma * z) for z in _normal()]


def bursty(fast: float, stall: float, run: float) -> list[float]:
    """Return `fast` but for one draw in `run`, which is `stall`: so stalls are `run` tokens apart on average."""
    stalls = max(1, round(DRAWS / run))
    return [fast] * (DRAWS - stalls) + [stall] * stalls


def delays_us(milliseconds: list[float]) -> list[int]:
    """Round delays to whole microseconds, none above a day."""
    ceiling = MAX_DELAY_US / 1000
    return [int(ms * 1000 + 0.5) if ms < ceiling else MAX_DELAY_US for ms in milliseconds]
