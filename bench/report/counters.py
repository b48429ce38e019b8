"""Exact counters in words: what was lost, and what is on the wire to the digit."""

from __future__ import annotations

from collections.abc import Iterator

from bench.metrics import Account, Phase, Summary
from bench.report.finding import Finding
from bench.report.numbers import count, listed, number

ENDED_WELL = ("complete", "left")
"""Outcomes that say nothing against a server."""
_DEFECTS = {
    "lost": "{arm} lost {n}",
    "repeated": "{arm} repeated {n}",
    "reordered": "{arm} delivered {n} out of order",
    "corrupted": "{arm} altered {n}",
}
_WIRE = {"wire_bytes": ("bytes on the wire", "bytes"), "segments": ("TCP segments", "segments")}


def on_purpose(phase: Phase) -> bool:
    """Whether streams of a phase are to fail: something goes wrong with them, and their clients do not ask again."""
    return any(phase.settings.get(key) for key in ("fault", "restart")) and not phase.settings.get("retry")


def losses(summary: Summary, phase: Phase) -> Iterator[Finding]:
    """Streams that did not complete and content that is not as it was sent, beside the arms where all is well."""
    meant = on_purpose(phase)
    end = ", on purpose" if meant else ""
    lead = f"Phase {phase.name}" if meant else ""
    labels = {a.name: a.label for a in summary.arms}
    own = [a for a in summary.accounts if a.phase == phase.name]
    for account in own:
        if account.failed:
            kinds = listed([f"{n} {o.replace('_', ' ')}" for o, n in account.outcomes.items() if o not in ENDED_WELL])
            where = labels[account.arm] if meant else f"Phase {phase.name}, {labels[account.arm]}"
            yield Finding(
                f"{where}: {account.failed} of {count(account.streams, 'stream')} did not complete ({kinds}){end}. A "
                "stream without a first token has no latency, so that figures over the rest look better than what was "
                "served.",
                grave=not meant,
                lead=lead,
            )
    for defect, told in _DEFECTS.items():
        amiss = [a for a in own if getattr(a, defect)]
        if amiss:
            parts = [told.format(arm=labels[a.arm], n=_share(phase, a, defect)) for a in amiss]
            well = [labels[a.arm] for a in own if a not in amiss]
            rest = f", {listed(well)} none" if well else ""
            text = f"{listed(parts)}{rest}"
            yield Finding(f"{text}{end}." if meant else f"Phase {phase.name}: {text}.", grave=not meant, lead=lead)


def _share(phase: Phase, account: Account, defect: str) -> str:
    """`7 of 64 000 tokens`; where a chunk holds several tokens, chunks are what is counted."""
    n = getattr(account, defect)
    if phase.profile.get("bundle", 1) != 1:
        return f"{count(n, 'chunk')} of content"
    sent = account.tokens + account.lost
    return f"{number(n, 0)} of {count(sent, 'token')}"


_EXACT = "exactly, in every block"
_APART = "at the median; the blocks of the two do not overlap"


def wire(summary: Summary) -> Iterator[Finding]:
    """Bytes and segments per token where arms differ in them and every block agrees: no interval is needed."""
    labels = {a.name: a.label for a in summary.arms}
    counters = summary.conclusions.counters if summary.conclusions else []
    groups: dict[tuple[str, str, str, bool], dict[str, float]] = {}
    for c in counters:
        if c.measure in _WIRE and c.finding in ("more", "fewer"):
            values = groups.setdefault((c.phase, c.temperature, c.measure, c.exact), {})
            values[c.baseline], values[c.other] = c.baseline_value, c.other_value
    for (phase, temperature, measure, exact), values in groups.items():
        places = next((p for p in (1, 2, 3, 4) if _apart(list(values.values()), p)), 5)
        what, unit = _WIRE[measure]
        ordered = [a for a in labels if a in values]
        parts = [f"{number(values[a], places)} for {labels[a]}" for a in ordered]
        listing = f"{parts[0]} against {parts[1]}" if len(parts) == 2 else listed(parts)
        known = temperature in ("all", phase)
        yield Finding(
            f"{listing.replace(' for', f' {unit} per token for', 1)}, {_EXACT if exact else _APART}.",
            lead=f"Phase {phase}{'' if known else ', ' + temperature}, {what}",
        )


def _apart(values: list[float], places: int) -> bool:
    return len({f"{v:.{places}f}" for v in values}) == len(set(values))
