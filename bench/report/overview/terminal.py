"""An overview on a terminal: what each network came to, a line each under every primary comparison."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report.estimates import effect
from bench.report.overview import words
from bench.report.overview.data import Overview
from bench.report.verdicts import CHIPS, brief

_WIDTH = 80
_COLOURS = {"faster": "green", "slower": "red", "equivalent": "cyan", "inconclusive": "yellow"}
_CHIP = max(map(len, CHIPS.values()))


def print_overview(overview: Overview, console: Console) -> None:
    """Print the overview in at most 80 columns."""
    width = min(console.width, _WIDTH)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), width=width)

    alarm = words.alarm(overview)
    if alarm:
        say(f"MODELLED: {alarm}", "bold red")
    say(overview.title, "bold")
    say(words.what_was_run(overview), "dim")
    for trouble in words.troubles(overview):
        say(f"{trouble.lead}: {trouble.text}" if trouble.lead else trouble.text, "red" if trouble.grave else "")
    known = {leg.network: leg for leg in overview.networks}
    name = max(map(len, known))
    for contrast, effects in words.by_contrast(overview):
        say(contrast, "bold")
        for e in effects:
            say(f"{words.what(e)}; smallest effect {effect(e.points[0].comparison)}")
            rows = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
            for fixed in (2, name, 9, _CHIP):
                rows.add_column(min_width=fixed, justify="right" if fixed == 9 else "left")
            rows.add_column()
            for point in e.points:
                chip = words.word(point)
                kind = " (modelled)" if known[point.network].kind == "modelled" else ""
                rows.add_row(
                    "", point.network, f"{point.round_trip_ms:g} ms", Text(chip, style=_COLOURS.get(chip, "")),
                    f"{brief(point.comparison)}{kind}",
                )  # fmt: skip
            console.print(rows, width=width)
            grown = words.growth(e.slope)
            if grown:
                say(f"   {grown}")
    say(f"Verdicts are for {overview.conditions}; intervals: 95 %, equivalent 90 %.", "dim")
