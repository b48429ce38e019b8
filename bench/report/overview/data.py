"""A set of runs over several networks, side by side: plain typed data, the same that the set's `summary.json` holds.

The shipped schema is `schema()` in a file; `python -m bench.report.overview.data` prints it anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.metrics import Comparison, Summary, Unfinished
from bench.netset import NetSet, RunState, State, read_set, state_of, worst
from bench.network.profiles import Network
from bench.paired import FEWEST_BLOCKS
from bench.record import RecordError, read_run
from bench.report import build
from bench.report.overview.slope import Slope, fitted
from bench.report.verdicts import conditions, given

FORMAT = 1
REPORT = "report.html"

Kind = Literal["packets", "modelled", "none"]


class Leg(msgspec.Struct, frozen=True):
    """A network of the set, and how far the run over it came."""

    network: Annotated[str, Meta(description="Name of the network, and of the run's folder")]
    settings: Annotated[Network, Meta(description="The network: ms, Mbit/s (0: no limit), share of packets lost")]
    kind: Annotated[
        Kind | None,
        Meta(
            description="What lay between: packets delayed under the kernel's TCP, modelled on streams by a proxy (as "
            "soon as one trial was), or none; null where no trial tells"
        ),
    ]
    state: Annotated[RunState, Meta(description="Of its run")]
    blocks: Annotated[
        int, Meta(description="Blocks with a valid trial of every arm", extra_json_schema={"unit": "blocks"})
    ]
    report: Annotated[str | None, Meta(description="Its own report, from here; null where there is none")]
    note: Annotated[str, Meta(description="Why it has no figures, or did not end well; else empty")]


class Point(msgspec.Struct, frozen=True):
    """A primary comparison on one network."""

    network: Annotated[str, Meta(description="Name of the network")]
    round_trip_ms: Annotated[
        float,
        Meta(
            description="What a round trip takes on it: its rtt_ms, and half of its jitter_ms each way, the mean",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    valid: Annotated[bool, Meta(description="Whether its run is: an invalid one has no verdict, and is in no slope")]
    comparison: Annotated[Comparison, Meta(description="As in the summary of its run; corrected within that run")]


class Effect(msgspec.Struct, frozen=True):
    """A primary comparison over all networks, in the order of the set."""

    contrast: Annotated[str, Meta(description="Name of the contrast in the scenario")]
    primary: Annotated[str, Meta(description="Name of the primary measure")]
    points: Annotated[list[Point], Meta(description="The networks with a figure of it")]
    slope: Annotated[
        Slope | None,
        Meta(
            description="How it grows with round-trip time; null for ratios, and under three valid networks with "
            "blocks enough for a verdict"
        ),
    ]


class Overview(msgspec.Struct, kw_only=True):
    """A scenario over several networks: each is a run, and a family of comparisons, of its own."""

    format: Annotated[int, Meta(description="Version of this format")] = FORMAT
    tokenwire: Annotated[str, Meta(description="Version of tokenwire that ran it")]
    set: Annotated[str, Meta(description="Name of the set")]
    created: Annotated[str, Meta(description="When it began, ISO 8601")]
    state: Annotated[State, Meta(description="The worst of its runs': interrupted, failed, invalid, finished")]
    scenario: Annotated[str, Meta(description="Name of the scenario")]
    title: Annotated[str, Meta(description="Title of the scenario")]
    source: Annotated[str, Meta(description="What `run` was given: the name of a shipped scenario, or a path")]
    overrides: Annotated[list[str], Meta(description="Settings that differ from the scenario's file, key=value")]
    mode: Annotated[str, Meta(description="equal or as-deployed")]
    conditions: Annotated[str, Meta(description="What the verdicts hold for: mode, HTTP version, libraries")]
    machine: Annotated[dict[str, Any], Meta(description="The machine")]
    arms: Annotated[dict[str, str], Meta(description="Protocol and library of every arm, for people")]
    networks: Annotated[list[Leg], Meta(description="The networks, in the order in which they ran")]
    effects: Annotated[list[Effect], Meta(description="Every primary comparison, over all networks")]

    @property
    def modelled(self) -> list[str]:
        """The networks that were no more than a model."""
        return [leg.network for leg in self.networks if leg.kind == "modelled"]


def gather(folder: Path) -> Overview:
    """Write the report of every run of a set, and return the overview of them.

    Raises `RecordError` when there is no set, and `Unfinished` when not one trial has finished.
    """
    netset = read_set(folder)
    legs: list[Leg] = []
    summaries: dict[str, Summary] = {}
    for name in netset.networks:
        leg, summary = _leg(folder, netset, name)
        legs.append(leg)
        if summary is not None:
            summaries[name] = summary
    if not summaries:
        why = next((f": {leg.network}: {leg.note}" for leg in legs if leg.note), "")
        raise Unfinished(f"{folder}: no trial has finished on any network{why}")
    return overview_of(netset, legs, summaries)


def _leg(folder: Path, netset: NetSet, name: str) -> tuple[Leg, Summary | None]:
    """What became of one network."""
    note, kind, summary = "", None, None
    state: RunState = "failed"
    try:
        state = state_of(folder, name)
        if state == "failed":
            note = netset.failures.get(name, "")
        if state != "not run":
            summary, _ = build(folder / name)
            kind = _kind(folder / name)
    except (RecordError, Unfinished) as error:
        note = note or str(error).removeprefix(f"{folder / name}: ")
    blocks = summary.conclusions.blocks if summary and summary.conclusions else 0
    report = f"{name}/{REPORT}" if summary else None
    return Leg(name, netset.network(name), kind, state, blocks, report, note), summary


def _kind(folder: Path) -> Kind | None:
    """What lay between in the trials of a run."""
    run = read_run(folder)
    known = {trial.facts.get("network", {}).get("kind") for trial in run.trials}
    kinds: tuple[Kind, ...] = ("modelled", "packets", "none")
    return next((kind for kind in kinds if kind in known), None)


def overview_of(netset: NetSet, legs: list[Leg], summaries: Mapping[str, Summary]) -> Overview:
    """The overview of a set by the summaries of its runs, of which there is at least one."""
    one = next(iter(summaries.values()))
    return Overview(
        tokenwire=netset.tokenwire,
        set=netset.set,
        created=netset.created,
        state=worst([leg.state for leg in legs]),
        scenario=netset.scenario.name,
        title=netset.scenario.title,
        source=netset.source,
        overrides=netset.overrides,
        mode=one.mode,
        conditions=conditions(one),
        machine=netset.machine,
        arms={arm.name: arm.label for arm in one.arms},
        networks=legs,
        effects=[
            effect
            for contrast in netset.scenario.contrasts
            for primary in netset.scenario.primary
            if (effect := _effect(netset, summaries, contrast, primary)).points
        ],
    )


def _effect(netset: NetSet, summaries: Mapping[str, Summary], contrast: str, primary: str) -> Effect:
    points = [
        Point(name, round_trip_ms(netset.network(name)), summary.state != "invalid", comparison)
        for name, summary in summaries.items()
        if (conclusions := given(summary)) is not None
        for comparison in conclusions.primary
        if (comparison.contrast, comparison.primary) == (contrast, primary)
    ]
    sound = [
        (p.round_trip_ms, p.comparison.estimate)
        for p in points
        if p.valid and p.comparison.scale == "difference" and len(p.comparison.blocks) >= FEWEST_BLOCKS
    ]
    return Effect(contrast, primary, points, fitted(sound))


def round_trip_ms(network: Network) -> float:
    """What a round trip takes on average."""
    return network.rtt_ms + network.jitter_ms


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a set's summary.json, from the types that write it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tokenwire summary of a set of networks",
        **msgspec.json.schema(Overview),
    }


if __name__ == "__main__":
    print(msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode())
