"""The schedule of one stream: profile and seed in, due offsets and texts out. Pure, and equal on every machine.

The driver computes the same schedule from the same two values, so nothing about it has to travel with the tokens.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import msgspec

from servers import quantiles
from servers.vocabulary import VOCABULARIES

NS_PER_MS = 1_000_000
MAX_TOKENS = 1_000_000
"""The longest stream a length may ask for: a guard against a mistyped profile."""


MAX_MS = 3_600_000
"""An hour: the longest delay, so that no draw of a skewed one leaves 64 bits of ns."""
MAX_SIGMA = 3


def _positive(what: str, value: float, zero: bool = True) -> None:
    """Raise `ValueError` unless `value` is a number above zero (or zero, when allowed) and not beyond all reason."""
    most = MAX_SIGMA if what == "sigma" else MAX_MS if what.endswith("ms") else MAX_TOKENS
    if math.isfinite(value) and value > most:
        raise ValueError(f"{what} must be at most {most}, not {value!r}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{what} must be a {'non-negative' if zero else 'positive'} number, not {value!r}")


class Constant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="constant"):
    """Always `ms`."""

    ms: float

    def __post_init__(self) -> None:
        _positive("ms", self.ms)


class Exponential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="exponential"):
    """Memoryless gaps with the mean `mean_ms`."""

    mean_ms: float

    def __post_init__(self) -> None:
        _positive("mean_ms", self.mean_ms)


class Lognormal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="lognormal"):
    """Skewed to long delays: `median_ms` times e to the power of a normal variate with deviation `sigma`."""

    median_ms: float
    sigma: float

    def __post_init__(self) -> None:
        _positive("median_ms", self.median_ms)
        _positive("sigma", self.sigma)


class Bursty(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="bursty"):
    """`fast_ms` between tokens, and after `run` tokens on average one delay of `stall_ms`."""

    fast_ms: float
    stall_ms: float
    run: float

    def __post_init__(self) -> None:
        _positive("fast_ms", self.fast_ms)
        _positive("stall_ms", self.stall_ms)
        if not 1 <= self.run <= quantiles.DRAWS:
            raise ValueError(f"run must be 1 to {quantiles.DRAWS} tokens, not {self.run!r}")


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="fixed"):
    """Always `tokens` tokens."""

    tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MAX_TOKENS:
            raise ValueError(f"tokens must be 1 to {MAX_TOKENS}, not {self.tokens}")


class Uniform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="uniform"):
    """From `min` to `max` tokens, both included."""

    min: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max <= MAX_TOKENS:
            raise ValueError(f"min and max must be 1 <= min <= max <= {MAX_TOKENS}, not {self.min} and {self.max}")


class LognormalLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="dist", tag="lognormal"):
    """Mostly near `median` tokens, sometimes much longer, from 1 to `max`."""

    median: float
    sigma: float
    max: int

    def __post_init__(self) -> None:
        _positive("median", self.median, zero=False)
        _positive("sigma", self.sigma)
        if not 1 <= self.max <= MAX_TOKENS:
            raise ValueError(f"max must be 1 to {MAX_TOKENS}, not {self.max}")


Delay = Constant | Exponential | Lognormal | Bursty
Length = Fixed | Uniform | LognormalLength


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one kind of model emits: delay to the first token, gaps, length, kind of text.

    `bundle`: tokens in one chunk, which is due when its last token is. `step_ms`: in lockstep when above zero, as a
    server that batches decodes: delays are whole steps, at least one between tokens. Raises `ValueError` when a value
    is out of range.
    """

    first: Delay
    gap: Delay
    length: Length
    text: str = "english"
    bundle: int = 1
    step_ms: float = 0.0

    def __post_init__(self) -> None:
        if self.text not in VOCABULARIES:
            raise ValueError(f"text must be one of {', '.join(VOCABULARIES)}, not {self.text!r}")
        if not 1 <= self.bundle <= MAX_TOKENS:
            raise ValueError(f"bundle must be 1 to {MAX_TOKENS} tokens, not {self.bundle}")
        _positive("step_ms", self.step_ms)
        if 0 < self.step_ms < 0.001:
            raise ValueError(f"step_ms must be 0 or at least 0.001, not {self.step_ms!r}")

    @property
    def step_ns(self) -> int:
        """The lockstep period in ns, whole microseconds; 0 when tokens are not in lockstep."""
        return round(self.step_ms * 1000) * 1000


class Schedule(NamedTuple):
    """One entry per content chunk; `due_ns` counts from the moment the server took the request up."""

    due_ns: list[int]
    texts: list[str]
    tokens: list[int]


class _Tables(NamedTuple):
    """What the draws of a profile are looked up in; delays in ns."""

    first: array[int]
    gap: array[int]
    length: array[int]
    words: tuple[str, ...]


@lru_cache(maxsize=128)
def _delays_us(delay: Delay) -> list[int]:
    match delay:
        case Constant(ms=ms):
            milliseconds = quantiles.constant(ms)
        case Exponential(mean_ms=mean):
            milliseconds = quantiles.exponential(mean)
        case Lognormal(median_ms=median, sigma=sigma):
            milliseconds = quantiles.lognormal(median, sigma)
        case Bursty(fast_ms=fast, stall_ms=stall, run=run):
            milliseconds = quantiles.bursty(fast, stall, run)
    return quantiles.delays_us(milliseconds)


def _first_ns(delay: Delay, step_us: int) -> array[int]:
    """The delay to the first token, rounded up to whole steps when in lockstep."""
    if not step_us:
        return array("q", [us * 1000 for us in _delays_us(delay)])
    return array("q", [-(-us // step_us) * step_us * 1000 for us in _delays_us(delay)])


def _gap_ns(delay: Delay, step_us: int) -> array[int]:
    """The delay between tokens, rounded to whole steps and at least one when in lockstep."""
    if not step_us:
        return array("q", [us * 1000 for us in _delays_us(delay)])
    return array("q", [max(1, (us + step_us // 2) // step_us) * step_us * 1000 for us in _delays_us(delay)])


def _lengths(length: Length) -> array[int]:
    match length:
        case Fixed(tokens=tokens):
            values = [tokens] * quantiles.DRAWS
        case Uniform(min=low, max=high):
            values = [low + (high - low + 1) * i // quantiles.DRAWS for i in range(quantiles.DRAWS)]
        case LognormalLength(median=median, sigma=sigma, max=top):
            values = [max(1, int(min(value, top) + 0.5)) for value in quantiles.lognormal(median, sigma)]
    return array("q", values)


@lru_cache(maxsize=128)
def prepare(profile: Profile) -> _Tables:
    """Build the tables of `profile`, some 50 ms of work, so that its first stream need not wait for them."""
    step_us = profile.step_ns // 1000
    return _Tables(
        _first_ns(profile.first, step_us),
        _gap_ns(profile.gap, step_us),
        _lengths(profile.length),
        VOCABULARIES[profile.text],
    )


def natural_length(profile: Profile, seed: int, choice: int = 0) -> int:
    """Return the tokens of a stream that nothing cuts short."""
    return prepare(profile).length[quantiles.random_words(b"head", seed, choice, 2)[1]]


def schedule(profile: Profile, seed: int, choice: int = 0, limit: int | None = None) -> Schedule:
    """Return what one choice of a stream emits and when.

    `seed` counts modulo 2**64. `limit` cuts the stream after so many tokens and changes nothing before that. Offsets
    are whole microseconds in ns and never decrease.
    """
    tables = prepare(profile)
    head = quantiles.random_words(b"head", seed, choice, 2)
    count = tables.length[head[1]]
    if limit is not None and limit < count:
        count = limit
    gaps = quantiles.random_words(b"gaps", seed, choice, count - 1)
    due_ns = list(accumulate(map(tables.gap.__getitem__, gaps), initial=tables.first[head[0]]))
    texts = list(map(tables.words.__getitem__, quantiles.random_bytes(b"text", seed, choice, count)))
    size = profile.bundle
    if size == 1:
        return Schedule(due_ns, texts, [1] * count)
    lasts = [min(start + size, count) - 1 for start in range(0, count, size)]
    return Schedule(
        [due_ns[last] for last in lasts],
        ["".join(texts[start : start + size]) for start in range(0, count, size)],
        [min(size, count - start) for start in range(0, count, size)],
    )


def profile_hash(profile_name: str) -> int:
    """Return the 32 bits that stand for a profile's name in completion ids and in the emission log."""
    return int.from_bytes(hashlib.shake_128(profile_name.encode()).digest(4), "big")


def completion_id(profile_name: str, seed: int, attempt: int) -> str:
    """Return the id of a completion: fixed width, and all of it can be read back by `completion_key`.

    `seed` counts modulo 2**64 and `attempt` modulo 2**20.
    """
    return f"chatcmpl-{profile_hash(profile_name):08x}{seed & 0xFFFF_FFFF_FFFF_FFFF:016x}{attempt & 0xF_FFFF:05x}"


def completion_key(completion: str) -> tuple[int, int, int]:
    """Return (profile hash, seed, attempt) of a completion id, the seed as the signed 64 bits the API takes.

    Raises `ValueError` when `completion` is not such an id.
    """
    prefix, _, digits = completion.partition("-")
    if prefix != "chatcmpl" or len(digits) != 29 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"not a completion id: {completion!r}")
    seed = int(digits[8:24], 16)
    return int(digits[:8], 16), seed - (seed >> 63 << 64), int(digits[24:], 16)
