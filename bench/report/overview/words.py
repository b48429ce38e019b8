"""What an overview says, in sentences and tables: the same in every output."""

from __future__ import annotations

import shlex
from datetime import datetime
from itertools import groupby

from bench.metrics import Comparison
from bench.paired import FEWEST_BLOCKS
from bench.report.comparisons import NO_FIGURE
from bench.report.estimates import about, effect, probability, signed, span, unit_of, where
from bench.report.finding import Finding, Grid
from bench.report.numbers import count, listed, number
from bench.report.overview.data import Effect, Leg, Overview, Point, round_trip_ms
from bench.report.overview.slope import Slope
from bench.report.verdicts import CHIPS

KINDS = {"packets": "packets", "modelled": "modelled", "none": "nothing between", None: NO_FIGURE}
_WHOLE = {0: "no further round trip", 1: "one more round trip", 2: "two more round trips", 3: "three more round trips"}


def alarm(overview: Overview) -> str | None:
    """What an overview opens with when a network was no more than a model; None otherwise."""
    if not overview.modelled:
        return None
    was = "is modelled" if len(overview.modelled) == 1 else "are modelled"
    return (
        f"{listed(overview.modelled)} {was}: a proxy kept the bytes of every stream waiting. What TCP itself does "
        "about distance and loss is not in these figures; to have packets delayed instead, run as root with "
        "experiment.network_by = 'packets'."
    )


def what_was_run(overview: Overview) -> str:
    """One line: scenario, networks, blocks, conditions, machine, date."""
    day = datetime.fromisoformat(overview.created)
    blocks = sorted({leg.blocks for leg in overview.networks})
    each = f"{blocks[0]} to {blocks[-1]} blocks" if len(blocks) > 1 else count(blocks[0], "block")
    machine = overview.machine
    return (
        f"Scenario {overview.scenario} over {count(len(overview.networks), 'network')}, {each} on each; "
        f"{overview.conditions}; {machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores; "
        f"{day.day} {day:%B %Y}."
    )


def troubles(overview: Overview) -> list[Finding]:
    """What keeps networks from having verdicts, a line each."""
    found = []
    for leg in overview.networks:
        if leg.state == "not run":
            found.append(Finding("not run.", grave=True, lead=leg.network))
        elif leg.state == "invalid":
            text = "invalid: too many blocks were void because the instrument failed, so no verdict is shown."
            found.append(Finding(text, grave=True, lead=leg.network))
        elif leg.state != "finished":
            why = f": {leg.note}" if leg.note else ""
            found.append(Finding(f"{leg.state} after {count(leg.blocks, 'block')}{why}.", grave=True, lead=leg.network))
        elif leg.note:
            found.append(Finding(f"{leg.note}.", grave=True, lead=leg.network))
    if not overview.effects:
        found.append(Finding("No primary measure was compared, so nothing is set against round-trip time."))
    few = [p.network for e in overview.effects for p in e.points if p.valid and p.comparison.verdict == "none"]
    if few:
        over = listed(list(dict.fromkeys(few)))
        found.append(Finding(f"Under {FEWEST_BLOCKS} blocks no verdict is given: there are fewer over {over}."))
    return found


def against(overview: Overview, comparison: Comparison) -> str:
    """`WebSocket on aiohttp against SSE on aiohttp`."""
    return f"{overview.arms[comparison.other]} against {overview.arms[comparison.baseline]}"


def what(effect_: Effect) -> str:
    """`Phase cold, first token excess (median)`."""
    one = effect_.points[0].comparison
    return f"{where(one)}, {about(one)}"


def word(point: Point) -> str:
    """The label of a point's verdict."""
    return CHIPS[point.comparison.verdict] if point.valid else "invalid"


def verdicts(effect_: Effect) -> str:
    """`slower over 4g and transpacific; equivalent over loopback`: by verdict, in the order of the networks."""
    by_word: dict[str, list[str]] = {}
    for point in effect_.points:
        by_word.setdefault(word(point), []).append(point.network)
    return "; ".join(f"{name} over {listed(networks)}" for name, networks in by_word.items())


def growth(slope: Slope | None) -> str:
    """How a difference grows with round-trip time, where the networks tell; else empty."""
    if slope is None or not slope.supported:
        return ""
    interval = f"95 % interval {number(slope.low, 2)} to {number(slope.high, 2)}; {slope.networks} networks"
    trips = slope.round_trips
    if trips == 0:
        return f"Each ms of round-trip time changes this by {number(slope.per_ms, 2)} ms ({interval}): {_WHOLE[0]}."
    verb = f"adds {number(slope.per_ms, 2)} ms to" if slope.per_ms > 0 else f"takes {number(-slope.per_ms, 2)} ms off"
    return f"Each ms of round-trip time {verb} this difference ({interval}){_trips(trips)}."


def _trips(trips: int | None) -> str:
    if trips is None:
        return ""
    more = _WHOLE.get(abs(trips), f"{abs(trips)} more round trips")
    return f": {more if trips > 0 else more.replace('more', 'fewer')}"


def matrix(overview: Overview) -> Grid:
    """Every network against every primary comparison: verdict and estimate."""
    head = ["Network", "Round trip", *(_column(overview, e) for e in overview.effects)]
    rows = []
    for leg in overview.networks:
        cells = [_cell(next((p for p in e.points if p.network == leg.network), None)) for e in overview.effects]
        rows.append([leg.network, f"{round_trip_ms(leg.settings):g} ms", *cells])
    return Grid("Verdicts by network; each network is corrected for its own comparisons", head, rows)


def _column(overview: Overview, effect_: Effect) -> str:
    one = effect_.points[0].comparison
    several = len({e.contrast for e in overview.effects}) > 1
    return f"{what(effect_)}: {against(overview, one)}" if several else what(effect_)


def _cell(point: Point | None) -> str:
    if point is None:
        return NO_FIGURE
    c = point.comparison
    return f"{word(point)}, {signed(c, c.estimate)} {unit_of(c)}"


def detail(effect_: Effect, overview: Overview) -> Grid:
    """What the verdicts of one comparison rest on, a row per network."""
    one = effect_.points[0].comparison
    kinds = {leg.network: leg.kind for leg in overview.networks}
    rows = []
    for point in effect_.points:
        c = point.comparison
        rows.append(
            [
                point.network,
                f"{point.round_trip_ms:g} ms",
                KINDS[kinds[point.network]],
                f"{signed(c, c.estimate)} {unit_of(c)}",
                *(f"{text} {unit_of(c)}" if (text := span(c, *b)) else NO_FIGURE for b in _bounds(c)),
                NO_FIGURE if c.p_holm is None else probability(c.p_holm).removeprefix("p = ").removeprefix("p "),
                str(len(c.blocks)),
                word(point),
            ]
        )
    head = ["Network", "Round trip", "Kind", "Estimate", "95 % interval", "90 % interval", "p (Holm)", "Blocks"]
    return Grid(f"{against(overview, one)}; smallest effect {effect(one)}", [*head, "Verdict"], rows)


def _bounds(c: Comparison) -> tuple[tuple[float | None, float | None], ...]:
    return (c.low, c.high), (c.low90, c.high90)


def networks(overview: Overview) -> Grid:
    """The networks as they were asked for, and what lay between."""
    head = ["Network", "Kind", "Round trip", "Jitter", "Down", "Up", "Loss", "Blocks", "Run"]
    return Grid("The networks", head, [_network(leg) for leg in overview.networks])


def _network(leg: Leg) -> list[str]:
    n = leg.settings
    rates = [f"{mbps:g} Mbit/s" if mbps else "no limit" for mbps in (n.down_mbps, n.up_mbps)]
    jitter = f"up to {n.jitter_ms:g} ms each way" if n.jitter_ms else "none"
    loss = f"{n.loss * 100:g} %" if n.loss else "none"
    return [leg.network, KINDS[leg.kind], f"{n.rtt_ms:g} ms", jitter, *rates, loss, str(leg.blocks), leg.state]


def by_contrast(overview: Overview) -> list[tuple[str, list[Effect]]]:
    """The effects under their contrasts, in words."""
    return [
        (against(overview, own[0].points[0].comparison), own)
        for own in (list(group) for _, group in groupby(overview.effects, lambda e: e.contrast))
    ]


def command(overview: Overview) -> str:
    """The command line that runs the same again."""
    sets = [part for override in overview.overrides for part in ("--set", override)]
    return shlex.join(["tokenwire", "run", overview.source, *sets])
