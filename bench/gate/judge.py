"""From what was measured to findings, and from findings to one decision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from scipy.stats import binom

from bench.gate.result import Decision, Finding, Row
from bench.gate.thresholds import AMISS, PER_TOKEN, Role, Thresholds, Timing
from bench.measures import MEASURES, streams_of
from bench.metrics import Comparison, Conclusions, Counter, Summary
from bench.paired import FEWEST_BLOCKS
from bench.scenario import Scenario

ALPHA_COUNT = 0.001
"""Where base loses tokens as well, head loses more when chance would do so no more often than this."""
SIDES = ("base", "head")
ORDER: dict[Finding, int] = {"regression": 0, "inconclusive": 1, "improvement": 2, "same": 3, "told": 4}


def arm_of(name: str, side: str) -> str:
    """The arm that is one side of an arm of the scenario."""
    return f"{name}-{side}"


class Judge(NamedTuple):
    """Turns the conclusions of a run into rows."""

    thresholds: Thresholds
    scenario: Scenario
    """With the arms that the sides are made of."""
    totals: Mapping[str, str]
    """Measures that stand for others, where there is no schedule to take off."""

    def rows(self, summary: Summary) -> list[Row]:
        """Every measure of every arm."""
        found = summary.conclusions
        assert found is not None, "of a summary that was concluded"
        return [
            *(row for name in self.scenario.arms for row in self._timings(found, summary, name)),
            *(row for name in self.scenario.arms for row in self._counts(found, summary, name)),
        ]

    def _timings(self, found: Conclusions, summary: Summary, arm: str) -> Iterable[Row]:
        for name, timing in self.thresholds.timing.items():
            if timing.role == "off":
                continue
            measure = self.totals.get(timing.measure, timing.measure)
            streams = streams_of(measure, timing.temperature, self.scenario.phases[timing.phase].connections)
            wanted = (arm, timing.phase, streams, measure, timing.statistic)
            compared = next(
                (
                    c
                    for c in (*found.primary, *found.exploratory)
                    if (c.contrast, c.phase, c.temperature, c.measure, c.statistic) == wanted
                ),
                None,
            )
            if compared is not None:
                yield self._timing(name, timing, compared, summary)
            elif timing.role == "gate":
                yield self._absent(name, timing, arm, measure, streams, summary)

    def _timing(self, name: str, timing: Timing, c: Comparison, summary: Summary) -> Row:
        values = [summary.get(c.phase, arm, c.temperature, c.measure, c.statistic) for arm in (c.baseline, c.other)]
        finding = finding_of(c, timing.smallest_effect)
        title = MEASURES[c.measure].title
        # A phase is often named after its connections.
        parts = dict.fromkeys(part for part in (c.phase, c.temperature, c.statistic) if part not in ("all", "value"))
        where = ", ".join(parts)
        return Row(
            name=f"{name}/{c.contrast}",
            kind="timing",
            title=title,
            where=where,
            arm=c.contrast,
            measure=c.measure,
            unit=MEASURES[c.measure].unit,
            base=values[0].median if values[0] else None,
            head=values[1].median if values[1] else None,
            decides=timing.role == "gate",
            finding=finding,
            sentence=_sentence(c, title, where, timing.smallest_effect, finding),
            scale=c.scale,
            effect=c.estimate,
            low=c.low,
            high=c.high,
            smallest_effect=timing.smallest_effect,
            more_is_better=c.more_is_better,
            blocks=len(c.blocks),
        )

    def _absent(self, name: str, timing: Timing, arm: str, key: str, streams: str, summary: Summary) -> Row:
        """What decides and was not there to compare: worse, where base has it, and else not to be told."""
        values = [summary.get(timing.phase, arm_of(arm, side), streams, key, timing.statistic) for side in SIDES]
        measure = MEASURES[key]
        lacking = " and ".join(side for side, v in zip(SIDES, values, strict=True) if v is None) or "a block in common"
        advice = "" if values[0] else "; leave the arm out (sizes in the thresholds) if base does not serve it"
        return Row(
            name=f"{name}/{arm}",
            kind="timing",
            title=measure.title,
            where=timing.phase,
            arm=arm,
            measure=key,
            unit=measure.unit,
            base=values[0].median if values[0] else None,
            head=values[1].median if values[1] else None,
            decides=True,
            finding="regression" if values[0] and not values[1] else "inconclusive",
            sentence=f"{measure.title} ({timing.phase}) on {arm}: no figure of {lacking}{advice}.",
            smallest_effect=timing.smallest_effect,
            more_is_better=measure.more_is_better,
        )

    def _counts(self, found: Conclusions, summary: Summary, arm: str) -> Iterable[Row]:
        counts = self.thresholds.counts
        for counter in found.counters:
            role: Role = getattr(counts, counter.measure, "off")
            if counter.contrast != arm or role == "off":
                continue
            # Per token, only where writes are not run together by the kernel: where tokens are paced.
            if counter.measure in PER_TOKEN and not _paced(summary, counter.phase):
                continue
            yield _count(counter, role == "gate", counts.tolerance, summary)


def _paced(summary: Summary, phase: str) -> bool:
    return next(one.paced for one in summary.phases if one.name == phase)


def finding_of(c: Comparison, smallest_effect: float) -> Finding:
    """What a comparison says: worse by more than the smallest effect, better, neither, or that it cannot be told.

    A measure that decides has been tested, with Holm's correction; one that is advice goes by its 95 % interval. Not
    worse is what lies with 95 % confidence below the smallest effect: how much better it may be does not matter.
    """
    bounds = [bound for bound in (c.low, c.high, c.low90, c.high90) if bound is not None]
    if len(c.blocks) < FEWEST_BLOCKS or len(bounds) < 4:
        return "inconclusive"
    low, high, low90, high90 = bounds
    ratio = c.scale == "ratio"
    bound = math.log1p(smallest_effect) if ratio else smallest_effect
    sign = -1.0 if c.more_is_better else 1.0

    def worse(value: float) -> float:
        return sign * (math.log1p(value) if ratio else value)

    if c.verdict == "slower" or (not c.primary and min(worse(low), worse(high)) > bound):
        return "regression"
    if c.verdict == "faster" or (not c.primary and max(worse(low), worse(high)) < -bound):
        return "improvement"
    return "same" if max(worse(low90), worse(high90)) < bound else "inconclusive"


def _sentence(c: Comparison, title: str, where: str, smallest: float, finding: Finding) -> str:
    def shown(value: float) -> str:
        return f"{value * 100:+.1f} %" if c.scale == "ratio" else f"{value:+.3f} {c.unit}"

    bound = f"{smallest * 100:g} %" if c.scale == "ratio" else f"{smallest:g} {c.unit}"
    reach = f" (95 % interval {shown(c.low)} to {shown(c.high)})" if c.low is not None and c.high is not None else ""
    return f"{title} ({where}) on {c.contrast}: {shown(c.estimate)}{reach}, {in_words(finding, bound)}."


def in_words(finding: Finding, bound: str) -> str:
    """What a comparison with a smallest effect, for people `bound`, found."""
    return {
        "regression": f"worse, by more than {bound}",
        "improvement": f"better, by more than {bound}",
        "same": f"not worse by {bound} or more",
        "inconclusive": f"whether it is worse by {bound} cannot be told",
        "told": "",
    }[finding]


def _count(counter: Counter, decides: bool, tolerance: float, summary: Summary) -> Row:
    base, head = counter.baseline_value, counter.other_value
    measure = counter.measure
    where = (
        counter.phase if counter.temperature in ("all", counter.phase) else f"{counter.phase}, {counter.temperature}"
    )
    finding: Finding
    if measure in AMISS:
        title = {"failed": "Streams failed"}.get(measure, f"Tokens {measure}")
        unit, sentence = "", f"{title} in {where} on {counter.contrast}: {head:g}, base {base:g}"
        finding = "regression" if head > base and _by_more_than_chance(base, head) else "same"
        if finding == "same" and head > base:
            finding, sentence = "inconclusive", f"{sentence}; base has some too, so this may be chance"
        elif finding == "regression":
            account = summary.account(counter.phase, counter.other)
            of = "streams" if measure == "failed" else "tokens"
            total = (account.streams if measure == "failed" else account.tokens + account.lost) if account else 0
            sentence += f" (of {total:,} {of})" if total else ""
    else:
        title, unit = MEASURES[measure].title, MEASURES[measure].unit
        share = head / base - 1 if base else 0.0
        sentence = f"{title} in {where} on {counter.contrast}: {head:.6g} {unit}".rstrip()
        sentence += f", base {base:.6g} ({share * 100:+.1f} %)"
        differs = counter.finding in ("more", "fewer")
        finding = "told" if counter.finding == "varies" else "same"
        if differs and share > tolerance:
            finding = "regression"
        elif differs and share < -tolerance:
            finding = "improvement"
    return Row(
        name=f"{measure}/{counter.phase}/{counter.contrast}"
        + ("" if counter.temperature in ("all", counter.phase) else f"/{counter.temperature}"),
        kind="count",
        title=title,
        where=where,
        arm=counter.contrast,
        measure=measure,
        unit=unit,
        base=base,
        head=head,
        decides=decides,
        finding=finding,
        sentence=f"{sentence}.",
        effect=head - base,
        blocks=summary.conclusions.blocks if summary.conclusions else 0,
    )


def _by_more_than_chance(base: float, head: float) -> bool:
    """Whether head has more amiss than base, when either was equally likely to have each of them."""
    return base == 0 or float(binom.sf(head - 1, base + head, 0.5)) <= ALPHA_COUNT


def suspects(rows: Sequence[Row]) -> list[Row]:
    """The rows for which a second run is made before the gate fails."""
    return [row for row in rows if row.decides and row.finding == "regression"]


def confirm(rows: Sequence[Row], again: Sequence[Row]) -> list[Row]:
    """The rows of the first run, with what the second found of those that a second was made for.

    Tokens amiss are facts, whichever run they were in. All else has to be found twice; what the second run contradicts
    is the same, and what it cannot tell, or did not come to, is inconclusive.
    """
    doubtful = {row.name for row in suspects(rows)}
    second = {row.name: row for row in again}
    found = []
    for row in rows:
        if row.name not in doubtful:
            found.append(row)
            continue
        other = second.get(row.name)
        finding, words = row.finding, ""
        if other is None:
            finding = finding if row.measure in AMISS else "inconclusive"
            words = " There is no second run to confirm it."
        elif row.measure in AMISS:
            words = f" A second run had {other.head:g}."
        elif other.finding == "regression":
            words = " A second run found the same."
        else:
            finding = "inconclusive" if other.finding == "inconclusive" else "same"
            words = f" A second run did not find it: {other.sentence}"
        found.append(
            msgspec.structs.replace(
                row, finding=finding, again=other.finding if other else None, sentence=f"{row.sentence}{words}"
            )
        )
    return found


def decide(rows: Sequence[Row]) -> tuple[Decision, list[str]]:
    """What the rows come to, and why, a sentence each."""
    deciding = [row for row in ordered(rows) if row.decides]
    worse = [row.sentence for row in deciding if row.finding == "regression"]
    if worse:
        return "regression", worse
    open_ = [row.sentence for row in deciding if row.finding == "inconclusive"]
    if open_:
        return "inconclusive", open_
    better = [row.sentence for row in deciding if row.finding == "improvement"]
    return "pass", [f"None of {len(deciding)} measures that decide is worse.", *better]


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Those that decide first, the worst first, and before what is slower what is amiss."""
    return sorted(rows, key=lambda row: (not row.decides, ORDER[row.finding], row.measure not in AMISS))


def told_differently(summary: Summary, arms: Iterable[str]) -> list[str]:
    """Settings that the servers of base and head told of themselves differently, a sentence each."""
    known = {arm.name: arm for arm in summary.arms}
    notes: dict[str, list[str]] = {}
    for name in arms:
        base, head = (known.get(arm_of(name, side)) for side in SIDES)
        if base is None or head is None:
            continue
        for what, a, b in (
            ("setting", _flat(base.server_settings), _flat(head.server_settings)),
            ("version of", base.server_versions, head.server_versions),
        ):
            for key in sorted({*a, *b} - {"command"}):  # which the user gave
                if a.get(key) != b.get(key):
                    told = f"{what} {key}: {_word(b.get(key))}, base {_word(a.get(key))}"
                    notes.setdefault(told, []).append(name)
    return [f"Head's server says of itself {told} (on {', '.join(on)})." for told, on in notes.items()]


def _flat(settings: Mapping[str, object], at: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{at}{key}.")
        else:
            flat[f"{at}{key}"] = value
    return flat


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
