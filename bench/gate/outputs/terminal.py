"""The gate on a terminal: the verdict, what decides, why, and where the rest is. Plain when piped."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.gate.outputs.figures import (
    chart,
    counted_as,
    effect,
    headline,
    interval,
    label,
    plain,
    smallest,
    tally,
    values,
)
from bench.gate.result import Decision, Finding, Gate, Row
from bench.report.numbers import count

_WIDE = 110
"""Columns from which the chart fits beside the numbers."""
_MOST = 30
_FEW = 5
_DECISIONS: dict[Decision, str] = {
    "pass": "bold green",
    "regression": "bold red",
    "invalid": "bold red",
    "inconclusive": "bold yellow",
}
_FINDINGS: dict[Finding, str] = {"regression": "red", "inconclusive": "yellow", "improvement": "green"}


def print_gate(gate: Gate, console: Console) -> None:
    """Print what the gate comes to, a line or two per measure that decides, and where the run is."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(plain(text), style=style))

    say(headline(gate), _DECISIONS[gate.decision])
    for side in (gate.base, gate.head):
        changed = ", with changes that are in no commit" if side.changed else ""
        say(f"{side.name}: {side.what}{changed}", "dim")
    if gate.decision != "invalid":
        _print_rows(gate, console)
    why = [*gate.reasons[1:], *filter(None, [counted_as(gate)]), *gate.notes]
    for sentence in why[:_FEW]:
        say(f"- {sentence}")
    if len(why) > _FEW:
        say(f"... and {len(why) - _FEW} more of this kind, in gate.md.")
    void = f", {len(gate.voids)} void" if gate.voids else ""
    say(f"{count(gate.blocks, 'valid block')}{void}. {' and '.join(gate.runs)}", "dim")


def _print_rows(gate: Gate, console: Console) -> None:
    deciding = [row for row in gate.rows if row.decides]
    console.print(Text(f"{tally(gate.rows)}."))
    # Exact counts are many and nearly always alike: only the others are worth a line.
    shown = [row for row in deciding if row.kind != "count" or row.finding != "same"]
    if shown:
        console.print(_table(shown[:_MOST], wide=console.width >= _WIDE))
    if len(shown) > _MOST:
        console.print(Text(f"... and {count(len(shown) - _MOST, 'more row')}, in gate.md."))
    advice = [row for row in gate.rows if not row.decides]
    worse = [row for row in advice if row.finding == "regression"]
    if advice:
        console.print(Text(f"Advice, which does not decide: {count(len(advice), 'measure')}, {len(worse)} worse."))
    for row in worse[:_FEW]:
        console.print(Text(f"- {plain(row.sentence)}"))
    if len(worse) > _FEW:
        console.print(Text(f"... and {len(worse) - _FEW} more worse, in gate.md."))


def _table(rows: Sequence[Row], *, wide: bool) -> Table:
    """Two lines a row; with the chart where that fits."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("finding", no_wrap=True)
    table.add_column("measure")
    table.add_column("base →\nhead", justify="right", no_wrap=True)
    table.add_column("effect\n(95 %)", justify="right", no_wrap=True)
    table.add_column("counts\nfrom", justify="right", no_wrap=True)
    drawn = wide and any(map(chart, rows))
    if drawn:
        table.add_column("better · worse", no_wrap=True)
    for row in rows:
        base, head = values(row)
        place = ", ".join(part for part in (row.where, row.arm) if part)
        cells = [
            Text(label(row), style=_FINDINGS.get(row.finding, "")),
            Text("\n".join(plain(part) for part in (row.title, place) if part)),
            Text(f"{base} →\n{head} {row.unit}".rstrip()),
            Text("\n".join(filter(None, (effect(row), interval(row))))),
            Text(smallest(row)),
        ]
        table.add_row(*cells, *([Text(chart(row))] if drawn else []))
    return table
