"""The figures as people read them: on a terminal, as report.html (which is the live page too), as distributed.json.

Meant for the master. Loads no pandas: a page that is looked at while a test runs must not hold that up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.files import write_whole
from bench.measures import FEWEST_BEYOND
from bench.report.style import TONES
from bench.swarm.conclusion import Conclusion
from bench.swarm.figures import MEASURES, PROTOCOLS, Figures, Row, Tally, title_of
from bench.wire.events import meaning

JSON_FILE, HTML_FILE = "distributed.json", "report.html"
_NARROW, _MINUS, _NONE = "\u202f", "\u2212", "–"
_LABELS = {"invalid": "Invalid", "degraded": "Degraded", "fine": ""}
_CHARTS = (("gap_excess", "icl"), ("ttft_excess_warm", "ttft_warm"), ("ttft_excess_cold", "ttft_cold"))
"""A chart of the first measure of each that there is."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 230, 58, 20, 12, 40
"""Of a chart, and of its margins."""


class Line(NamedTuple):
    """One protocol in a chart: its name, its tone, the points of its line and where that ends."""

    title: str
    tone: str
    points: str
    end: tuple[float, float]


class Chart(NamedTuple):
    """Percentiles of a measure by protocol. Ticks are a place and what stands there."""

    title: str
    lines: list[Line]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def as_json(figures: Figures, conclusion: Conclusion | None = None, *, title: str = "") -> bytes:
    """distributed.json: every number of the page, in ms where a name ends so."""
    whole = {"format": 1, "title": title, "conclusion": conclusion, **msgspec.structs.asdict(figures)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def page(figures: Figures, conclusion: Conclusion | None = None, *, title: str = "", refresh_s: int = 0) -> str:
    """report.html, in one file that needs no network; it loads itself anew every `refresh_s` seconds, where not 0."""
    loader = ChoiceLoader([PackageLoader("bench.swarm", "templates"), PackageLoader("bench.report", ".")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"ms": ms, "count": count, "share": share, "protocol": title_of}
    by_measure = sorted(figures.rows, key=lambda row: list(MEASURES).index(row.measure))
    return environment.get_template("distributed.html.j2").render(
        title=title or "Distributed load",
        what=what(figures),
        figures=figures,
        conclusion=conclusion,
        label=_LABELS[conclusion.state] if conclusion else "",
        refresh_s=refresh_s,
        groups=[(MEASURES[key], list(rows)) for key, rows in groupby(by_measure, lambda row: row.measure)],
        charts=charts(figures),
        size=(_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM),
        ends=[(title_of(tally.protocol), list(_ends(tally))) for tally in figures.tallies],
        tones=TONES,
        tone_of={protocol: _tone(protocol) for protocol in {row.protocol for row in figures.rows}},
        fewest=FEWEST_BEYOND,
    )


def write(folder: Path, figures: Figures, conclusion: Conclusion | None = None, *, title: str = "") -> dict[str, Path]:
    """Write distributed.json and report.html into a folder that exists; return the paths by name. Raises `OSError`."""
    return {
        "json": write_whole(folder / JSON_FILE, as_json(figures, conclusion, title=title)),
        "html": write_whole(folder / HTML_FILE, page(figures, conclusion, title=title)),
    }


def print_terminal(figures: Figures, console: Console, conclusion: Conclusion | None = None) -> None:
    """Print what is wrong, then a line per measure and protocol; nothing is cut where columns are few."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style))

    if conclusion and conclusion.state != "fine":
        say(f"{_LABELS[conclusion.state]}:", "bold red")
    for reason in conclusion.reasons if conclusion else figures.missing:
        say(reason, "red")
    say(what(figures), "bold")
    for tally in figures.tallies:
        ended = ", ".join(f"{count(n)} {outcome}" for outcome, n in tally.outcomes.items()) or "none ended"
        say(f"{title_of(tally.protocol)}: {ended}, {count(tally.open)} open; {count(tally.counts.tokens)} tokens")
    _print_rows(figures, console)
    for remark in figures.remarks:
        say(remark, "dim")


def _print_rows(figures: Figures, console: Console) -> None:
    """A table where it fits, else a sentence for each row."""
    heads = ("", "count", "p50", "p90", "p99", "p99.9", "max")
    lines = []
    for row in sorted(figures.rows, key=lambda row: list(MEASURES).index(row.measure)):
        some = row.p50_ms, row.p90_ms, row.p99_ms, row.p99_9_ms, row.max_ms
        lines.append((MEASURES[row.measure].title, title_of(row.protocol), count(row.count), *map(ms, some)))
    if not lines:
        return
    widths = [max(map(len, column)) for column in zip(("ms", *heads), *lines, strict=True)]
    if sum(widths) + len(widths) > console.width:
        for title, protocol, *cells in lines:
            told = ", ".join(f"{head} {cell}" for head, cell in zip(heads[1:], cells, strict=True))
            console.print(Text(f"{title}, {protocol} (ms): {told}"))
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("ms", no_wrap=True)
    for head in heads:
        table.add_column(head, no_wrap=True, justify="right" if head else "left")
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)


def what(figures: Figures) -> str:
    """What the figures are of, in a line."""
    ended, tokens = (sum(getattr(t.counts, key) for t in figures.tallies) for key in ("ended", "tokens"))
    states = [worker.state for worker in figures.workers]
    gone = [f"{states.count(state)} {state}" for state in ("lost", "left") if state in states]
    workers = f"{len(states)} worker{'' if len(states) == 1 else 's'}" + (f" ({', '.join(gone)})" if gone else "")
    return f"{workers}, {figures.elapsed_s:.1f} s, {count(ended)} streams ended, {count(tokens)} tokens received"


def ms(value: float | None) -> str:
    """A duration in ms to the microsecond; a dash for none."""
    if value is None:
        return _NONE
    text = f"{abs(value):,.3f}".replace(",", _NARROW)
    return (_MINUS if value < 0 and text.strip("0.") else "") + text


def count(n: int) -> str:
    """A number of things, thousands apart."""
    return f"{n:,}".replace(",", _NARROW)


def share(value: float | None) -> str:
    """A share as a percentage; a dash for none."""
    return _NONE if value is None else f"{100 * value:.1f} %"


def charts(figures: Figures) -> list[Chart]:
    """A chart for each kind of measure that has curves."""
    found = []
    for keys in _CHARTS:
        for key in keys:
            rows = [row for row in figures.rows if row.measure == key and len(_upper(row)) > 2]
            if rows:
                found.append(_chart(MEASURES[key].title, rows))
                break
    return found


def _chart(title: str, rows: list[Row]) -> Chart:
    """Rarity to the right, so that what only one in a thousand sees has as much room as what half of all see."""
    points = {row.protocol: _upper(row) for row in rows}
    values = [value for some in points.values() for _, value in some]
    step = _step(max(*values, 0.0) - min(*values, 0.0))
    low, high = math.floor(min(*values, 0.0) / step) * step, math.ceil(max(*values, 0.0) / step) * step
    high += step * (high == low)
    first, last = _rarity(50), max(_rarity(p) for some in points.values() for p, _ in some)

    def x(p: float) -> float:
        return round(_LEFT + (_rarity(p) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    lines = [
        Line(
            title_of(protocol),
            _tone(protocol),
            " ".join(f"{x(p)},{y(v)}" for p, v in some),
            (x(some[-1][0]), y(some[-1][1])),
        )
        for protocol, some in points.items()
    ]
    across = [(x(p), f"p{p:g}") for p in (50, 90, 99, 99.9, 99.99) if _rarity(p) <= last + 1e-9]
    ticks = range(round(low / step), round(high / step) + 1)
    return Chart(title, lines, across, [(y(tick * step), f"{tick * step:g}".replace("-", _MINUS)) for tick in ticks])


def _upper(row: Row) -> list[tuple[float, float]]:
    return [point for point in row.curve if point[0] >= 50]


def _rarity(p: float) -> float:
    return -math.log10(1 - p / 100)


def _step(span: float) -> float:
    """Between ticks: 1, 2 or 5 times a power of ten, so that there are some five."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(power * by for by in (1, 2, 5, 10) if span / (power * by) <= 5)


def _tone(protocol: str) -> str:
    known = list(PROTOCOLS)
    return f"arm{known.index(protocol) if protocol in known else len(known)}"


def _ends(tally: Tally) -> Iterator[tuple[str, str, int, str]]:
    """How streams ended: outcomes, then the reasons for them and what these mean."""
    yield from (("outcome", outcome, n, "") for outcome, n in tally.outcomes.items())
    yield from (("reason", reason, n, meaning(reason)) for reason, n in tally.reasons.items())
