"""The noise floor: how small an effect this machine can work with, from runs of an arm against itself.

`tokenwire aa` leaves the differences it saw in `noise-floor.json` beside the runs; later runs of the same scenario on
the same machine are held to it.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.files import write_whole
from bench.measures import MEASURES, streams_of
from bench.metrics import Comparison, Conclusions
from bench.network.between import is_loopback, permitted
from bench.paired import FEWEST_BLOCKS, noise_floor
from bench.scenario import Contrast, Scenario
from bench.scenario_toml import ScenarioError

FILE = "noise-floor.json"
AGAIN = "-again"
SIZES = (8, 10, 20, 40)
"""Numbers of blocks for which floors are shown."""


class Noise(msgspec.Struct, frozen=True):
    """What one A/A run saw: by `key_of`, the differences of every block (ms, or logarithms of ratios)."""

    run: str
    machine: dict[str, Any]
    work: str
    arm: str
    differences: dict[str, list[float]]


def work_of(scenario: Scenario) -> str:
    """A fingerprint of what is measured and how: phases with their faults, profiles, time-outs, mode, TLS, driver and
    network, of several the first: noise is of one. Arms are not in it.
    """
    wanted = scenario.experiment
    parts = (
        *(scenario.phases, scenario.faults, scenario.profiles, scenario.timeouts),
        *(wanted.mode, wanted.tls, wanted.driver, scenario.network(wanted.networks[0]), _between(scenario)),
    )
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def _between(scenario: Scenario) -> str:
    """What puts the network there: a model of one does not make the noise that packets do."""
    wanted = scenario.experiment
    if wanted.network_by != "auto":
        return wanted.network_by
    if is_loopback(scenario.network(wanted.networks[0])):
        return "none"
    return "proxy" if permitted() else "packets"


def key_of(phase: str, temperature: str, measure: str, statistic: str) -> str:
    """The key of a measure in `Noise.differences`."""
    return "/".join((phase, temperature, measure, statistic))


def against_itself(scenario: Scenario, arm: str | None, where: str) -> Scenario:
    """The scenario with one of its arms (the first unless named) twice, and that contrast only.

    Raises `ScenarioError` when there is no such arm, or more than one network.
    """
    networks = scenario.experiment.networks
    if len(networks) > 1:
        raise ScenarioError(
            f"{where}: experiment.networks = {', '.join(networks)}: an arm runs against itself over one network at a "
            f"time; name one: --set 'experiment.networks=[\"{networks[-1]}\"]'"
        )
    if arm is not None and arm not in scenario.arms:
        raise ScenarioError(f"{where}: --arm {arm}: no such arm; allowed: {', '.join(scenario.arms)}")
    own = arm or next(iter(scenario.arms))
    other = f"{own}{AGAIN}"
    return msgspec.structs.replace(
        scenario,
        name=f"aa-{scenario.name}",
        title=f"An arm against itself: what difference {own} shows where there is none",
        arms={own: scenario.arms[own], other: scenario.arms[own]},
        contrasts={"itself": Contrast(own, other)},
        experiment=msgspec.structs.replace(scenario.experiment, roofline=False),
    )


def noise_of(conclusions: Conclusions, scenario: Scenario, run: str, arm: str) -> Noise:
    """The noise in an A/A run's conclusions."""
    found = {
        key_of(c.phase, c.temperature, c.measure, c.statistic): [
            d if c.scale == "difference" else math.log1p(d) for d in c.per_block
        ]
        for c in (*conclusions.primary, *conclusions.exploratory)
    }
    return Noise(run, machine.describe(), work_of(scenario), arm, found)


def floor_of(comparison: Comparison, blocks: int) -> float | None:
    """The floor at so many blocks by an A/A comparison: ms, or a share for a ratio; None for too few blocks."""
    differences = np.array(comparison.per_block, dtype=np.float64)
    ratio = comparison.scale == "ratio"
    return _floor(np.log1p(differences) if ratio else differences, blocks, ratio=ratio)


def _floor(differences: np.ndarray[Any, np.dtype[np.float64]], blocks: int, *, ratio: bool) -> float | None:
    found = noise_floor(differences, blocks)
    return math.expm1(found) if found is not None and ratio else found


def print_floors(conclusions: Conclusions, console: Console) -> None:
    """Print the floor of every measure, the primary ones first and held against their smallest effects."""
    table = Table(box=None, pad_edge=False, title="Noise floor: the smallest effect that so many blocks can work with")
    for name in ("", "saw", *(f"{n} blocks" for n in SIZES), "asked for"):
        table.add_column(name, justify="left" if not name else "right")
    for group in (conclusions.primary, conclusions.exploratory):
        for c in group:
            scale, unit = (100, "%") if c.scale == "ratio" else (1, c.unit)
            name = " ".join(
                part
                for part in (c.phase, c.temperature, c.measure, c.statistic)
                if part not in ("all", "value") and (part != c.temperature or part != c.phase)
            )
            cells = [f"{scale * f:.2g}" if (f := floor_of(c, n)) is not None else "-" for n in SIZES]
            asked = "" if c.smallest_effect is None else f"{scale * c.smallest_effect:g} {unit}"
            table.add_row(f"{name}, {unit}", f"{scale * c.estimate:+.2g}", *cells, asked)
        table.add_section()
    console.print(table)


def remember(results: Path, noise: Noise) -> None:
    """Keep the noise of a run, in place of what was known of the same work on the same machine. Raises `OSError`."""
    others = [n for n in _known(results) if (n.machine, n.work, n.arm) != (noise.machine, noise.work, noise.arm)]
    write_whole(results / FILE, msgspec.json.format(msgspec.json.encode([*others, noise]), indent=1))


def _known(results: Path) -> list[Noise]:
    """What is known; a file that cannot be read is as good as none, since an A/A run writes it anew."""
    try:
        return msgspec.json.decode((results / FILE).read_bytes(), type=list[Noise])
    except (OSError, msgspec.DecodeError):
        return []


def floors(results: Path, scenario: Scenario) -> dict[str, float]:
    """The floor of every primary measure at the scenario's number of blocks, the highest known.

    None where nothing is known, under the blocks that a verdict needs, and with a budget, which takes as many blocks as
    narrow intervals need.
    """
    if scenario.experiment.budget_s is not None or scenario.experiment.blocks < FEWEST_BLOCKS:
        return {}
    mine, work = machine.describe(), work_of(scenario)
    known = [noise for noise in _known(results) if noise.machine == mine and noise.work == work]
    found: dict[str, float] = {}
    for name, primary in scenario.primary.items():
        measure = MEASURES[primary.measure]
        where = streams_of(primary.measure, primary.temperature, scenario.phases[primary.phase].connections)
        key = key_of(primary.phase, where, primary.measure, primary.statistic)
        for noise in known:
            if key in noise.differences:
                differences = np.array(noise.differences[key])
                floor = _floor(differences, scenario.experiment.blocks, ratio=measure.scale == "ratio")
                if floor is not None:
                    found[name] = max(found.get(name, 0.0), floor)
    return found


def check(results: Path, scenario: Scenario, where: str) -> dict[str, float]:
    """The floors, if every smallest effect is above its own. Raises `ScenarioError` with the number to use instead."""
    found = floors(results, scenario)
    for name, floor in found.items():
        smallest = scenario.primary[name].smallest_effect
        if smallest < floor:
            blocks = scenario.experiment.blocks
            raise ScenarioError(
                f"{where}: primary.{name}.smallest_effect = {smallest:g}: below this machine's noise floor, "
                f"{floor:.2g} at {blocks} blocks by `tokenwire aa`; use at least {rounded_up(floor):g}, or more blocks"
            )
    return found


def rounded_up(value: float) -> float:
    """Rounded up to two digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / step - 1e-9) * step
