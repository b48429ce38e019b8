"""The findings in words: each sentence names the figure, its range over trials and what it is about.

Nothing here says that an arm is better, faster or different: whether ranges overlap is all that is said of two arms.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from bench.metrics import Arm, Incident, Phase, Summary, Value
from bench.report.numbers import ALIKE, count, listed, number, spread

NO_VERDICT = (
    "This report describes. It does not say which arm is better: verdicts with statistics are not made here, and "
    "ranges that do or do not overlap are not a test."
)

LATE_SHARE = 0.01
"""Of the starts of an open load; when more are late, it was not the load that was asked for."""


class Finding(NamedTuple):
    """A sentence or two, and what they are about. `grave` ones concern the trust in all else.

    What has no `lead` is about the run as a whole and comes first.
    """

    text: str
    grave: bool = False
    lead: str = ""


def findings(summary: Summary) -> list[Finding]:
    """What to know first: what went wrong, or that nothing did; then the main figures phase by phase."""
    return [*_trust(summary), *(f for phase in summary.phases for f in _phase(summary, phase))]


def _trust(summary: Summary) -> list[Finding]:
    labels = {a.name: a.label for a in summary.arms}
    found = [
        text
        for incident in summary.incidents
        for text in _incident(incident, f"Block {incident.block}, {labels[incident.arm]}")
    ]
    if summary.trials_finished < summary.trials_planned:
        found.append(
            f"The run is {summary.state}: {summary.trials_finished} of {summary.trials_planned} trials are here, and "
            "figures are over those."
        )
    uneven = [a for a in summary.arms if a.trials < max(b.trials for b in summary.arms)]
    if uneven:
        has = listed([f"{a.label} has {count(a.trials, 'trial')}" for a in uneven])
        found.append(f"Arms have different numbers of trials: {has}, the others {max(a.trials for a in summary.arms)}.")
    absent = [p.name for p in summary.phases if p.trials == 0]
    if absent:
        found.append(f"No finished trial holds the {'phase' if len(absent) == 1 else 'phases'} {listed(absent)}.")
    found += [f"Left out: {w}" for w in summary.warnings]
    for account in summary.accounts:
        where = f"{account.phase}, {labels[account.arm]}"
        if account.failed:
            kinds = listed([f"{n} {o.replace('_', ' ')}" for o, n in account.outcomes.items() if o != "complete"])
            found.append(
                f"{where}: {account.failed} of {count(account.streams, 'stream')} did not complete ({kinds}). A stream "
                "without a first token has no latency, so that figures over the rest look better than what was served."
            )
        defects = [
            f"{n} {name}" for name in ("lost", "repeated", "reordered", "corrupted") if (n := getattr(account, name))
        ]
        if defects:
            found.append(f"{where}: chunks of content {listed(defects)}.")
    grave = [Finding(text, grave=True) for text in found]
    if not any(a.failed or a.lost or a.repeated or a.reordered or a.corrupted for a in summary.accounts):
        streams, tokens = (sum(getattr(a, f) for a in summary.accounts) for f in ("streams", "tokens"))
        grave.append(
            Finding(
                f"All {count(streams, 'stream')} are complete and all {count(tokens, 'token')} are accounted for: none "
                "lost, repeated, out of order or altered."
            )
        )
    return [*grave, *(f for phase in summary.phases for f in _starts(summary, phase))]


def _starts(summary: Summary, phase: Phase) -> Iterator[Finding]:
    """Whether streams started when they should have. Nothing where all of a phase start at once or one by one."""
    if phase.load != "open" and not phase.settings.get("ramp_s") and not phase.settings.get("think_s"):
        return
    own = [a for a in summary.accounts if a.phase == phase.name]
    starts, late, dropped = (sum(getattr(a, f) for a in own) for f in ("starts", "starts_late", "dropped"))
    if not late and not dropped:
        return
    text = (
        f"Phase {phase.name}: of {count(starts, 'start')} {late or 'none'} came more than 1 ms late and "
        f"{dropped or 'none'} {'was' if dropped == 1 else 'were'} dropped."
    )
    grave = dropped > 0 or (phase.load == "open" and late > LATE_SHARE * starts)
    if grave:
        text += " The driver did not offer quite the load that was asked for."
    yield Finding(text, grave=grave)


def _incident(incident: Incident, where: str) -> Iterator[str]:
    if incident.server_died is not None:
        code = number(incident.server_died, 0)
        yield f"{where}: the server died (exit code {code}); this trial is in the figures all the same."
    if incident.schedule_mismatches:
        yield (
            f"{where}: {count(incident.schedule_mismatches, 'stream')} of the server did not follow the schedule that "
            "the driver computed, so that excess and lateness there are wrong."
        )


def _phase(summary: Summary, phase: Phase) -> list[Finding]:
    found = []
    if phase.load == "steps":
        unit = f"users within a p99 gap excess of {phase.limit_ms:g} ms"
        found.append(_finding(summary, phase, "capacity", "all", "capacity", "value", unit))
        found += [_no_capacity(summary, phase, a) for a in summary.arms]
    elif not phase.paced and phase.temperatures:
        found.append(_finding(summary, phase, "throughput without pacing", "all", "throughput", "value", "tokens/s"))
        found.append(_finding(summary, phase, "server CPU", "all", "cpu_server", "value", "µs per token"))
    for temperature in phase.temperatures if phase.paced and phase.load != "steps" else ():
        over = "ms over the model's own delay"
        found.append(_finding(summary, phase, "first token (median)", temperature, "ttft_excess", "p50", over))
        tail = "p99.9" if _everywhere(summary, phase, temperature, "gap_excess", "p99.9") else "p99"
        about = f"gaps between tokens ({tail})"
        found.append(_finding(summary, phase, about, temperature, "gap_excess", tail, "ms longer than due"))
    return [f for f in found if f]


def _no_capacity(summary: Summary, phase: Phase, arm: Arm) -> Finding | None:
    value = summary.get(phase.name, arm.name, "all", "capacity")
    without = min(arm.trials, phase.trials) - (len(value.per_trial) if value else 0)
    if without <= 0:
        return None
    text = f"no capacity in {without} of {count(arm.trials, 'trial')}, as a step there has no gaps to judge by."
    return Finding(f"{arm.label}: {text}", lead=f"Phase {phase.name}, capacity")


def _everywhere(summary: Summary, phase: Phase, temperature: str, measure: str, statistic: str) -> bool:
    return all(summary.get(phase.name, a.name, temperature, measure, statistic) for a in summary.arms if a.trials)


def _finding(
    summary: Summary, phase: Phase, about: str, temperature: str, measure: str, statistic: str, unit: str
) -> Finding | None:
    """`Phase warm, first token (median)`: `SSE on aiohttp 0.42 ms over ... (0.40 to 0.47 over 8 trials), ...`."""
    found = [
        (a.label, v) for a in summary.arms if (v := summary.get(phase.name, a.name, temperature, measure, statistic))
    ]
    if not found:
        return None
    same = len({len(v.per_trial) for _, v in found}) == 1
    parts = []
    for i, (label, value) in enumerate(found):
        middle, reach = spread(value)
        trials = f" over {count(len(value.per_trial), 'trial')}" if i == 0 or not same else ""
        inside = "1 trial, so no range" if not reach else f"the same{trials}" if reach == ALIKE else reach + trials
        parts.append(f"{label} {middle}{' ' + unit if i == 0 else ''} ({inside})")
    kind = "" if temperature in ("all", phase.name) else f", {temperature}"
    return Finding(f"{listed(parts)}.{_overlap(found)}", lead=f"Phase {phase.name}{kind}, {about}")


def _overlap(found: list[tuple[str, Value]]) -> str:
    """Whether ranges over trials overlap, pair by pair; nothing where there is no range."""
    ranged = [(label, v) for label, v in found if len(v.per_trial) > 1]
    pairs = list(combinations(ranged, 2))
    if not pairs or any(v.max_at_least and w.max_at_least for (_, v), (_, w) in pairs):
        return ""
    apart = [f"{a} and {b}" for (a, v), (b, w) in pairs if v.max < w.min or w.max < v.min]
    together = [f"{a} and {b}" for (a, v), (b, w) in pairs if not (v.max < w.min or w.max < v.min)]
    if not apart:
        return " The ranges overlap."
    if not together:
        return " The ranges do not overlap."
    if len(together) <= len(apart):
        return f" Of the ranges only those of {'; '.join(together)} overlap."
    return f" All ranges overlap but those of {'; '.join(apart)}."
