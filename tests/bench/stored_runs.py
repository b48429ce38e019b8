"""Stored runs made up from figures: run.json and summary.json as a run leaves them, without its records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.measures import MEASURES
from bench.metrics import Account, Comparison, Conclusions, Results, Value
from bench.metrics import Arm as ReportedArm
from bench.metrics import Phase as ReportedPhase
from bench.scenario import Scenario
from bench.scenario_toml import load

MACHINE = {
    "cpu": "Example CPU 3.0 GHz", "cores": 2, "memory_bytes": 8 << 30, "kernel": "6.1.0", "os": "Linux",
    "arch": "x86_64", "python": "CPython 3.11.9",
}  # fmt: skip
VERSIONS = {"aiohttp": "3.14.5", "websockets": "17.4"}
BASE, OTHER = "sse-aiohttp", "ws-aiohttp"
PHASES = {"ttft_excess": ("cold", "cold", "p50"), "cpu_server": ("firehose", "all", "value")}
"""Measure -> the phase, the streams and the statistic it has here: primary measures of the scenario `duel`."""
WIRE = ("chat", "warm", "value")

Figures = Mapping[tuple[str, str], Sequence[float]]
"""By arm and measure, a figure of every trial."""


def figures(seed: int, blocks: int = 8, *, cpu: float = 1.0) -> dict[tuple[str, str], list[float]]:
    """First token and CPU of both arms with some scatter, CPU multiplied by `cpu`; bytes are exact."""
    rng = np.random.default_rng(seed)
    found = {}
    for arm, faster in ((BASE, 1.0), (OTHER, 0.8)):
        found[arm, "ttft_excess"] = rng.normal(faster, 0.05, blocks).tolist()
        found[arm, "cpu_server"] = rng.normal(30 * faster * cpu, 0.6, blocks).tolist()
        found[arm, "wire_bytes"] = [200.0 + 10 * faster] * blocks
    return found


def write_stored(
    folder: Path,
    given: Figures,
    settings: Sequence[str] = (),
    *,
    info: Mapping[str, Any] | None = None,
    lost: int = 0,
    **results: Any,
) -> Path:
    """Write a stored run of two arms of `duel` with these `settings`, and return its folder.

    `info` goes into run.json, and `results` into the summary, in place of what is there; the machine, versions and
    pinning of `info` into both. `lost` tokens were lost on every arm.
    """
    folder.mkdir(parents=True)
    whole = load("duel", list(settings))
    scenario = msgspec.structs.replace(
        whole,
        arms={arm: whole.arms[arm] for arm in (BASE, OTHER)},
        contrasts={"protocol": whole.contrasts["protocol"]},
    )
    kept = {
        "format": 1, "tokenwire": "0.1.0", "run": folder.name, "created": "2026-11-22T14:40:00+00:00",
        "state": "finished", "scenario": msgspec.to_builtins(scenario), "source": "duel", "overrides": list(settings),
        "command": ["run"], "seed": 1, "order": [], "voids": [], "machine": MACHINE, "versions": VERSIONS,
        "pinning": {"server": [0], "driver": [1]}, "revision": None, **(info or {}),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(kept))
    summary = msgspec.structs.replace(_results(scenario, kept, given, lost), **results)
    (folder / "summary.json").write_bytes(msgspec.json.encode(summary))
    return folder


def _results(scenario: Scenario, info: Mapping[str, Any], given: Figures, lost: int) -> Results:
    blocks = max(map(len, given.values()))
    values = [_value(arm, measure, list(own)) for (arm, measure), own in given.items()]
    arms = list(dict.fromkeys(arm for arm, _ in given))
    return Results(
        tokenwire=info["tokenwire"],
        run=info["run"],
        created=info["created"],
        state=info["state"],
        scenario=scenario.name,
        source=info["source"],
        title=scenario.title,
        mode=scenario.experiment.mode,
        seed=1,
        overrides=list(info["overrides"]),
        trials_planned=len(arms) * blocks,
        trials_finished=len(arms) * blocks,
        blocks_planned=blocks,
        blocks_whole=blocks,
        machine=info["machine"],
        versions=info["versions"],
        pinning=info["pinning"],
        warnings=[],
        incidents=[],
        command=list(info["command"]),
        arms=[
            ReportedArm(arm, arm, "sse", "aiohttp", blocks, {"aiohttp": info["versions"]["aiohttp"]}, {}, {})
            for arm in arms
        ],
        phases=[ReportedPhase("chat", "closed", True, ["warm"], blocks, None, {"users": 4}, {})],
        measures={},
        values=values,
        accounts=[Account("chat", arm, streams=100, outcomes={"complete": 100}, lost=lost) for arm in arms],
        wire=[],
        conclusions=_conclusions(scenario, values),
    )


def _value(arm: str, measure: str, own: list[float]) -> Value:
    phase, temperature, statistic = PHASES.get(measure, WIRE)
    return Value(
        phase=phase,
        arm=arm,
        temperature=temperature,  # type: ignore[arg-type]
        users=0,
        measure=measure,
        statistic=statistic,
        unit=MEASURES[measure].unit,
        median=float(np.median(own)),
        min=min(own),
        max=max(own),
        per_trial=own,
        blocks=list(range(1, len(own) + 1)),
        per_slice=[],
        samples=len(own),
    )


def _conclusions(scenario: Scenario, values: Sequence[Value]) -> Conclusions:
    """The primary comparisons of the second arm with the first, without their statistics."""
    by_arm = {(v.arm, v.measure): v for v in values}
    primary = []
    for name, wanted in scenario.primary.items():
        a, b = by_arm.get((BASE, wanted.measure)), by_arm.get((OTHER, wanted.measure))
        if a is not None and b is not None:
            ratio = MEASURES[wanted.measure].scale == "ratio"
            primary.append(
                Comparison(
                    "protocol", BASE, OTHER, a.phase, a.temperature, a.measure, a.statistic,
                    "ratio" if ratio else "difference", "" if ratio else a.unit, False,
                    b.median / a.median - 1 if ratio else b.median - a.median, -0.3, -0.1, -0.28, -0.12, [], [],
                    primary=name, smallest_effect=wanted.smallest_effect,
                )
            )  # fmt: skip
    return Conclusions(0.05, len(values[0].per_trial), 8, primary, [], [])
