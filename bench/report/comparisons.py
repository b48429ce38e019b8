"""The comparisons in figures: verdicts, exploratory intervals and exact counters as tables."""

from __future__ import annotations

from bench.metrics import Comparison, Counter, Phase, Summary
from bench.report.estimates import about, against, effect, signed, span, unit_of, where
from bench.report.finding import Grid
from bench.report.numbers import number
from bench.report.tables import says_nothing
from bench.report.verdicts import CHIPS, given

NO_FIGURE = "–"
EXPLORED = (
    "Other arm against baseline, with 95 % intervals. Exploratory: there is no verdict, p-value or correction for the "
    "number of looks, so that one interval in twenty misses by chance."
)
_AMISS = {
    "lost": "chunks lost",
    "repeated": "chunks repeated",
    "reordered": "chunks out of order",
    "corrupted": "chunks altered",
    "failed": "streams not complete",
    "wire_bytes": "wire bytes per token",
    "segments": "TCP segments per token",
}


def verdict_grid(summary: Summary) -> Grid | None:
    """Every primary measure of every contrast with all that its verdict rests on; None where there is none."""
    conclusions = given(summary)
    if conclusions is None or not conclusions.primary:
        return None
    head = [
        "Measure", "Contrast", "Baseline", "Other", "Estimate", "95 % interval", "90 % interval", "Smallest effect",
        "p", "p (Holm)", "Blocks", "Verdict",
    ]  # fmt: skip
    rows = [_verdict_row(summary, c) for c in conclusions.primary]
    return Grid(
        "Primary measures: medians of both arms, and the other arm against the baseline, paired by block", head, rows
    )


def _verdict_row(summary: Summary, c: Comparison) -> list[str]:
    unit = unit_of(c)
    intervals = [
        f"{text} {unit}" if (text := span(c, *b)) else NO_FIGURE for b in ((c.low, c.high), (c.low90, c.high90))
    ]
    return [
        f"{where(c)}, {about(c)}",
        against(summary, c),
        *(_median(summary, c, arm) for arm in (c.baseline, c.other)),
        f"{signed(c, c.estimate)} {unit}",
        *intervals,
        effect(c),
        *(NO_FIGURE if p is None else _p(p) for p in (c.p, c.p_holm)),
        str(len(c.blocks)),
        "not given" if summary.state == "invalid" else CHIPS[c.verdict],
    ]


def _median(summary: Summary, c: Comparison, arm: str) -> str:
    value = summary.get(c.phase, arm, c.temperature, c.measure, c.statistic)
    return f"{number(value.median)} {value.unit}".strip() if value else NO_FIGURE


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def explored(summary: Summary, phase: Phase) -> Grid | None:
    """Every other measure of a phase, a column per contrast; None where nothing was compared."""
    if summary.conclusions is None:
        return None
    own = [
        c
        for c in summary.conclusions.exploratory
        if c.phase == phase.name and not says_nothing(c.measure, phase)
    ]  # fmt: skip
    contrasts = {c.contrast: against(summary, c) for c in own}
    rows: dict[str, dict[str, str]] = {}
    for c in own:
        prefix = "" if c.temperature == "all" or len(phase.temperatures) < 2 else f"{c.temperature} "
        row = rows.setdefault(f"{prefix}{about(c)}{', advisory' if c.advisory else ''}", {})
        interval = span(c, c.low, c.high)
        row[c.contrast] = f"{signed(c, c.estimate)} {unit_of(c)}" + (f" ({interval})" if interval else "")
    if not rows:
        return None
    body = [
        [f"{name[0].upper()}{name[1:]}", *(cells.get(c, NO_FIGURE) for c in contrasts)] for name, cells in rows.items()
    ]
    return Grid(EXPLORED, ["Measure", *contrasts.values()], body)


def counter_grid(summary: Summary) -> Grid | None:
    """Exact counters: of the wire, and of tokens and streams where any was amiss; None where there are none."""
    counters = summary.conclusions.counters if summary.conclusions else []
    shown = [c for c in counters if c.measure not in AMISS or c.baseline_value or c.other_value]
    if not shown:
        return None
    known = {a.name: a.label for a in summary.arms}
    rows = [
        [
            f"Phase {c.phase}{'' if c.temperature in ('all', c.phase) else ', ' + c.temperature}, {_AMISS[c.measure]}",
            f"{known[c.other]} against {known[c.baseline]}",
            *counted(c),
            {"more": "more", "fewer": "fewer", "same": "the same", "varies": "varies by block"}[c.finding],
        ]
        for c in shown
    ]
    return Grid(
        "Counters: exact, without an interval, where every block agrees to the digit",
        ["Counter", "Contrast", "Baseline", "Other", "Finding"],
        rows,
    )


AMISS = ("lost", "repeated", "reordered", "corrupted", "failed")


def counted(c: Counter) -> tuple[str, str]:
    """Both figures, with as many decimals as tell them apart."""
    a, b = c.baseline_value, c.other_value
    if c.measure in AMISS:
        return number(a, 0), number(b, 0)
    places = next((p for p in (1, 2, 3, 4) if a == b or f"{a:.{p}f}" != f"{b:.{p}f}"), 5)
    return number(a, places), number(b, places)
