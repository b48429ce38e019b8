"""What a gate looks at, and from when on head is worse: one TOML file, every fault of which is one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.measures import MEASURES
from bench.paired import FEWEST_BLOCKS
from bench.scenario import Primary, Scenario, Table
from bench.scenario_toml import OPTIONAL, ScenarioError, choices, convert, load

DEFAULT = Path(__file__).with_name("thresholds.toml")
AMISS = ("lost", "repeated", "reordered", "corrupted", "failed")
"""Counted in tokens and streams: worse from the first one on."""
PER_TOKEN = ("segments", "wire_bytes")
"""Exact figures per token: worse when they are more by over the tolerance."""

Role = Literal["gate", "advise", "off"]


class Size(Table, frozen=True):
    """How much is run."""

    blocks: Annotated[int, Meta(ge=FEWEST_BLOCKS, le=1000)]
    arms: Annotated[list[str], Meta(min_length=1)] | None = None
    """Of the scenario; unset takes all."""
    set: tuple[str, ...] = ()
    """KEY=VALUE for the scenario, as for --set, which goes before these."""
    micro: bool = True
    """Whether the hot paths are timed."""
    smallest_effect: dict[str, Annotated[float, Meta(gt=0, le=10_000)]] = msgspec.field(default_factory=dict)
    """In place of that of the timing of that name: fewer and shorter blocks tell less."""


class Timing(Table, frozen=True):
    """A measure of the scenario, and from when on head is worse."""

    role: Role
    phase: str
    measure: str
    smallest_effect: Annotated[float, Meta(gt=0, le=10_000)]
    """In ms for a latency, a share (0.03 for 3 %) for a cost or rate."""
    statistic: str = "value"
    temperature: Literal["cold", "warm"] | None = None

    @property
    def primary(self) -> Primary:
        """The same as a primary measure of a scenario."""
        return Primary(self.phase, self.measure, self.smallest_effect, self.statistic, self.temperature)


class Counts(Table, frozen=True):
    """What is counted exactly."""

    lost: Role = "gate"
    repeated: Role = "gate"
    reordered: Role = "gate"
    corrupted: Role = "gate"
    failed: Role = "gate"
    segments: Role = "gate"
    wire_bytes: Role = "gate"
    tolerance: Annotated[float, Meta(ge=0, le=10)] = 0.01
    """Of segments and bytes per token, a share: more by up to this is no regression."""


class Micro(Table, frozen=True):
    """The hot paths alone."""

    role: Role = "gate"
    rounds: Annotated[int, Meta(ge=FEWEST_BLOCKS, le=100)] = 10
    smallest_effect: Annotated[float, Meta(gt=0, le=10)] = 0.1
    """A share: 0.1 for 10 %."""


class Thresholds(msgspec.Struct, frozen=True):
    """A whole file."""

    path: Path
    where: str
    """The file, for people."""
    scenario: str
    sizes: dict[str, Size]
    timing: dict[str, Timing]
    counts: Counts
    micro: Micro


_TABLES: dict[str, Any] = {"sizes": Size, "timing": Timing}


def read(path: Path = DEFAULT) -> Thresholds:
    """Read a file of thresholds, and check what does not depend on its scenario. Raises `ScenarioError`."""
    where = path.name if path == DEFAULT else str(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ScenarioError(f"{where}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScenarioError(f"{where}: not a TOML file: {error}") from None
    allowed = ("scenario", "sizes", "timing", "counts", "micro")
    for key in raw:
        if key not in allowed:
            raise ScenarioError(f"{where}: unknown key {key!r}; {choices(key, allowed)}")
    tables: dict[str, dict[str, Any]] = {}
    for key, kind in _TABLES.items():
        given = raw.get(key)
        if not isinstance(given, dict) or not given:
            raise ScenarioError(f"{where}: {key}: at least one table [{key}.NAME] is needed")
        tables[key] = {name: convert(value, kind, where, f"{key}.{name}") for name, value in given.items()}
    deciding = [name for name, timing in tables["timing"].items() if timing.role == "gate"]
    if not 1 <= len(deciding) <= OPTIONAL["primary"]:
        raise ScenarioError(
            f"{where}: timing: {len(deciding)} with role = 'gate'; 1 to {OPTIONAL['primary']} are allowed, because "
            "each one more makes all of them harder to decide"
        )
    return Thresholds(
        path=path,
        where=where,
        scenario=convert(raw.get("scenario", "gate"), str, where, "scenario"),
        sizes=tables["sizes"],
        timing=tables["timing"],
        counts=convert(raw.get("counts", {}), Counts, where, "counts"),
        micro=convert(raw.get("micro", {}), Micro, where, "micro"),
    )


def sized(thresholds: Thresholds, size: str) -> Thresholds:
    """The same with the smallest effects of that size. Raises `ScenarioError`."""
    if size not in thresholds.sizes:
        raise ScenarioError(f"--size {size}: {thresholds.where} has no such size; {choices(size, thresholds.sizes)}")
    timing = dict(thresholds.timing)
    for name, smallest in thresholds.sizes[size].smallest_effect.items():
        if name not in timing:
            raise ScenarioError(
                f"{thresholds.where}: sizes.{size}.smallest_effect.{name}: no such timing; {choices(name, timing)}"
            )
        timing[name] = msgspec.structs.replace(timing[name], smallest_effect=smallest)
    return msgspec.structs.replace(thresholds, timing=timing)


def scenario_of(thresholds: Thresholds, size: str, overrides: list[str]) -> Scenario:
    """The scenario that the gate runs, in that size, with what decides as its primary measures.

    Raises `ScenarioError` for what the scenario does not have.
    """
    where = thresholds.where
    thresholds = sized(thresholds, size)
    wanted = thresholds.sizes[size]
    scenario = load(thresholds.scenario, [f"experiment.blocks={wanted.blocks}", *wanted.set, *overrides])
    if len(scenario.experiment.networks) > 1:
        raise ScenarioError(f"{thresholds.scenario}: experiment.networks: a gate runs over one network; name one")
    if scenario.experiment.blocks < FEWEST_BLOCKS:
        raise ScenarioError(
            f"experiment.blocks = {scenario.experiment.blocks}: a gate needs at least {FEWEST_BLOCKS} to decide"
        )
    arms = wanted.arms or list(scenario.arms)
    for arm in arms:
        if arm not in scenario.arms:
            raise ScenarioError(
                f"{where}: sizes.{size}.arms: {arm!r} is no arm of {scenario.name}; {choices(arm, scenario.arms)}"
            )
    comparable = [key for key, measure in MEASURES.items() if measure.scale in ("difference", "ratio")]
    for name, timing in thresholds.timing.items():
        at = f"{where}: timing.{name}"
        if timing.phase not in scenario.phases:
            raise ScenarioError(
                f"{at}.phase: {timing.phase!r} is no phase of {scenario.name}; {choices(timing.phase, scenario.phases)}"
            )
        if timing.measure not in comparable:
            raise ScenarioError(f"{at}.measure = {timing.measure!r}: {choices(timing.measure, comparable)}")
        if timing.statistic not in MEASURES[timing.measure].statistics:
            allowed = ", ".join(map(repr, MEASURES[timing.measure].statistics))
            raise ScenarioError(f"{at}.statistic = {timing.statistic!r}: allowed: {allowed}")
    return msgspec.structs.replace(
        scenario,
        arms={arm: scenario.arms[arm] for arm in arms},
        primary={name: timing.primary for name, timing in thresholds.timing.items() if timing.role == "gate"},
        experiment=msgspec.structs.replace(scenario.experiment, roofline=False, budget_s=None),
    )
