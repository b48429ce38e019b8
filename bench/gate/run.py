"""A gate from beginning to end: have both sides, run them interleaved, once more if head looks worse, and decide."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench import experiment, floor, limits, machine
from bench.gate import micro, sides
from bench.gate.judge import (
    SIDES,
    Judge,
    arm_of,
    confirm,
    decide,
    ordered,
    suspects,
    told_differently,
)
from bench.gate.result import CODES, FORMAT, Decision, Gate, Row, Side
from bench.gate.sides import Built
from bench.gate.thresholds import AMISS, DEFAULT, Thresholds, scenario_of, sized
from bench.metrics import Summary, Unfinished
from bench.progress import Progress
from bench.report import build
from bench.scenario import Arm, Contrast, Scenario, Tree
from bench.scenario_toml import ScenarioError, check_commands
from bench.trial import TrialError

TOTALS = {"ttft_excess": "ttft", "gap_excess": "icl"}
"""What is measured instead where nothing tells when a token was due."""
BENCHMARKS = Path("tests") / "benchmarks" / "test_hot_paths.py"


class Interrupted(Exception):
    """Ctrl-C. One line for the user."""


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    thresholds: Thresholds
    size: str
    overrides: list[str]
    results: Path
    base: str = ""
    """A revision; or else both commands."""
    base_command: str = ""
    head_command: str = ""
    inconclusive: str = "report"
    """`pass` or `fail` count it as such."""
    always: bool = False
    """Measure even where nothing that is measured differs."""


@dataclass
class _Gate:
    """A gate on its way."""

    request: Request
    template: Scenario
    told: Callable[[str], None]
    arms: Mapping[str, Mapping[str, Arm]]
    """By arm of the scenario, by side."""
    totals: Mapping[str, str]
    runs: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    voids: list[str] = field(default_factory=list)
    blocks: int = 0


def run(request: Request, told: Callable[[str], None]) -> tuple[Gate, Path]:
    """Carry out a gate; return what it comes to, and the folder of its first run, where its outputs belong.

    Raises `ScenarioError` and `SideError` for what cannot be run, `OSError` where results cannot be kept, and
    `Interrupted`.
    """
    began = time.monotonic()
    request = replace(request, thresholds=sized(request.thresholds, request.size))
    template = scenario_of(request.thresholds, request.size, request.overrides)
    if excess := limits.check(template):
        raise ScenarioError(f"{template.name}: {excess}")
    _check_floor(request, template)
    with _sides(request, told) as (base, head, built):
        commands = {"base": request.base_command, "head": request.head_command}
        foreign = bool(base.command) and any("{upstream}" not in command for command in commands.values())
        arms = {
            name: {side: _arm(arm, built.get(side), side, commands[side]) for side in SIDES}
            for name, arm in template.arms.items()
        }
        gate = _Gate(request, template, told, arms, TOTALS if foreign else {})
        scenario = _scenario(gate, list(arms))
        check_commands(scenario, template.name)
        folder = experiment.new_folder(request.results, scenario)
        same = built and not request.always and sides.same_program(built["base"].tree, built["head"].tree)
        if same:
            rows: list[Row] = []
            decision: Decision = "pass"
            reasons = ["Nothing that is measured differs between base and head, so nothing was run (--always runs it)."]
            versions: dict[str, dict[str, str]] = {}
        else:
            decision, reasons, rows, versions = _measure(gate, folder, built)
    return (
        Gate(
            format=FORMAT,
            tokenwire=version("tokenwire"),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 1),
            size=request.size,
            options=_options(request),
            decision=decision,
            exit_code=_code(decision, request.inconclusive),
            reasons=reasons,
            base=msgspec.structs.replace(base, versions=versions.get("base", {})),
            head=msgspec.structs.replace(head, versions=versions.get("head", {})),
            rows=ordered(rows),
            blocks=gate.blocks,
            voids=gate.voids,
            runs=[str(path) for path in gate.runs],
            notes=gate.notes,
            machine=machine.describe(),
        ),
        folder,
    )


def _options(request: Request) -> list[str]:
    own = [] if request.thresholds.path == DEFAULT else ["--thresholds", str(request.thresholds.path)]
    return [*own, *(word for override in request.overrides for word in ("--set", override))]


def _code(decision: Decision, inconclusive: str) -> int:
    return CODES[decision] if decision != "inconclusive" else {"pass": 0, "fail": 1}.get(inconclusive, CODES[decision])


def _check_floor(request: Request, template: Scenario) -> None:
    """Refuse thresholds below what this machine can tell. Raises `ScenarioError`."""
    for name, lowest in floor.floors(request.results, template).items():
        smallest = request.thresholds.timing[name].smallest_effect
        if smallest < lowest:
            raise ScenarioError(
                f"{request.thresholds.where}: timing.{name}.smallest_effect = {smallest:g}: below this machine's noise "
                f"floor, {lowest:.2g} at {template.experiment.blocks} blocks by `tokenwire aa`; use at least "
                f"{floor.rounded_up(lowest):g}, or more blocks"
            )


@contextlib.contextmanager
def _sides(request: Request, told: Callable[[str], None]) -> Iterator[tuple[Side, Side, dict[str, Built]]]:
    if not request.base:
        yield (
            Side("base", request.base_command, command=request.base_command),
            Side("head", request.head_command, command=request.head_command),
            {},
        )
        return
    top = sides.repository(Path.cwd())
    if Path(__file__).parents[2] != top:
        told(f"the driver is that of the tokenwire that was called, in {Path(__file__).parents[2]}, and not of {top}")
    with sides.trees(top, request.base, told) as (base, head):
        yield base.side, head.side, {"base": base, "head": head}


def _arm(arm: Arm, built: Built | None, side: str, command: str) -> Arm:
    if built is not None:
        return msgspec.structs.replace(arm, tree=Tree(str(built.tree), str(built.python)))
    try:
        return msgspec.structs.replace(arm, command=command)
    except ValueError as error:
        raise ScenarioError(f"--{side}-cmd: {error}") from None


def _scenario(gate: _Gate, names: Sequence[str], *, again: bool = False) -> Scenario:
    """The experiment: of every arm named both sides. A second one has other streams."""
    template = gate.template
    wanted = template.experiment
    return msgspec.structs.replace(
        template,
        name="gate-again" if again else "gate",
        title="Is head slower than base?" + (" Once more, where it seemed so" if again else ""),
        arms={arm_of(name, side): gate.arms[name][side] for name in names for side in SIDES},
        contrasts={name: Contrast(*(arm_of(name, side) for side in SIDES)) for name in names},
        primary={
            name: msgspec.structs.replace(one, measure=gate.totals.get(one.measure, one.measure))
            for name, one in template.primary.items()
        },
        experiment=msgspec.structs.replace(wanted, seed=wanted.seed + again),
    )


class _Failed(Exception):
    """There is nothing to judge: the decision, and why."""

    def __init__(self, decision: Decision, reason: str) -> None:
        super().__init__(reason)
        self.decision, self.reason = decision, reason


def _measure(
    gate: _Gate, folder: Path, built: Mapping[str, Built]
) -> tuple[Decision, list[str], list[Row], dict[str, dict[str, str]]]:
    names = list(gate.arms)
    rows: list[Row] = []
    versions: dict[str, dict[str, str]] = {}
    try:
        summary, rows = _experiment(gate, names, folder)
        gate.blocks = summary.blocks_whole
        versions = {
            side: {
                k: str(v)
                for arm in summary.arms
                if arm.name.endswith(f"-{side}")
                for k, v in arm.server_versions.items()
            }
            for side in SIDES
        }
        differences = told_differently(summary, names)
        gate.notes += differences
        hot = _micro(gate, built)
        rows += hot
        doubtful = suspects(rows)
        if doubtful:
            again: list[Row] = []
            arms = [name for name in names if any(row.arm == name for row in doubtful)]
            if arms:
                gate.told(f"head looks worse on {', '.join(arms)}: running that once more")
                second = experiment.new_folder(gate.request.results, _scenario(gate, arms, again=True))
                try:
                    _, again = _experiment(gate, arms, second, again=True)
                except _Failed as failed:
                    if not any(row.measure in AMISS for row in doubtful):
                        raise
                    gate.notes.append(f"The second run came to nothing: {failed.reason}")  # the facts stand
            if any(row.kind == "micro" for row in doubtful):
                gate.told("a hot path looks slower: timing them once more")
                again += _micro(gate, built)
            rows = confirm(rows, again)
        decision, reasons = decide(rows)
        if decision == "regression":
            reasons += differences
    except _Failed as failed:
        decision, reasons = failed.decision, [failed.reason]
    return decision, reasons, rows, versions


def _experiment(gate: _Gate, names: Sequence[str], folder: Path, *, again: bool = False) -> tuple[Summary, list[Row]]:
    """Run an experiment and judge it. Raises `_Failed` where there is nothing to judge, and `Interrupted`."""
    request = gate.request
    scenario = _scenario(gate, names, again=again)
    gate.runs.append(folder)
    of = ["--base", request.base] if request.base else []
    command = ["gate", *of, "--size", request.size, *_options(request)]
    try:
        with Progress(scenario) as progress:
            state = experiment.run(
                scenario, request.thresholds.scenario, request.overrides, folder, progress, command=command
            )
    except TrialError as error:
        side = error.arm.rpartition("-")[2]
        if side == "head" and error.process == "server":
            raise _Failed("regression", f"Head does not serve ({error.arm}): {error}") from None
        raise _Failed("invalid", f"A trial of {error.arm or 'the run'} could not be carried out: {error}") from None
    try:
        summary, _ = build(folder)
    except Unfinished as error:
        if state == "interrupted":
            raise Interrupted(f"stopped before a block was whole; {folder}") from None
        raise _Failed("invalid", str(error)) from None
    if state == "interrupted":
        raise Interrupted(f"stopped after {summary.blocks_whole} blocks: no decision; what there is: {folder}")
    gate.voids += [f"Block {void.block}: {reason}" for void in summary.voids for reason in void.reasons]
    if state == "invalid":
        dead = _died(summary, names)
        if dead:
            raise _Failed("regression", f"Head's server dies on {', '.join(dead)}: every block was void for it.")
        raise _Failed(
            "invalid", f"{len(summary.voids)} blocks were void, too many to decide: {summary.voids[-1].reasons[0]}"
        )
    judge = Judge(
        request.thresholds,
        msgspec.structs.replace(gate.template, arms={n: gate.template.arms[n] for n in names}),
        gate.totals,
    )
    return summary, judge.rows(summary)


def _died(summary: Summary, names: Sequence[str]) -> list[str]:
    """The arms whose head died in every void block, while no base did."""
    reasons = [reason for void in summary.voids for reason in void.reasons]
    if any(reason.startswith(f"{arm_of(name, 'base')}: server died") for name in names for reason in reasons):
        return []
    return [
        name
        for name in names
        if summary.voids
        and all(
            any(reason.startswith(f"{arm_of(name, 'head')}: server died") for reason in void.reasons)
            for void in summary.voids
        )
    ]


def _micro(gate: _Gate, built: Mapping[str, Built]) -> list[Row]:
    """The hot paths of both trees; none for commands, or where they cannot be timed, which is noted."""
    wanted, size = gate.request.thresholds.micro, gate.request.thresholds.sizes[gate.request.size]
    if not built or wanted.role == "off" or not size.micro:
        return []
    gate.told(f"timing the hot paths, {wanted.rounds} rounds")
    try:
        base, head = (micro.Code(built[side].python, built[side].tree) for side in SIDES)
        paths = micro.run(base, head, built["head"].tree / BENCHMARKS, wanted.rounds)
    except micro.MicroError as error:
        gate.notes.append(f"The hot paths could not be timed: {error}")
        return []
    return micro.judge(paths, smallest_effect=wanted.smallest_effect, decides=wanted.role == "gate")
