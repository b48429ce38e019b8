"""The tables of a report as plain rows, for HTML, Markdown and the terminal to dress."""

from __future__ import annotations

from typing import NamedTuple

from bench.metrics import KINDS, MEASURES, Kind, Measure, Phase, Summary, Value
from bench.report.numbers import number, spread

_NAMES = {"p50": "median", "p90": "p90", "p99": "p99", "p99.9": "p99.9", "value": ""}
NO_GAPS = "no gaps"
"""In place of a capacity that could not be judged."""
CEILING = (
    "The ceiling is what a server without a library, which only writes prepared bytes, reached on this machine with "
    "this driver, over the same protocol: the most there is to reach"
)
_NEEDS_PACE = {"gap_excess", "lateness", "delivery", "icl", "tpot", "max_stall"}
"""Measures that say something only where tokens are due at times of their own."""


class Cell(NamedTuple):
    """The median over trials and its range, as text; both empty where there is no figure."""

    middle: str
    reach: str


class Row(NamedTuple):
    """One measure: its name with the statistic, its unit, and a cell per arm."""

    title: str
    unit: str
    meaning: str
    cells: list[Cell]


class Section(NamedTuple):
    """Rows of one kind."""

    title: str
    rows: list[Row]


class Table(NamedTuple):
    """A phase at one temperature: columns are the arms."""

    caption: str
    arms: list[str]
    sections: list[Section]


def phase_tables(summary: Summary, phase: Phase) -> list[Table]:
    """The tables of a phase: one per temperature, and for `steps` one with a row per step."""
    labels = [a.label for a in summary.arms]
    if phase.load == "steps":
        return [
            Table(
                "p99 gap excess by users: median over trials, lowest to highest trial", labels, _steps(summary, phase)
            )
        ]
    tables = []
    for temperature in phase.temperatures:
        last = temperature == phase.temperatures[-1]
        kinds: tuple[Kind, ...] = ("excess", "total", "part", "recovery", "cost")
        sections = [_section(summary, phase, temperature, kind, whole=last) for kind in kinds]
        caption = f"{temperature.capitalize()} streams: median over trials, lowest to highest trial"
        tables.append(Table(caption, labels, [s for s in sections if s.rows]))
    return tables


def _section(summary: Summary, phase: Phase, temperature: str, kind: Kind, *, whole: bool) -> Section:
    rows = []
    for key, measure in MEASURES.items():
        if measure.kind != kind or says_nothing(key, phase):
            continue
        of_phase = measure.level in ("window", "outage")
        if of_phase and not whole:
            continue
        where = "all" if of_phase else temperature
        for statistic in measure.statistics:
            found = [summary.get(phase.name, a.name, where, key, statistic) for a in summary.arms]
            if any(found):
                rows.append(row(measure, statistic, found, paced=phase.paced))
                rows += _of_ceiling(summary, phase, measure, found)
    return Section(KINDS[kind], rows)


def says_nothing(measure: str, phase: Phase) -> bool:
    """Whether a measure, though it has a figure, is of no use in such a phase."""
    return (not phase.paced and measure in _NEEDS_PACE) or (measure == "ttft_intended" and phase.load != "open")


def row(measure: Measure, statistic: str, found: list[Value | None], *, paced: bool = True) -> Row:
    """A row of one measure; an arm without the figure has an empty cell."""
    title = measure.title
    if measure.key == "throughput" and paced:
        title = "Tokens per second achieved"
    name = _NAMES[statistic]
    cells = [Cell(*spread(v)) if v else Cell("", "") for v in found]
    return Row(f"{title}, {name}" if name else title, measure.unit, measure.meaning, cells)


def _of_ceiling(summary: Summary, phase: Phase, measure: Measure, found: list[Value | None]) -> list[Row]:
    """A row beside a figure: each arm's share of its protocol's ceiling, or how many times the least cost it takes."""
    ceilings = {c.protocol: c.value for c in summary.ceilings if (c.phase, c.measure) == (phase.name, measure.key)}
    if not any(ceilings.values()) or (measure.key == "throughput" and phase.paced):
        return []
    cells = []
    for arm, value in zip(summary.arms, found, strict=True):
        ceiling = ceilings.get(arm.protocol)
        if not value or not ceiling:
            cells.append(Cell("", ""))
        elif measure.more_is_better:
            cells.append(Cell(f"{number(100 * value.median / ceiling, 0)} % of the ceiling", ""))
        else:
            cells.append(Cell(f"{number(value.median / ceiling, 1)}× the ceiling’s", ""))
    return [Row(f"{measure.title}, beside the ceiling", "", CEILING, cells)]


def _steps(summary: Summary, phase: Phase) -> list[Section]:
    users = sorted({v.users for v in summary.values if v.phase == phase.name and v.users})
    rows = []
    for step in users:
        found = [summary.get(phase.name, a.name, "all", "gap_excess", "p99", step) for a in summary.arms]
        cells = [Cell(*spread(v)) if v else Cell("", "") for v in found]
        rows.append(Row(f"{step} users", "ms", MEASURES["gap_excess"].meaning, cells))
    capacity = [summary.get(phase.name, a.name, "all", "capacity") for a in summary.arms]
    sections = [Section("p99 gap excess", rows)]
    if phase.trials:
        limit = f"Capacity (p99 gap excess within {phase.limit_ms:g} ms)"
        one = row(MEASURES["capacity"], "value", capacity)
        of = zip(summary.arms, capacity, one.cells, strict=True)
        ran = [Cell(NO_GAPS, "") if arm.trials and not value else cell for arm, value, cell in of]
        beside = _of_ceiling(summary, phase, MEASURES["capacity"], capacity)
        sections.append(Section("Capacity", [one._replace(title=limit, cells=ran), *beside]))
    return sections
