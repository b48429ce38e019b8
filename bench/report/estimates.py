"""An estimate, its intervals and its direction as text: differences in their unit, ratios in per cent."""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.metrics import MEASURES, Comparison, Summary
from bench.report.numbers import number

NAMES = {"p50": "median"}
"""Of statistics that people know by another name."""


class Way(NamedTuple):
    """What it is called when the other arm has less of a measure, and more; and a sentence that claims it."""

    less: str
    more: str
    claim: str


def _cost(what: str) -> Way:
    return Way("less", "more", f"{{other}} needs {{amount}} {{way}} {what} than {{baseline}}")


_LATENCY = Way("faster", "slower", "{other} is {way} than {baseline} by {amount}")
_GAPS = Way("shorter", "longer", "the gaps of {other} are {way} than those of {baseline} by {amount}")
_WAYS: dict[str, Way] = {
    "gap_excess": _GAPS,
    "icl": _GAPS,
    "max_stall": _GAPS._replace(claim=_GAPS.claim.replace("the gaps", "the longest gaps")),
    "throughput": Way("slower", "faster", "{other} is {amount} {way} than {baseline}"),
    "capacity": Way("fewer", "more", "{other} carries {amount} {way} users than {baseline}"),
    "coalescing": Way("fewer", "more", "{other} brings {amount} {way} chunks with a socket read than {baseline}"),
    "cpu_server": _cost("server CPU per token"),
    "cpu_driver": _cost("client CPU per token"),
    "cpu_server_stream": _cost("server CPU per stream"),
    "cpu_driver_stream": _cost("client CPU per stream"),
    "memory": _cost("server memory per open stream"),
}


def way_of(measure: str) -> Way:
    """How to speak of more and less of a measure; of latencies where nothing else is known."""
    return _WAYS.get(measure, _LATENCY)


def about(comparison: Comparison) -> str:
    """`first token excess (median)`."""
    title = MEASURES[comparison.measure].title.replace(", excess", " excess")
    title = title if title[1].isupper() else title[0].lower() + title[1:]
    statistic = NAMES.get(comparison.statistic, comparison.statistic)
    return title if comparison.statistic == "value" else f"{title} ({statistic})"


def where(comparison: Comparison) -> str:
    """`Phase load, warm`: the streams are named where the phase's name does not say them."""
    known = comparison.temperature in ("all", comparison.phase)
    return f"Phase {comparison.phase}" + ("" if known else f", {comparison.temperature}")


def labels(summary: Summary, comparison: Comparison) -> tuple[str, str]:
    """The other arm's name for people, and the baseline's."""
    known = {a.name: a.label for a in summary.arms}
    return known[comparison.other], known[comparison.baseline]


def against(summary: Summary, comparison: Comparison) -> str:
    """`WebSocket on aiohttp against SSE on aiohttp`."""
    return " against ".join(labels(summary, comparison))


def unit_of(comparison: Comparison) -> str:
    """The unit that text is in."""
    return "%" if comparison.scale == "ratio" else comparison.unit


def factor_of(comparison: Comparison) -> float:
    """What turns a number of the comparison into one of that unit."""
    return 100.0 if comparison.scale == "ratio" else 1.0


def places_of(comparison: Comparison) -> int:
    """Decimals for estimate and bounds alike: two digits of the largest, more where one would be rounded to nothing."""
    known = (comparison.estimate, comparison.low, comparison.high, comparison.low90, comparison.high90)
    sizes = [abs(v) * factor_of(comparison) for v in known if v]
    if not sizes:
        return 2
    finest = 1 if comparison.scale == "ratio" else 3
    places = max(0, min(finest, 1 - math.floor(math.log10(max(sizes)))))
    while places < finest and min(sizes) < 0.5 * 10**-places:
        places += 1
    return places


def amount(comparison: Comparison, value: float) -> str:
    """The size of a value, with its unit: the direction is for words to say."""
    return f"{number(abs(value) * factor_of(comparison), places_of(comparison))} {unit_of(comparison)}"


def signed(comparison: Comparison, value: float) -> str:
    """A value with its sign, without its unit."""
    text = number(value * factor_of(comparison), places_of(comparison))
    return f"+{text}" if value > 0 and text.strip("0.") else text


def span(comparison: Comparison, low: float | None, high: float | None, *, flip: bool = False) -> str:
    """`−0.02 to 0.03`, without its unit; `flip` turns it round, for a sentence that has turned the estimate round."""
    if low is None or high is None:
        return ""
    low, high = (-high, -low) if flip else (low, high)
    factor, places = factor_of(comparison), places_of(comparison)
    return f"{number(low * factor, places)} to {number(high * factor, places)}"


def effect(comparison: Comparison) -> str:
    """The smallest effect that matters: `0.1 ms`, `3 %`."""
    assert comparison.smallest_effect is not None
    return f"{comparison.smallest_effect * factor_of(comparison):g} {unit_of(comparison)}"


def leaning(comparison: Comparison, value: float) -> str:
    """`0.15 ms faster`, `2 % more`; `no difference` where it is nothing at all."""
    way = way_of(comparison.measure)
    return f"{amount(comparison, value)} {way.more if value > 0 else way.less}" if value else "no difference"


def allowed(comparison: Comparison, low: float, high: float) -> str:
    """What an interval allows: `0.15 ms faster to 0.42 ms slower`, `0.02 to 0.42 ms slower`."""
    if low < 0 < high:
        return f"{leaning(comparison, low)} to {leaning(comparison, high)}"
    near, far = sorted((low, high), key=abs)
    return f"{amount(comparison, near).removesuffix(unit_of(comparison)).strip()} to {leaning(comparison, far)}"


def probability(p: float) -> str:
    """`p = 0.003`, `p < 0.001`."""
    if p < 0.001:
        return "p < 0.001"
    places = 2 if p >= 0.1 else 4 if f"{p:.3f}" == "0.050" else 3
    return f"p = {p:.{places}f}"
