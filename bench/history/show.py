"""A history on a terminal: what was added, and the change points."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.history import History
from bench.history.changes import ALPHA, FEWEST
from bench.history.series import few, looked_at, told
from bench.report.numbers import count

_WIDTH = 100
_FEW = 10


def print_history(history: History, console: Console) -> None:
    """Print what came of it."""
    width = min(console.width, _WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), width=width)

    for line in history.left_out[:_FEW]:
        say(line, "yellow")
    if len(history.left_out) > _FEW:
        say(f"... and {len(history.left_out) - _FEW} more left out", "yellow")
    again = f", {history.known} were there already" if history.known else ""
    say(f"{count(history.runs, 'run')} in the history: {history.added} added{again}.", "bold")
    found = list(told(history.groups))
    if found:
        table = Table(box=None, pad_edge=False, title="Change points", title_justify="left", title_style="bold")
        for head in ("measure", "arm", "machine", "between", "change", "", "what else changed there"):
            table.add_column(head, no_wrap=head in ("arm", "machine", "change", ""))
        for t in found:
            table.add_row(t.what, t.arm, t.machine_id[:8], t.between, f"{t.levels} ({t.moved})", t.p, t.also)
        console.print(table)
    looked = looked_at(history.groups)
    if looked and not found:
        say(f"No change point in {looked} series.")
    for name, points in few(history.groups):
        say(f"{name}: too few runs to look for changes: {points}, where it takes {FEWEST}.")
    if not history.groups:
        say("None of these runs has a primary measure, so that nothing is drawn.")
    if looked:
        say(
            f"In a series that never changed, any change point is found with a chance of at most {ALPHA:.0%}. Figures "
            "changed there, whether by the code or by the machine; `tokenwire gate` tells these apart.",
            "dim",
        )
    for path in history.written:
        say(str(path))
