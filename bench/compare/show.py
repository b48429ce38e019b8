"""Two runs beside each other on a terminal, or as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.compare import CONFIDENCE, Compared, Count, Fact, Shift, Side
from bench.measures import MEASURES
from bench.report.numbers import count, decimals, listed, number

_WIDTH = 100
_MOST_FACTS = 30
_LONGEST = 60
_LOOKED_FOR = ("excess", "recovery", "cost")
_Say = Callable[..., None]

_WHY = {"machine": "the machine is another", "work": "what was measured is not the same"}


def as_json(compared: Compared) -> str:
    """All of it, indented."""
    return msgspec.json.format(msgspec.json.encode(compared), indent=1).decode()


def print_compared(compared: Compared, console: Console) -> None:
    """Print the warning, what differs about the runs, and then what is compared."""
    width = min(console.width, _WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), width=width)

    say(compared.warning, "bold yellow")
    say(f"First:  {_side(compared.first)}")
    say(f"Second: {_side(compared.second)}")
    for caution in compared.cautions:
        say(caution, "red")
    _print_facts(compared, say)
    _print_shifts(compared, console, say)
    _print_counters(compared, console, say)
    _print_ratios(compared, console, say)


def _side(side: Side) -> str:
    parts = [side.run, side.created, side.revision, count(side.blocks, "block")]
    return ", ".join(part for part in parts if part)


def _print_facts(compared: Compared, say: _Say) -> None:
    if compared.facts:
        say("What is not the same about them (first → second):", "bold")
    for fact in compared.facts[:_MOST_FACTS]:
        say(f"  {_fact(fact)}", "yellow" if fact.kind in ("machine", "work", "arm") else "")
    if len(compared.facts) > _MOST_FACTS:
        say(f"  ... and {len(compared.facts) - _MOST_FACTS} more")
    why = list(dict.fromkeys(_WHY[fact.kind] for fact in compared.facts if fact.kind in _WHY))
    apart = list(dict.fromkeys(fact.arm for fact in compared.facts if fact.kind == "arm"))
    if why:
        say(
            f"As {listed(why)}, only what must be exact is compared, and, as advice, the ratios between the arms of "
            "each run.",
            "bold",
        )
    elif apart:
        say(f"Not compared in full, as they are not the same in both: {listed(apart)}.", "bold")


def _fact(fact: Fact) -> str:
    first, second = (v if len(v) <= _LONGEST else f"{v[:_LONGEST]}…" for v in (fact.first, fact.second))
    return f"{fact.name}: {first} → {second}"


def _print_shifts(compared: Compared, console: Console, say: _Say) -> None:
    """Of every arm the measures that are looked for first, and of the others those that moved."""
    for arm in compared.full:
        told = [s for s in compared.shifts if s.arm == arm]
        shown = [s for s in told if s.beyond or MEASURES[s.measure].kind in _LOOKED_FOR]
        if not told:
            continue
        say(arm, "bold")
        table = Table(box=None, pad_edge=False)
        for head in ("", "first", "second", "change", "95 % interval", ""):
            table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
        for phase in dict.fromkeys(s.phase for s in shown):
            own = [s for s in shown if s.phase == phase]
            mixed = len({s.temperature for s in own} - {"all"}) > 1
            table.add_row(Text(phase, style="bold"))
            for s in own:
                table.add_row(*_cells(s, mixed=mixed))
        console.print(table)
        if len(shown) < len(told):
            say(f"{len(told) - len(shown)} more, totals and parts, none of them beyond.", "dim")
    judged = [s for s in compared.shifts if s.beyond is not None]
    if judged:
        moved = sum(bool(s.beyond) for s in judged)
        say(
            f"Beyond what either run's blocks scatter: {moved} of {len(judged)}. By chance alone it would be about "
            f"{(1 - CONFIDENCE) * len(judged):.1f}, if nothing had changed.",
            "bold",
        )
    elif compared.shifts:
        say("Too few blocks for intervals: they take four in each run.", "bold")


def _cells(s: Shift, *, mixed: bool) -> list[str | Text]:
    measure = MEASURES[s.measure]
    streams = f"{s.temperature} " if mixed and s.temperature != "all" else ""
    statistic = "" if s.statistic == "value" else f" {s.statistic}"
    places = decimals(max(abs(s.first), abs(s.second)))
    beyond = {None: "too few blocks", True: "beyond", False: "within"}[s.beyond]
    return [
        f"  {streams}{measure.title}{statistic}{', ' + s.unit if s.unit else ''}",
        number(s.first, places),
        number(s.second, places),
        _signed(s, s.estimate, unit=True),
        "" if s.low is None or s.high is None else f"{_signed(s, s.low)} to {_signed(s, s.high)}",
        Text(beyond, style="yellow" if s.beyond else "dim"),
    ]


def _signed(s: Shift, value: float, *, unit: bool = False) -> str:
    factor = 100.0 if s.scale == "ratio" else 1.0
    sizes = [abs(v) * factor for v in (s.estimate, s.low, s.high) if v]
    places = min(3, max(0, 1 - math.floor(math.log10(max(sizes))))) if sizes else 1
    text = number(value * factor, places)
    sign = "+" if value > 0 and text.strip("0.") else ""
    return f"{sign}{text}{(' %' if s.scale == 'ratio' else ' ' + s.unit) if unit else ''}"


def _print_counters(compared: Compared, console: Console, say: _Say) -> None:
    """A line each where something differs or went wrong, one line for all others."""
    loud = [c for c in compared.counters if c.finding != "same" or (c.measure not in _SIZES and c.first)]
    quiet = len(compared.counters) - len(loud)
    if loud:
        table = Table(box=None, pad_edge=False, title="Exact counters", title_justify="left", title_style="bold")
        for head in ("", "first", "second", "the second has"):
            table.add_column(head, justify="right" if head in ("first", "second") else "left")
        for c in loud:
            table.add_row(_counted(c), *_amounts(c), "the same" if c.finding == "same" else c.finding)
        console.print(table)
    if quiet:
        say(f"{count(quiet, 'exact counter')}{' more' if loud else ''}: the same in both runs.")


_SIZES = ("wire_bytes", "segments")
_COUNTED = {
    "lost": "chunks lost",
    "repeated": "chunks repeated",
    "reordered": "chunks out of order",
    "corrupted": "chunks altered",
    "failed": "streams not complete",
}


def _counted(c: Count) -> str:
    where = c.phase if c.temperature in ("all", c.phase) else f"{c.phase} {c.temperature}"
    return f"{c.arm}, {where}: {_COUNTED.get(c.measure) or MEASURES[c.measure].title}"


def _amounts(c: Count) -> tuple[str, str]:
    if c.measure in _SIZES:
        places = next((p for p in (1, 2, 3, 4) if f"{c.first:.{p}f}" != f"{c.second:.{p}f}"), 1)
        return number(c.first, places), number(c.second, places)
    first, second = (
        f"{number(v, 0)} in {count(n, 'trial')}" for v, n in zip((c.first, c.second), c.trials, strict=True)
    )
    return first, second


def _print_ratios(compared: Compared, console: Console, say: _Say) -> None:
    if not compared.ratios:
        return
    table = Table(box=None, pad_edge=False)
    for head in ("", "first", "second"):
        table.add_column(head, justify="right" if head else "left")
    for r in compared.ratios:
        where = r.phase if r.temperature in ("all", r.phase) else f"{r.phase} {r.temperature}"
        name = f"{r.other} against {r.baseline}, {where}: {MEASURES[r.measure].title}"
        table.add_row(name, _share(r.first, r.first_interval), _share(r.second, r.second_interval))
    say("Advice: ratios between arms, each within its run, whose blocks ran side by side:", "bold")
    console.print(table)


def _share(value: float, bounds: tuple[float, float] | None) -> str:
    inner = f" ({_percent(bounds[0])} to {_percent(bounds[1])})" if bounds else ""
    return f"{_percent(value)} %{inner}"


def _percent(value: float) -> str:
    text = number(100 * value, 1)
    return f"+{text}" if value > 0 and text.strip("0.") else text
