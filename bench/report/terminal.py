"""The summary on a terminal: what went wrong, then the few figures that are looked for first. Plain when piped."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.metrics import MEASURES, Phase, Summary
from bench.report.findings import findings
from bench.report.numbers import ALIKE, spread
from bench.report.tables import NO_GAPS

_WIDTH = 80
_FEW = 5
_Row = tuple[str, str, str]
_PACED: tuple[_Row, ...] = (
    ("ttft_excess", "p50", "first token, excess ms"),
    ("gap_excess", "p99", "gap p99, excess ms"),
    ("cpu_server", "value", "server CPU µs/token"),
)
_UNPACED: tuple[_Row, ...] = (("throughput", "value", "1000 tokens/s"), ("cpu_server", "value", "server CPU µs/token"))
_STEPS: tuple[_Row, ...] = (("capacity", "value", "capacity, users"),)


def print_summary(summary: Summary, console: Console) -> None:
    """Print the run in about thirty lines of at most 80 columns."""
    width = min(console.width, _WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), width=width)

    say(f"{summary.title}: {summary.trials_finished} of {summary.trials_planned} trials, mode {summary.mode}", "bold")
    trust = [f for f in findings(summary) if not f.lead]
    for finding in trust[:_FEW]:
        say(finding.text, "red" if finding.grave else "")
    if len(trust) > _FEW:
        say(f"... and {len(trust) - _FEW} more of this kind, in the report.", "red")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for arm in summary.arms:
        table.add_column(Text(arm.label), justify="left", min_width=16)
    for phase in summary.phases:
        _add(table, summary, phase)
    console.print(table, width=width)
    say("Median over trials (lowest to highest trial). No verdict is made here.", "dim")


def _add(table: Table, summary: Summary, phase: Phase) -> None:
    if not phase.trials:
        table.add_row(Text(f"{phase.name}: no trial", style="red"))
        return
    wanted = _STEPS if phase.load == "steps" else _PACED if phase.paced else _UNPACED
    table.add_row(Text(phase.name, style="bold"))
    for measure, statistic, title in wanted:
        window = MEASURES[measure].level == "window"
        for temperature in ("all",) if window else phase.temperatures:
            found = [summary.get(phase.name, a.name, temperature, measure, statistic) for a in summary.arms]
            cells = []
            for value in found:
                none = NO_GAPS if measure == "capacity" else "–"
                middle, reach = spread(value, 2, 1e-3 if measure == "throughput" else 1) if value else (none, "")
                cells.append(f"{middle} ({reach.replace(' to ', '–')})" if reach not in ("", ALIKE) else middle)
            mixed = len(phase.temperatures) > 1 and not window
            if any(found) or measure == "capacity":
                table.add_row(f"  {temperature + ' ' if mixed else ''}{title}", *cells)
