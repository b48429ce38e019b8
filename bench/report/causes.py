"""Which step makes the difference between two arms, in a sentence: where it arises, not whether it is real."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import NamedTuple

from bench.metrics import Group, Summary
from bench.metrics.trial import excess_of
from bench.report.numbers import listed, number

LEAST_MS = 0.02
"""A difference below it is not explained, and a step below half of it not named."""

_SHARE, _MOST, _ALL = 0.1, 0.6, 0.9
"""Of the difference: what a step has to make up to be named, and from where on it is most or nearly all of it."""


class _Words(NamedTuple):
    """A step that takes longer, one that takes less, one the other arm does not have, one that it has and this not."""

    more: str
    less: str
    extra: str = ""
    without: str = ""


_WORDS: dict[str, _Words] = {
    "part_connect": _Words("a longer connect", "a shorter connect"),
    "part_tls": _Words(
        "a longer TLS handshake", "a shorter TLS handshake", "the TLS handshake", "having no TLS handshake"
    ),
    "part_upgrade": _Words("a longer upgrade", "a shorter upgrade", "the upgrade", "having no upgrade"),
    "part_send": _Words("a later request on the ready connection", "an earlier request on the ready connection"),
    "part_takeup": _Words("a longer way to the handler", "a shorter way to the handler"),
    "part_late": _Words("a less punctual first write", "a more punctual first write"),
    "part_delivery": _Words("a longer delivery", "a shorter delivery"),
    "gap_late": _Words("less punctual writes of the server", "more punctual writes of the server"),
    "gap_delivery": _Words("less even delivery", "more even delivery"),
}


class _Difference(NamedTuple):
    """The other arm less the first, within blocks (ms): the median over blocks, and a phrase for what it is."""

    ms: float
    phrase: str


def cause(summary: Summary, phase: str, temperature: str, arm_a: str, arm_b: str) -> str | None:
    """Say how much later or earlier the median first token of `arm_b` comes than that of `arm_a`, and by which step.

    Arms are names. Differences are of the excess, taken within a block, and the median over blocks is told. None where
    it is below `LEAST_MS` or below its own spread over blocks, or where fewer than two blocks have both arms.
    """
    return _sentence(
        summary, (phase, temperature, "first"), (arm_a, arm_b), "The first token comes", "later", "earlier"
    )


def gap_cause(summary: Summary, phase: str, temperature: str, arm_a: str, arm_b: str) -> str | None:
    """Say the same of the gap at p99: lateness of the server, or delivery."""
    about = "The gap at p99, less the gap as it was due, is"
    return _sentence(summary, (phase, temperature, "gap_p99"), (arm_a, arm_b), about, "longer", "shorter")


def _sentence(
    summary: Summary, where: tuple[str, str, str], arms: tuple[str, str], about: str, more: str, less: str
) -> str | None:
    phase, temperature, whole = where
    one, other = (summary.shapes.steps.get((Group(phase, arm, temperature), whole), {}) for arm in arms)
    blocks = sorted(one.keys() & other.keys())
    total = _beyond_noise([excess_of(other[b]) - excess_of(one[b]) for b in blocks], LEAST_MS)
    if total is None:
        return None
    found = []
    for step, words in _WORDS.items():
        if blocks and step in one[blocks[0]]:
            ms = _beyond_noise([other[b][step] - one[b][step] for b in blocks], max(LEAST_MS / 2, abs(total) * _SHARE))
            if ms is not None:
                absent = not any((one if ms > 0 else other)[b][step] for b in blocks)
                plain, special = (words.more, words.extra) if ms > 0 else (words.less, words.without)
                found.append(_Difference(ms, special if absent and special else plain))
    labels = {a.name: a.label for a in summary.arms}
    than = f"with {labels[arms[1]]} than with {labels[arms[0]]}"
    return f"{about} {_ms(total)} {more if total > 0 else less} {than}; {_made_of(total, found)}."


def _beyond_noise(differences: Sequence[float], least: float) -> float | None:
    """The median; None where it is below `least`, or below the spread of the blocks: the width of their middle half."""
    if len(differences) < 2:
        return None
    middle = median(differences)
    low, _, high = quantiles(differences, n=4, method="inclusive")
    return middle if abs(middle) >= max(least, high - low) else None


def _made_of(total: float, found: list[_Difference]) -> str:
    """`most of it (0.31 ms) is the upgrade`, or what adds to it and what takes some of it back."""
    by_size = sorted(found, key=lambda d: -abs(d.ms))
    forth = [d for d in by_size if d.ms * total > 0]
    back = [d for d in by_size if d.ms * total < 0]
    if not forth:
        return "no single step makes it"
    verb = "adds" if total > 0 else "saves"
    if back:
        return f"{_each(forth, verb)}, of which {_each(back, 'takes back')}"
    first, share = forth[0], forth[0].ms / total
    if _ms(first.ms) == _ms(total):
        return f"it is {first.phrase}"
    if share > 1:
        return f"{_each(forth, verb)}, of which other steps take back {_ms(sum(d.ms for d in forth) - total)}"
    if share >= _MOST or len(forth) == 1:
        much = "nearly all of it" if share >= _ALL else "most of it" if share >= _MOST else "a part of it"
        return f"{much} ({_ms(first.ms)}) is {first.phrase}"
    return _each(forth, verb)


def _each(differences: list[_Difference], verb: str) -> str:
    """`the upgrade adds 0.30 ms and a longer connect 0.10 ms`."""
    return listed([f"{d.phrase} {'' if i else verb + ' '}{_ms(d.ms)}" for i, d in enumerate(differences)])


def _ms(value: float) -> str:
    return f"{number(abs(value), 2)} ms"
