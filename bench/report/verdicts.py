"""The verdicts in words, for who reads nothing else: one sentence per contrast and primary measure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from bench.metrics import Comparison, Conclusions, Summary, Verdict
from bench.report import causes, describe
from bench.report.estimates import (
    about,
    against,
    allowed,
    amount,
    effect,
    labels,
    probability,
    signed,
    span,
    unit_of,
    way_of,
    where,
)
from bench.report.numbers import count

CHIPS: dict[Verdict, str] = {
    "faster": "faster",
    "slower": "slower",
    "equivalent": "equivalent",
    "inconclusive": "inconclusive",
    "none": "no verdict",
}
"""The word that labels a verdict; no output says it by colour alone."""


class Told(NamedTuple):
    """A verdict as it is told: its label, what it is about, and a sentence or more."""

    verdict: Verdict
    lead: str
    text: str

    @property
    def chip(self) -> str:
        """The label."""
        return CHIPS[self.verdict]


def given(summary: Summary) -> Conclusions | None:
    """The conclusions with the verdicts that may be shown: none when the run is invalid."""
    conclusions = summary.conclusions
    if conclusions is None or summary.state != "invalid":
        return conclusions
    withheld = [msgspec.structs.replace(c, verdict="none", blocks_to_decide=None) for c in conclusions.primary]
    return msgspec.structs.replace(conclusions, primary=withheld)


def verdicts(summary: Summary) -> list[Told]:
    """Every verdict in words, in the order of contrasts and measures; nothing when the run is invalid."""
    conclusions = summary.conclusions
    if conclusions is None or summary.state == "invalid":
        return []
    primary = conclusions.primary
    if not primary:
        return [Told("none", "", "No primary measure was compared, so no verdict is given.")]
    few = {len(c.blocks) for c in primary}
    if all(c.verdict == "none" for c in primary) and len(few) == 1:
        return [Told("none", "", f"{_too_few(conclusions, few.pop())} The estimates so far are in the table below.")]
    return [_told(summary, conclusions, c) for c in primary]


def conditions(summary: Summary) -> str:
    """What the verdicts hold for, in a line: mode, HTTP version, TLS, network and libraries."""
    versions = {a.stack: a.server_versions.get(a.stack, "") for a in summary.arms if a.trials}
    libraries = [f"{stack} {version}".strip() for stack, version in versions.items()]
    path = f"HTTP/1.1 {describe.encryption(summary)}"
    return ", ".join([f"mode {summary.mode}", path, describe.network(summary), *libraries])


def _too_few(conclusions: Conclusions, blocks: int) -> str:
    return f"Under {conclusions.fewest_blocks} blocks no verdict is given: {blocks} of {conclusions.fewest_blocks}."


def _told(summary: Summary, conclusions: Conclusions, c: Comparison) -> Told:
    if c.verdict == "none":
        text = f"{against(summary, c)}: {_lowered(_too_few(conclusions, len(c.blocks)))}"
    elif c.verdict == "equivalent":
        text = _equivalent(summary, c, conclusions.alpha)
    elif c.verdict == "inconclusive":
        text = _inconclusive(summary, c, conclusions.alpha)
    else:
        text = _claim(summary, c)
    if c.advisory:
        text += " Advisory only: too few samples in a trial for so high a percentile."
    return Told(c.verdict, f"{where(c)}, {about(c)}", text)


def _claim(summary: Summary, c: Comparison) -> str:
    """`A is slower than B by 0.32 ms (95 % interval ...)`; the interval is turned the way the sentence goes."""
    other, baseline = labels(summary, c)
    way, up = way_of(c.measure), c.estimate > 0
    claim = way.claim.format(
        other=other, baseline=baseline, amount=amount(c, c.estimate), way=way.more if up else way.less
    )
    assert c.p_holm is not None
    interval = span(c, c.low, c.high, flip=not up)
    rests_on = f"95 % interval {interval} {unit_of(c)}; {probability(c.p_holm)} after Holm; {_blocks(c)}"
    return " ".join(filter(None, [f"{claim[0].upper()}{claim[1:]} ({rests_on}).", _why(summary, c)]))


def _why(summary: Summary, c: Comparison) -> str | None:
    """Which step makes the difference, where the records can tell."""
    if (c.measure, c.statistic) == ("ttft_excess", "p50"):
        return causes.cause(summary, c.phase, c.temperature, c.baseline, c.other)
    if (c.measure, c.statistic) == ("gap_excess", "p99"):
        return causes.gap_cause(summary, c.phase, c.temperature, c.baseline, c.other)
    return None


def _equivalent(summary: Summary, c: Comparison, alpha: float) -> str:
    interval = f"90 % interval {span(c, c.low90, c.high90)} {unit_of(c)}; {_blocks(c)}"
    text = f"{against(summary, c)}: no difference that matters, within ±{effect(c)} ({interval})."
    if c.p_holm is not None and c.p_holm <= alpha:
        way = way_of(c.measure)
        found = f"{way.more if c.estimate > 0 else way.less}; {probability(c.p_holm)} after Holm"
        text += f" A difference of {amount(c, c.estimate)} is there ({found}), too small to matter."
    return text


def _inconclusive(summary: Summary, c: Comparison, alpha: float) -> str:
    assert c.low is not None
    assert c.high is not None
    text = (
        f"{against(summary, c)}: anything from {allowed(c, c.low, c.high)} is possible (95 % interval, {_blocks(c)}), "
        f"and {effect(c)} would matter."
    )
    if c.p_holm is not None and c.p_holm <= alpha:
        text += f" A difference is there ({probability(c.p_holm)} after Holm), but it may be too small to matter."
    needed = f"about {count(c.blocks_to_decide, 'block')}" if c.blocks_to_decide else "more than 1000 blocks"
    return f"{text} {needed[0].upper()}{needed[1:]} would probably decide."


def _blocks(c: Comparison) -> str:
    return count(len(c.blocks), "block")


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]


def brief(c: Comparison) -> str:
    """What a terminal has room for: `+0.32 ms (0.20 to 0.40)`."""
    bounds = (c.low90, c.high90) if c.verdict == "equivalent" else (c.low, c.high)
    interval = span(c, *bounds)
    return f"{signed(c, c.estimate)} {unit_of(c)}" + (f" ({interval})" if interval else "")
