"""The rows of a history as series: what was measured in one way, on one machine, of one arm, in the order it ran."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from bench.history.changes import Change, changes
from bench.report.estimates import NAMES
from bench.report.numbers import decimals, listed, number


class Point(NamedTuple):
    """One run's figure."""

    place: int
    """Of the run among those of its group."""
    value: float
    lowest: float | None
    highest: float | None
    revision: str
    """Seven digits of the commit, + where files had changed; or when it ran."""
    run: str
    software: Mapping[str, str]


class Series(NamedTuple):
    """One line of a chart."""

    arm: str
    points: list[Point]
    changes: list[Change] | None
    """None: too few points to look for any."""


class Panel(NamedTuple):
    """One measure with a series per arm; an arm whose settings changed has several."""

    title: str
    unit: str
    phase: str
    key: tuple[str, ...]
    series: list[Series]


class Group(NamedTuple):
    """Runs of one kind on one machine: those may be joined by a line."""

    machine: Mapping[str, Any]
    machine_id: str
    name: str
    """The scenario, with what sets it apart from others on this machine."""
    runs: list[str]
    """What stands for each run on an axis, in the order they ran."""
    panels: list[Panel]


def groups(table: pa.Table) -> list[Group]:
    """Every primary measure, by machine and by what was measured. Series of different machines are never one.

    The machine with most runs comes first.
    """
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: (row["created"], row["run"])):
        kinds.setdefault(tuple(row[name] for name in _KIND), []).append(row)
    names = Counter((rows[0]["machine_id"], _name(rows[0])) for rows in kinds.values())
    found = []
    for rows in kinds.values():
        name = _name(rows[0])
        alone = names[rows[0]["machine_id"], name] == 1
        found.append(_made(rows, name if alone else f"{name}, settings {rows[0]['work'][:6]}"))
    runs = Counter[str]()
    for group in found:
        runs[group.machine_id] += len(group.runs)
    drawn = [group for group in found if group.panels]
    return sorted(drawn, key=lambda group: (-runs[group.machine_id], group.machine_id, group.name))


_KIND = ("machine_id", "source", "scenario", "work")


def _name(row: Mapping[str, Any]) -> str:
    network = f" over {row['network']}" if row["network"] not in ("", "loopback") else ""
    return str(row["scenario"]) + network + (f", {row['mode']}" if row["mode"] not in ("", "equal") else "")


def _made(rows: list[dict[str, Any]], name: str) -> Group:
    runs = {(row["created"], row["run"]): row for row in rows}
    places = {run: place for place, run in enumerate(runs)}
    primary = dict.fromkeys(_panel(row) for row in rows if row["primary"])
    panels = []
    for key in primary:
        own = [row for row in rows if _panel(row) == key]
        lines = dict.fromkeys((row["arm"], row["setup"]) for row in own)
        series = [
            _series(arm, [row for row in own if (row["arm"], row["setup"]) == (arm, setup)], places)
            for arm, setup in lines
        ]
        panels.append(Panel(_title(own[-1]), own[-1]["unit"], own[-1]["phase"], key, series))
    machine = json.loads(rows[-1]["machine"])
    return Group(machine, rows[0]["machine_id"], name, _ticks(list(runs.values())), panels)


def _ticks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of every run its revision; else its day, or its time where all ran on one day."""
    one_day = len({row["created"][:10] for row in rows}) == 1
    return [_commit(row) or (row["created"][11:16] if one_day else row["created"][5:10]) for row in rows]


def _panel(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["phase"], row["temperature"], row["measure"], row["statistic"]


def _title(row: Mapping[str, Any]) -> str:
    title = row["title"].replace(", excess", " excess")
    if row["statistic"] != "value":
        title += f" ({NAMES.get(row['statistic'], row['statistic'])})"
    where = row["phase"] if row["temperature"] in ("", "all", row["phase"]) else f"{row['phase']}, {row['temperature']}"
    return f"{title}, {where}" if where else title


def _series(arm: str, rows: Sequence[Mapping[str, Any]], places: Mapping[tuple[str, str], int]) -> Series:
    points = [
        Point(
            places[row["created"], row["run"]], row["value"], row["lowest"], row["highest"], _revision(row), row["run"],
            json.loads(row["software"]),
        )
        for row in rows
    ]  # fmt: skip
    return Series(arm, points, changes([point.value for point in points]))


def _revision(row: Mapping[str, Any]) -> str:
    return _commit(row) or row["created"][:16].replace("T", " ")


def _commit(row: Mapping[str, Any]) -> str:
    return f"{row['commit'][:7]}{'+' if row['changed'] else ''}" if row["commit"] else ""


class Told(NamedTuple):
    """A change point in words."""

    what: str
    arm: str
    machine_id: str
    between: str
    """The last revision before it and the first after."""
    levels: str
    moved: str
    p: str
    also: str
    """What else was not the same from then on."""


def told(found: Sequence[Group]) -> Iterator[Told]:
    """Every change point, in the order of the page."""
    for group in found:
        for panel in group.panels:
            for series in panel.series:
                for change in series.changes or ():
                    yield _told(group, panel, series, change)


def _told(group: Group, panel: Panel, series: Series, change: Change) -> Told:
    last, first = series.points[change.at - 1], series.points[change.at]
    places = decimals(max(abs(change.before), abs(change.after)))
    names = dict.fromkeys([*last.software, *first.software])
    also = [
        f"{name} {last.software.get(name, 'none')} → {first.software.get(name, 'none')}"
        for name in names
        if last.software.get(name) != first.software.get(name)
    ]
    unit = f" {panel.unit}" if panel.unit else ""
    return Told(
        f"{group.name}: {panel.title}",
        series.arm,
        group.machine_id,
        f"{last.revision} and {first.revision}",
        f"{number(change.before, places)} → {number(change.after, places)}{unit}",
        moved(change, panel.unit),
        "p < 0.001" if change.p < 0.001 else f"p = {change.p:.3f}",
        listed(also) if also else "nothing that is recorded",
    )


def moved(change: Change, unit: str) -> str:
    """By how much: a share of a positive level, else the difference."""
    difference = change.after - change.before
    sign = "+" if difference > 0 else ""
    if change.before > 0 and change.after > 0:
        return f"{sign}{number(100 * difference / change.before, 1)} %"
    return f"{sign}{number(difference)} {unit}".rstrip()


def few(found: Sequence[Group]) -> list[tuple[str, int]]:
    """Groups with series that are too short to look for changes, and the points of the longest such."""
    short = []
    for group in found:
        lengths = [len(s.points) for panel in group.panels for s in panel.series if s.changes is None]
        if lengths:
            short.append((f"{group.name} on {group.machine_id[:8]}", max(lengths)))
    return short


def looked_at(found: Sequence[Group]) -> int:
    """How many series were long enough."""
    return sum(s.changes is not None for group in found for panel in group.panels for s in panel.series)
