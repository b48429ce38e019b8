"""What a connection costs: time step by step, and bytes, until the first token. See `bench.metrics.opening`."""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics import Phase, Summary
from bench.metrics.opening import Bytes, Opening
from bench.report.charts import opening
from bench.report.charts.canvas import Chart
from bench.report.finding import Finding, Grid
from bench.report.numbers import listed, number
from bench.report.sections.section import Section
from bench.report.sections.words import NONE, label, ordered, ranged

TITLE = "What a connection costs"
_LEAST_SHARE = 0.05
"""Of an arm's streams in a phase: connections of a rarer kind are in the tables, not in words and chart."""
_KINDS = {"none": "", "fresh": ", TLS fresh", "resumed": ", TLS resumed"}


def make(summary: Summary) -> Section | None:
    """The section, or None where no stream was on a connection of its own."""
    shown = {phase.name: rows for phase in summary.phases if (rows := _rows(summary, phase))}
    if not shown:
        return None
    names = {row.phase for rows in shown.values() for row in rows}
    entries = [one for one in ordered(summary, summary.openings) if one.phase in names]
    phases = [phase for phase in summary.phases if phase.name in shown]
    return Section(
        TITLE,
        "From the clock's start to the first token, step by step. Cold streams opened their connection, and their "
        "clock starts at connect(); warm ones were on a kept one, and theirs starts at the request's write. A TLS "
        "handshake lasts until the first write under it, with all that the client computes before. The head of SSE's "
        "reply is counted from the request. Bytes are what client and server put on the connection, TLS as its "
        "records, TCP and IP left out. What is said here describes; what is sure, the verdicts say.",
        [_finding(summary, phase, shown[phase.name]) for phase in phases],
        [_time_grid(summary, entries), _byte_grid(summary, entries)],
        [chart for phase in phases if (chart := _chart(summary, phase, shown[phase.name])) is not None],
    )


def _rows(summary: Summary, phase: Phase) -> list[Opening]:
    """The cold streams of a phase with their warm counterpart: its own, or those of another phase of that profile."""
    usual = [one for one in ordered(summary, summary.openings) if one.share >= _LEAST_SHARE]
    cold = [one for one in usual if (one.phase, one.temperature) == (phase.name, "cold")]
    if not cold:
        return []
    alike = [p.name for p in summary.phases if p.settings["profile"] == phase.settings["profile"]]
    warm_in = {one.phase for one in usual if one.temperature == "warm"}
    beside = next((name for name in [phase.name, *alike] if name in warm_in), None)
    warm = [one for one in usual if (one.phase, one.temperature) == (beside, "warm")]
    return [one for arm in summary.arms for one in [*cold, *warm] if one.arm == arm.name]


def _kind(one: Opening) -> str:
    return f"{one.temperature}{_KINDS[one.handshake]}"


def _chart(summary: Summary, phase: Phase, rows: Sequence[Opening]) -> Chart | None:
    return opening.make(phase, [(f"{label(summary, one.arm)}, {_kind(one)}", one) for one in rows])


def _finding(summary: Summary, phase: Phase, rows: Sequence[Opening]) -> Finding:
    cold = [one for one in rows if one.temperature == "cold"]
    parts = [
        _steps(summary, cold),
        _encrypted(summary, cold),
        _resumed(summary, cold),
        _first_token(summary, rows),
        _bytes(summary, cold),
    ]
    return Finding(" ".join(part for part in parts if part), lead=f"Phase {phase.name}")


def _steps(summary: Summary, cold: Sequence[Opening]) -> str:
    """`A cold stream takes 0.12 ms to connect, and over WebSocket 0.45 ms for the upgrade, which SSE does not need.`"""
    said = [f"{text} for TCP connect"] if (text := _reach(cold, "part_connect")) else []
    for handshake, name in (("fresh", "a full TLS handshake"), ("resumed", "a TLS handshake that resumes a session")):
        text = _reach([one for one in cold if one.handshake == handshake], "part_tls")
        said += [f"{text} for {name}"] if text else []
    upgrades = [one for one in cold if _protocol(summary, one) == "websocket"]
    if upgrades and (text := _reach(upgrades, "part_upgrade")):
        spared = ", which SSE does not need" if len(upgrades) < len(cold) else ""
        said.append(f"over WebSocket {text} for the upgrade{spared}")
    return f"A cold stream takes {listed(said)}." if said else ""


def _encrypted(summary: Summary, cold: Sequence[Opening]) -> str:
    """What TLS adds, against an arm of the same protocol and library in the clear."""
    kinds = {arm.name: (arm.protocol, arm.stack) for arm in summary.arms}
    clear = {kinds[one.arm]: one for one in cold if one.handshake == "none"}
    said = []
    for one in cold:
        added = _difference(one, clear.get(kinds[one.arm])) if one.handshake != "none" else None
        if added is not None:
            said.append(f"{_ms(added)} with {_name(summary, one, cold)}")
    return f"Until the request is written TLS adds {listed(said)}." if said else ""


def _resumed(summary: Summary, cold: Sequence[Opening]) -> str:
    """What resuming saves by then, against full handshakes of the same arm in whichever phase has them."""
    full = {one.arm: one for one in reversed(summary.openings) if one.handshake == "fresh" and _usual(one)}
    said = []
    for one in cold:
        saved = _difference(full.get(one.arm), one) if one.handshake == "resumed" else None
        if saved is not None:
            said.append(f"{_ms(saved)} with {label(summary, one.arm)}")
    return f"Resuming saves {listed(said)} against full handshakes." if said else ""


def _first_token(summary: Summary, rows: Sequence[Opening]) -> str:
    said = []
    for one in rows:
        if one.temperature == "cold" and one.excess_ms is not None:
            warm = next((w.excess_ms for w in rows if (w.arm, w.temperature) == (one.arm, "warm")), None)
            against = f" cold and {_ms(warm.median)} warm" if warm is not None else ""
            said.append(f"{_ms(one.excess_ms.median)}{against} with {_name(summary, one, rows)}")
    return f"Less the model's own delay, the first token comes after {listed(said)}." if said else ""


def _bytes(summary: Summary, cold: Sequence[Opening]) -> str:
    said = [
        f"{_extent(one.sent)} and {_extent(one.received)} with {_name(summary, one, cold)}"
        for one in cold
        if one.sent is not None and one.received is not None
    ]
    return f"Bytes sent and received by then: {'; '.join(said)}." if said else ""


def _name(summary: Summary, one: Opening, rows: Sequence[Opening]) -> str:
    """The arm, and its handshake where it has several."""
    kinds = {other.handshake for other in rows if (other.arm, other.temperature) == (one.arm, "cold")}
    return label(summary, one.arm) + (_KINDS[one.handshake] if len(kinds) > 1 else "")


def _reach(rows: Sequence[Opening], step: str) -> str:
    """`0.45 ms`, or from the least to the most: `0.45 to 0.60 ms`; nothing of none."""
    medians = [found.median for one in rows if (found := one.steps_ms.get(step)) is not None]
    if not medians:
        return ""
    least, most = number(min(medians), 2), number(max(medians), 2)
    return f"{least} ms" if least == most else f"{least} to {most} ms"


def _difference(one: Opening | None, other: Opening | None) -> float | None:
    """By how much longer one took from TCP connected to the request's write (ms)."""
    if one is None or other is None or one.setup_ms is None or other.setup_ms is None:
        return None
    return one.setup_ms.median - other.setup_ms.median


def _usual(one: Opening) -> bool:
    return one.share >= _LEAST_SHARE


def _protocol(summary: Summary, one: Opening) -> str:
    return next(arm.protocol for arm in summary.arms if arm.name == one.arm)


def _ms(value: float) -> str:
    return f"{number(value, 2)} ms"


def _extent(found: Bytes | None) -> str:
    if found is None:
        return NONE
    least, most = number(found.least, 0), number(found.most, 0)
    return least if least == most else f"{least} to {most}"


def _time_grid(summary: Summary, entries: Sequence[Opening]) -> Grid:
    head = ["Phase", "Arm", "Connection", "Streams", "TCP connect", "TLS handshake", "Upgrade", "Request written"]
    head += ["Taken up", "First token written late", "Delivery", "First token, excess", "First token", "Reply’s head"]
    rows = [
        [
            one.phase,
            label(summary, one.arm),
            _kind(one),
            number(one.streams, 0),
            _own(one, "part_connect", one.temperature == "cold"),
            _own(one, "part_tls", one.handshake != "none"),
            _own(one, "part_upgrade", one.temperature == "cold" and _protocol(summary, one) == "websocket"),
            _own(one, "part_send", one.temperature == "cold"),
            *(_own(one, step, True) for step in ("part_takeup", "part_late", "part_delivery")),
            ranged(one.excess_ms, "ms"),
            ranged(one.first_token_ms, "ms"),
            ranged(one.head_ms, "ms"),
        ]
        for one in entries
    ]
    return Grid("Time: medians within a trial, of those the median over trials (lowest to highest)", head, rows)


def _own(one: Opening, step: str, has: bool) -> str:
    return ranged(one.steps_ms.get(step), "ms") if has else NONE


def _byte_grid(summary: Summary, entries: Sequence[Opening]) -> Grid:
    head = ["Phase", "Arm", "Connection", "Bytes sent before the first token", "Bytes received"]
    rows = [
        [one.phase, label(summary, one.arm), _kind(one), _extent(one.sent), _extent(one.received)] for one in entries
    ]
    caption = "Bytes until the first token, with the read that brought it: of every stream, or fewest to most"
    return Grid(caption, head, rows)
