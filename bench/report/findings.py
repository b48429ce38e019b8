"""The findings beside the verdicts, in words: what went wrong, what was counted exactly, and the main figures.

Nothing here says that an arm is better, faster or different by a measurement with noise: that is for verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.metrics import Arm, Incident, Phase, Summary
from bench.report.counters import losses, on_purpose, wire
from bench.report.finding import Finding
from bench.report.numbers import ALIKE, count, listed, number, spread
from bench.report.validity import results, validity

__all__ = ["Finding", "figures", "findings"]

LATE_SHARE = 0.01
"""Of the starts of an open load; when more are late, it was not the load that was asked for."""


def findings(summary: Summary) -> list[Finding]:
    """What to know beside the verdicts: what went wrong, or that nothing did; what is a result without a test."""
    return [*_trust(summary), *results(summary), *wire(summary)]


def _trust(summary: Summary) -> list[Finding]:
    labels = {a.name: a.label for a in summary.arms}
    found = [
        text
        for incident in summary.incidents
        for text in _incident(incident, f"Block {incident.block}, {labels[incident.arm]}")
    ]
    if summary.trials_finished < summary.trials_planned:
        found.append(
            f"{_state(summary)}{summary.trials_finished} of {summary.trials_planned} trials "
            f"{'count' if summary.voids else 'are here'}, and figures are over those."
        )
    uneven = [a for a in summary.arms if a.trials < max(b.trials for b in summary.arms)]
    if uneven:
        has = listed([f"{a.label} has {count(a.trials, 'trial')}" for a in uneven])
        found.append(f"Arms have different numbers of trials: {has}, the others {max(a.trials for a in summary.arms)}.")
    absent = [p.name for p in summary.phases if p.trials == 0]
    if absent:
        found.append(f"No finished trial holds the {'phase' if len(absent) == 1 else 'phases'} {listed(absent)}.")
    found += [f"Left out: {w}" for w in summary.warnings]
    grave = [Finding(text, grave=True) for text in found]
    grave += [f for phase in summary.phases for f in losses(summary, phase)]
    meant = [phase.name for phase in summary.phases if on_purpose(phase)]
    own = [a for a in summary.accounts if a.phase not in meant]
    if own and not any(a.failed or a.lost or a.repeated or a.reordered or a.corrupted for a in own):
        streams, tokens = (sum(getattr(a, f) for a in own) for f in ("streams", "tokens"))
        left = sum(a.outcomes.get("left", 0) for a in own)
        whole = f"All {count(streams, 'stream')} are complete"
        if left == streams:
            whole = f"All {count(streams, 'stream')} ran until their clients were to leave,"
        elif left:
            whole = f"All {count(streams, 'stream')} are complete, but for {number(left, 0)} whose client was to leave,"
        foreign = {
            a.name: a.label for a in summary.arms if a.stack == "command" and not a.server_settings.get("upstream")
        }
        known = sum(a.tokens for a in own if a.arm not in foreign)
        of_all = "all" if known == tokens else "of those known beforehand all"
        if known or not foreign:
            whole += (
                f" and {of_all} {count(known, 'token')} are accounted for: none lost, repeated, out of order or altered"
            )
        grave.append(Finding(f"{whole}{_but(meant)}."))
        if foreign:
            whose = listed(list(foreign.values()))
            grave.append(
                Finding(f"Of {whose} nobody knows which tokens were to come: whether any is missing is not known.")
            )
    return [*validity(summary), *grave, *(f for phase in summary.phases for f in _starts(summary, phase))]


def _but(meant: list[str]) -> str:
    return f"; in {'phase' if len(meant) == 1 else 'phases'} {listed(meant)} streams fail on purpose" if meant else ""


def _state(summary: Summary) -> str:
    return "" if summary.state in ("finished", "invalid") else f"The run is {summary.state}: "


def _starts(summary: Summary, phase: Phase) -> Iterator[Finding]:
    """Whether streams started when they should have. Nothing where all of a phase start at once or one by one."""
    if phase.load != "open" and not phase.settings.get("ramp_s") and not phase.settings.get("think_s"):
        return
    own = [a for a in summary.accounts if a.phase == phase.name]
    starts, late, dropped = (sum(getattr(a, f) for a in own) for f in ("starts", "starts_late", "dropped"))
    if not late and not dropped:
        return
    text = (
        f"Of {count(starts, 'start')} {late or 'none'} came more than 1 ms late and "
        f"{dropped or 'none'} {'was' if dropped == 1 else 'were'} dropped."
    )
    grave = dropped > 0 or (phase.load == "open" and late > LATE_SHARE * starts)
    if grave:
        text += " The driver did not offer quite the load that was asked for."
    yield Finding(text, grave=grave, lead=f"Phase {phase.name}")


def _incident(incident: Incident, where: str) -> Iterator[str]:
    if incident.server_died is not None:
        code = number(incident.server_died, 0)
        yield f"{where}: the server died (exit code {code}); this trial is in the figures all the same."
    if incident.schedule_mismatches:
        yield (
            f"{where}: {count(incident.schedule_mismatches, 'stream')} of the server did not follow the schedule that "
            "the driver computed, so that excess and lateness there are wrong."
        )


def figures(summary: Summary, phase: Phase) -> list[Finding]:
    """The main figures of a phase, arm by arm, with their ranges over trials."""
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
    return Finding(f"{listed(parts)}.", lead=f"Phase {phase.name}{kind}, {about}")
