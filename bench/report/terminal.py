"""The summary on a terminal: the verdicts, what went wrong, then the few figures looked for first. Plain when piped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.metrics import MEASURES, Comparison, Phase, Summary, Value
from bench.report.estimates import about, against, effect, probability
from bench.report.findings import findings
from bench.report.numbers import ALIKE, count, spread
from bench.report.sections import Section, opening, sections
from bench.report.tables import NO_GAPS
from bench.report.validity import invalid, results
from bench.report.verdicts import CHIPS, brief, conditions, verdicts

_WIDTH = 80
_FEW = 5
_CHIP = max(map(len, CHIPS.values()))
_COLOURS = {"faster": "green", "slower": "red", "equivalent": "cyan", "inconclusive": "yellow"}
_Row = tuple[str, str, str]
_PACED: tuple[_Row, ...] = (
    ("ttft_excess", "p50", "first token, excess ms"),
    ("gap_excess", "p99", "gap p99, excess ms"),
)
_UNPACED: tuple[_Row, ...] = (("throughput", "value", "1000 tokens/s"),)
_CPU: _Row = ("cpu_server", "value", "server CPU µs/token")
_CPU_STREAM: _Row = ("cpu_server_stream", "value", "server CPU ms/stream")
_STEPS: tuple[_Row, ...] = (("capacity", "value", "capacity, users"),)


class _Line(NamedTuple):
    """A measure with a cell per arm, or a heading without."""

    title: str
    cells: list[str]
    style: str = ""


def print_summary(summary: Summary, console: Console) -> None:
    """Print the run in about thirty lines of at most 80 columns, or more lines where columns are few."""
    width = min(console.width, _WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), width=width)

    alarm = invalid(summary)
    if alarm:
        say(alarm, "bold red")
    say(f"{summary.title}: {summary.trials_finished} of {summary.trials_planned} trials, mode {summary.mode}", "bold")
    _print_verdicts(summary, console, width)
    trust = [*(f for f in findings(summary) if f.grave or not f.lead), *results(summary)]
    for finding in trust[:_FEW]:
        say(f"{finding.lead}: {finding.text}" if finding.lead else finding.text, "red" if finding.grave else "")
    if len(trust) > _FEW:
        say(f"... and {len(trust) - _FEW} more of this kind, in the report.", "red")
    _print_figures(summary, console)
    _print_sections(sections(summary), say)
    say("Median over trials (lowest to highest trial).", "dim")


def _print_sections(told: list[Section], say: Callable[[str, str], None]) -> None:
    """What only some runs have, the first sentences of each; what a connection costs, where nothing else is told."""
    for section in told if len(told) == 1 else [one for one in told if one.title != opening.TITLE]:
        say(section.title, "bold")
        for finding in section.findings[:_FEW]:
            say(f"{finding.lead}: {finding.text}" if finding.lead else finding.text, "red" if finding.grave else "")
        if len(section.findings) > _FEW:
            say(f"... and {len(section.findings) - _FEW} more of this kind, in the report.", "dim")


def _print_verdicts(summary: Summary, console: Console, width: int) -> None:
    """A heading per contrast, and below it a line per measure that begins with the verdict's label."""
    conclusions = summary.conclusions
    told = verdicts(summary)
    if conclusions is None or not told:
        return
    if len(told) == 1 and not told[0].lead:
        console.print(Text(told[0].text), width=width)
        return
    of = ""
    for verdict, c in zip(told, conclusions.primary, strict=True):
        if c.contrast != of:
            of = c.contrast
            console.print(Text(against(summary, c), style="bold"), width=width)
        line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        line.add_column(width=_CHIP, no_wrap=True)
        line.add_column()
        chip = Text(verdict.chip, style=_COLOURS.get(verdict.verdict, ""))
        what = f"{c.phase} {about(c)}".replace(" (", ", ").replace(")", "")
        line.add_row(chip, Text(f"{what}: {brief(c)}{_remark(c)}"))
        console.print(line, width=width)
    console.print(
        Text(f"Verdicts are for {conditions(summary)}; intervals: 95 %, equivalent 90 %.", style="dim"), width=width
    )


def _remark(c: Comparison) -> str:
    if c.verdict in ("faster", "slower") and c.p_holm is not None:
        return f", {probability(c.p_holm)}"
    if c.verdict == "equivalent":
        return f", within ±{effect(c)}"
    if c.verdict == "inconclusive":
        return f", needs ~{c.blocks_to_decide} blocks" if c.blocks_to_decide else ", needs > 1000 blocks"
    return f", {count(len(c.blocks), 'block')}"


def _print_figures(summary: Summary, console: Console) -> None:
    """A column per arm where that fits, if need be with ranges below; else a block per arm: no figure is ever cut."""
    lines = [line for phase in summary.phases for line in _lines(summary, phase)]
    labels = [a.label for a in summary.arms]
    stacked = [line._replace(cells=[cell.replace(" (", "\n(") for cell in line.cells]) for line in lines]
    for some in (lines, stacked):
        first = max((cell_len(line.title) for line in some if line.cells), default=0)
        words = [[w for line in some if line.cells for w in line.cells[i].split("\n")] for i in range(len(labels))]
        widths = [max(map(cell_len, [*own, *label.split()])) for own, label in zip(words, labels, strict=True)]
        if first + sum(widths) + len(widths) <= console.width:
            _print_table(some, labels, (first, widths), console)
            return
    for i, label in enumerate(labels):
        console.print(Text(label, style="bold underline"))
        _print_block(lines, i, console)


def _print_table(lines: list[_Line], labels: list[str], needed: tuple[int, list[int]], console: Console) -> None:
    first, widths = needed
    spare = (console.width - first) // len(widths) - 1 if widths else 0
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    fits = (
        first + sum(max(w, min(cell_len(n), spare)) + 1 for n, w in zip(labels, widths, strict=True)) <= console.width
    )
    for label, width in zip(labels, widths, strict=True):
        table.add_column(Text(label), width=max(width, min(cell_len(label), spare)) if fits else width)
    for line in lines:
        table.add_row(Text(line.title, style=line.style), *map(Text, line.cells))
    console.print(table)


def _print_block(lines: list[_Line], arm: int, console: Console) -> None:
    for line in lines:
        if not line.cells:
            console.print(Text(line.title, style=line.style))
        elif cell_len(line.title) + 1 + cell_len(line.cells[arm]) <= console.width:
            console.print(Text(f"{line.title} {line.cells[arm]}"))
        else:
            console.print(Text(line.title))
            console.print(Text(f"    {line.cells[arm]}"))


def _lines(summary: Summary, phase: Phase) -> Iterator[_Line]:
    if not phase.trials:
        yield _Line(f"{phase.name}: no trial", [], "red")
        return
    yield _Line(phase.name, [], "bold")
    for measure, statistic, title in _wanted(phase):
        window = MEASURES[measure].level == "window"
        for temperature in ("all",) if window else phase.temperatures:
            found = [summary.get(phase.name, a.name, temperature, measure, statistic) for a in summary.arms]
            mixed = len(phase.temperatures) > 1 and not window
            if any(found) or measure == "capacity":
                yield _Line(f"  {temperature + ' ' if mixed else ''}{title}", [_cell(measure, v) for v in found])


def _wanted(phase: Phase) -> tuple[_Row, ...]:
    """What is looked for first; CPU of cold streams is mostly that of their connections, so it is per stream."""
    if phase.load == "steps":
        return _STEPS
    cpu = _CPU_STREAM if phase.settings["connections"] == "cold" else _CPU
    return (*(_PACED if phase.paced else _UNPACED), cpu)


def _cell(measure: str, value: Value | None) -> str:
    if value is None:
        return NO_GAPS if measure == "capacity" else "–"
    middle, reach = spread(value, 2, 1e-3 if measure == "throughput" else 1)
    return f"{middle} ({reach.replace(' to ', '–')})" if reach not in ("", ALIKE) else middle
