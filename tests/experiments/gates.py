"""Does the gate fail what it should, and nothing else? Gates made again and again from recorded blocks, and real ones.

    python -m tests.experiments.gates record TIME [KIND]     # every arm below, side by side; or those of one kind
    python -m tests.experiments.gates amounts RUN...         # server CPU per token of each change beside its control
    python -m tests.experiments.gates resample SIZE RUN...   # gates of that size made of its blocks: how many fail?
    python -m tests.experiments.gates live KIND SIZE [ARM]   # `tokenwire gate` on a clone of this with that change
    python -m tests.experiments.gates kinds                  # the kinds of change

A gate is made by drawing blocks for its first run and as many others for its confirmation, none twice, and judging them
by the gate's own code. A block counts for an arm where both its trials are valid, as a block of the gate has no others.
Between a revision and itself, which trial is called head is drawn too. Prints a table; exit code 1 when a rate is not
as stated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from scipy.stats import trim_mean

from bench import experiment
from bench.gate.judge import SIDES, Judge, arm_of, confirm, decide, suspects
from bench.gate.result import FILE, Row
from bench.gate.thresholds import DEFAULT, Thresholds, read, scenario_of, sized
from bench.measures import MEASURES
from bench.metrics import Account, Value, summarize
from bench.paired import estimate, interval
from bench.progress import Progress
from bench.record import Run, Trial, read_run
from bench.scenario import Arm, Contrast, Scenario
from bench.validity import breaches
from bench.verdict import conclude
from servers.plant import Plant

GATES = 500
FEWEST = 40
"""Blocks to be recorded of each kind; fewer are valid."""
STREAM, MESSAGE, OTHER = "sse-aiohttp", "ws-aiohttp", "ws-websockets"


class Kind(NamedTuple):
    """A change to the servers."""

    plants: Mapping[str, Plant]
    """By arm, as recorded: beside a control whose plant does nothing, because planting has a cost of its own."""
    compression: bool
    edit: tuple[str, str]
    """What the live gate's clone has changed in servers/settings.py."""
    found: frozenset[str]
    """Measures, of which at least one is to be named."""
    caught: float
    """Share of gates that have to fail at least; at most, for the revision against itself."""


def _default(plant: str) -> tuple[str, str]:
    return "plant: Plant | None = None", f"plant: Plant | None = Plant({plant})"


KINDS = {
    "itself": Kind({STREAM: Plant(), MESSAGE: Plant(), OTHER: Plant()}, False, ("", ""), frozenset(), 0.01),
    # A token costs these servers 13 and 12 µs in the phase without pacing; a live plant, 0.6 µs by its mere presence.
    "cpu-5": Kind(
        {STREAM: Plant(cpu_us=0.66), MESSAGE: Plant(cpu_us=0.6)}, False, _default("cpu_us=0.05"),
        frozenset({"cpu_server"}), 0.9,
    ),
    "cpu-10": Kind({STREAM: Plant(cpu_us=1.3)}, False, _default("cpu_us=0.7"), frozenset({"cpu_server"}), 0.99),
    "delay-2": Kind(
        {MESSAGE: Plant(first_delay_ms=2)}, False, _default("first_delay_ms=2"), frozenset({"ttft_excess"}), 0.99
    ),
    "split": Kind(
        {STREAM: Plant(split_writes=True)}, False, _default("split_writes=True"), frozenset({"segments"}), 1.0
    ),
    "deflate": Kind(
        {MESSAGE: Plant()}, True, ("compression: bool | None = None", "compression: bool | None = True"),
        frozenset({"cpu_server", "wire_bytes"}), 0.99,
    ),
    "drop": Kind({STREAM: Plant(drop_every=10_000)}, False, _default("drop_every=10_000"), frozenset({"lost"}), 1.0),
}  # fmt: skip


def recorded_arms(scenario: Scenario) -> dict[str, Arm]:
    """Every arm's control, and its variants by kind."""
    arms = {}
    for name, arm in scenario.arms.items():
        arms[f"{name}-control"] = msgspec.structs.replace(arm, plant=Plant())
        for kind, change in KINDS.items():
            if name in change.plants:
                compression = True if change.compression else None
                arms[f"{name}-{kind}"] = msgspec.structs.replace(
                    arm, plant=change.plants[name], compression=compression
                )
    return arms


def record(budget_s: float, kind: str, results: Path) -> bool:
    """Run every arm, or the controls and those of one kind in pairs, side by side, for so long."""
    thresholds = read()
    scenario = scenario_of(thresholds, "default", [])
    arms = recorded_arms(scenario)
    contrasts = {"itself": Contrast(f"{STREAM}-control", f"{STREAM}-itself")}
    if kind:
        contrasts = {name: Contrast(f"{name}-control", f"{name}-{kind}") for name in KINDS[kind].plants}
        arms = {name: arms[name] for pair in contrasts.values() for name in (pair.baseline, pair.other)}
    wanted = msgspec.structs.replace(
        scenario,
        name="gate-planted",
        title="Planted changes: what is in each arm is known, so is what the gate should say",
        arms=arms,
        contrasts=contrasts,
        primary={},  # nothing ends it sooner
        experiment=msgspec.structs.replace(scenario.experiment, budget_s=budget_s, most_void=100.0),
    )
    folder = experiment.new_folder(results, wanted)
    with Progress(wanted) as progress:
        state = experiment.run(wanted, "gate", [], folder, progress, command=["gates", "record"])
    print(f"{folder}: {state}")
    return state == "finished"


def amounts(folders: Iterable[Path]) -> bool:
    """Print by how much each change raised server CPU per token, from pairs of valid trials, as a verdict does."""
    for folder in folders:
        run = read_run(folder)
        plain = run.info["scenario"]
        facts = {(t.facts["block"], t.facts["arm"]): t.facts for t in run.trials if not breaches(t.facts, plain)}
        for contrast in plain["contrasts"].values():
            pair = contrast["baseline"], contrast["other"]
            found = []
            for block in range(1, len(run.info["order"]) + 1):
                if all((block, arm) in facts for arm in pair):
                    control, change = (
                        np.array([one["server_cpu_ns"] / one["chunks"] for one in slices])
                        for slices in (facts[block, arm]["phases"]["firehose"]["slices"] for arm in pair)
                    )
                    found.append(trim_mean(np.log(change / control), 0.25))
            logs = np.array(found)
            middle, reach = estimate(logs), interval(logs, 0.95)
            said = ", ".join(f"{np.expm1(bound):+.1%}" for bound in reach or ())
            print(
                f"  {pair[1]:22} {np.expm1(middle):+.1%} ({said}), sd {logs.std(ddof=1):.1%}, {len(logs)} valid pairs"
            )
    return True


class Made:
    """As much of a summary as the gate's judgement needs, of blocks that were drawn."""

    def __init__(self, values: list[Value], accounts: list[Account], phases: Any) -> None:
        self.values, self.phases = values, phases
        self._index = {(v.phase, v.arm, v.temperature, v.measure, v.statistic): v for v in values}
        self._accounts = {(a.phase, a.arm): a for a in accounts}
        self.conclusions: Any = None

    def get(self, phase: str, arm: str, temperature: str, measure: str, statistic: str) -> Value | None:
        return self._index.get((phase, arm, temperature, measure, statistic))

    def account(self, phase: str, arm: str) -> Account | None:
        return self._accounts.get((phase, arm))


class Block(NamedTuple):
    """What is known of one block: the arms whose trial is valid, and the figures the gate looks at, by arm."""

    valid: set[str]
    values: dict[str, list[Value]]
    accounts: dict[str, list[Account]]


def recorded(folders: Iterable[Path], thresholds: Thresholds) -> tuple[list[Block], Any]:
    """Every whole block of some runs, summarized on its own, and their phases."""
    looked_at = {(t.phase, t.measure, t.statistic) for t in thresholds.timing.values()}
    blocks: list[Block] = []
    phases: Any = None
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for folder in folders:
            run = read_run(folder)
            numbers = range(1, len(run.info["order"]) + 1)
            own = [[trial for trial in run.trials if trial.facts["block"] == number] for number in numbers]
            # One that is not whole was stopped in the middle.
            whole = [trials for trials in own if {t.facts["arm"] for t in trials} == set(run.info["scenario"]["arms"])]
            found = list(pool.map(summed_up, [run] * len(whole), whole, [looked_at] * len(whole)))
            blocks += [block for block, _ in found]
            phases = found[0][1]
    return blocks, phases


def summed_up(run: Run, trials: list[Trial], looked_at: set[tuple[str, str, str]]) -> tuple[Block, Any]:
    """One block, and the phases of its scenario."""
    plain = run.info["scenario"]
    summary = summarize(Run(run.path, run.info, trials, []))
    valid = {t.facts["arm"] for t in trials if not breaches(t.facts, plain)}
    values: dict[str, list[Value]] = {}
    for v in summary.values:
        if (v.phase, v.measure, v.statistic) in looked_at or MEASURES[v.measure].scale == "exact":
            values.setdefault(v.arm, []).append(v)
    accounts: dict[str, list[Account]] = {}
    for account in summary.accounts:
        accounts.setdefault(account.arm, []).append(account)
    return Block(valid, values, accounts), summary.phases


def made(sides: Mapping[str, Sequence[tuple[Block, str]]], phases: Any) -> Made:
    """What a gate would have. `sides` is, by arm of the gate, of which block and recorded arm each of its trials is."""
    values, accounts = [], []
    for arm, trials in sides.items():
        found: dict[tuple[str, ...], list[Value]] = {}
        totals: dict[str, Account] = {}
        for block, name in trials:
            for v in block.values[name]:
                found.setdefault((v.phase, v.temperature, v.measure, v.statistic), []).append(v)
            for one in block.accounts[name]:
                total = totals.setdefault(one.phase, Account(one.phase, arm))
                for key in ("streams", "tokens", "lost", "repeated", "reordered", "corrupted"):
                    setattr(total, key, getattr(total, key) + getattr(one, key))
                for outcome, number in one.outcomes.items():
                    total.outcomes[outcome] = total.outcomes.get(outcome, 0) + number
        accounts += totals.values()
        for some in found.values():
            if len(some) == len(trials):
                figures = [v.per_trial[0] for v in some]
                slices = [v.per_slice[0] for v in some if v.per_slice]
                values.append(
                    msgspec.structs.replace(
                        some[0], arm=arm, per_trial=figures, per_slice=slices,
                        blocks=list(range(1, len(some) + 1)),
                        median=float(np.median(figures)), min=min(figures), max=max(figures),
                    )
                )  # fmt: skip
    return Made(values, accounts, phases)


def rows_of(sides: Mapping[str, Sequence[tuple[Block, str]]], judge: Judge, phases: Any) -> list[Row]:
    """What the gate would find."""
    summary: Any = made(sides, phases)
    contrasts = {name: Contrast(*(arm_of(name, side) for side in SIDES)) for name in judge.scenario.arms}
    blocks = judge.scenario.experiment.blocks
    summary.conclusions = conclude(summary, contrasts, judge.scenario.primary, set(range(1, blocks + 1)))
    return judge.rows(summary)


def resample(size: str, folders: Sequence[Path]) -> bool:
    """Print how often gates made of recorded blocks fail, kind by kind; whether that is as stated."""
    thresholds = sized(read(), size)
    scenario = scenario_of(thresholds, size, [])
    count = scenario.experiment.blocks
    blocks, phases = recorded(folders, thresholds)
    there = {arm for block in blocks for arm in block.values}
    arms = {name: arm for name, arm in scenario.arms.items() if f"{name}-control" in there}
    scenario = msgspec.structs.replace(scenario, arms=arms)
    judge = Judge(thresholds, scenario, {})
    rng = np.random.default_rng(6)
    print(
        f"{GATES} gates of {count} blocks and {len(scenario.arms)} arms, from {len(blocks)} blocks of "
        f"{len(folders)} runs"
    )
    good = True
    for kind, change in KINDS.items():
        variants = {name: f"{name}-{kind if name in change.plants else 'itself'}" for name in scenario.arms}
        if not {*variants.values()} <= there:
            continue  # not recorded
        usable = {
            name: [block for block in blocks if {f"{name}-control", variant} <= block.valid]
            for name, variant in variants.items()
        }
        tried = {
            name: sum({f"{name}-control", variant} <= {*block.values} for block in blocks)
            for name, variant in variants.items()
        }
        fewest = min(map(len, usable.values()))
        if fewest < 2 * count:
            print(f"  {kind:8} {fewest} valid pairs, of which two runs cannot be drawn")
            good = False
            continue
        ends: Counter[str] = Counter()
        named: Counter[str] = Counter()
        suspected = right = 0
        for _ in range(GATES):
            runs: list[list[Row]] = [[], []]
            drawn = {name: rng.choice(len(some), 2 * count, replace=False) for name, some in usable.items()}
            for part, rows in zip((slice(0, count), slice(count, None)), runs, strict=True):
                sides: dict[str, list[tuple[Block, str]]] = {}
                for name, variant in variants.items():
                    swap = rng.random(count) < 0.5 if kind == "itself" else np.zeros(count, bool)
                    pair = f"{name}-control", variant
                    mine = [usable[name][i] for i in drawn[name][part]]
                    sides[arm_of(name, "base")] = [(block, pair[int(s)]) for block, s in zip(mine, swap, strict=True)]
                    sides[arm_of(name, "head")] = [
                        (block, pair[1 - int(s)]) for block, s in zip(mine, swap, strict=True)
                    ]
                rows += rows_of(sides, judge, phases)
            suspected += bool(suspects(runs[0]))
            confirmed = confirm(runs[0], runs[1])
            decision, _ = decide(confirmed)
            ends[decision] += 1
            worse = {row.measure for row in confirmed if row.decides and row.finding == "regression"}
            named.update(worse)
            right += bool(worse & change.found)
        failed = ends["regression"] / GATES
        fine = failed <= change.caught if kind == "itself" else right / GATES >= change.caught
        good &= fine and min(tried.values()) >= FEWEST
        words = ", ".join(f"{end} {n / GATES:.1%}" for end, n in ends.most_common())
        told = ", ".join(f"{measure} {n / GATES:.1%}" for measure, n in named.most_common()) or "nothing"
        of = ", ".join(f"{len(some)} of {tried[name]}" for name, some in usable.items())
        print(f"  {kind:8} {words}; a first run suspects {suspected / GATES:.1%}; named: {told}; valid {of}", end="")
        print("" if fine else "  <-- not as stated")
    return good


def live(kind: str, size: str, arm: str | None, results: Path) -> bool:
    """Run the real gate on a clone with a change in its working tree; whether it says what it should.

    With one arm only, if one is named.
    """
    top = Path(__file__).parents[2]
    change = KINDS.get(kind)
    with tempfile.TemporaryDirectory(prefix="tokenwire-gate-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(top), str(clone)], check=True)
        edited = clone / "servers" / ("stacks/aiohttp.py" if kind == "comment" else "settings.py")
        text = edited.read_text("utf-8")
        if kind == "comment":
            text += "\n# A comment.\n"
        elif kind == "docs":
            (clone / "README.md").write_text("Other words.\n", "utf-8")
        elif change is not None and change.edit[0]:
            assert change.edit[0] in text
            text = text.replace(*change.edit)
        edited.write_text(text, "utf-8")
        measured = [] if kind in ("comment", "docs") else ["--always"]
        own = Path(folder) / "thresholds.toml"
        text = DEFAULT.read_text("utf-8")
        if arm:
            text = re.sub("^arms = .*\n", "", text, flags=re.MULTILINE)
            text = text.replace(f"[sizes.{size}]\n", f'[sizes.{size}]\narms = ["{arm}"]\n')
        own.write_text(text, "utf-8")
        command = [
            *(sys.executable, "-m", "bench", "gate", "--base", "HEAD", "--size", size, *measured),
            *("--thresholds", str(own)),
            *("--results", str(results.absolute()), "--output", f"{folder}/out"),
        ]
        done = subprocess.run(command, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)})
        found = json.loads((Path(folder) / "out" / FILE).read_bytes())
        kept = results / f"live-{kind}-{size}-{os.getpid()}"
        shutil.copytree(Path(folder) / "out", kept)
    worse = {row["measure"] for row in found["rows"] if row["decides"] and row["finding"] == "regression"}
    ended = f"exit {done.returncode}, {found['decision']} in {found['seconds']:.0f} s"
    print(f"{kind} {size} {arm or ''}: {ended}; named: {sorted(worse)}")
    if change is None or not change.found:
        return done.returncode == 0
    return done.returncode == 1 and bool(worse & change.found)


def main(arguments: Sequence[str]) -> int:
    """Carry out one of the commands above; 0 as stated, 1 not, 2 wrong usage."""
    match list(arguments):
        case ["record", given, *kind] if len(kind) <= 1 and {*kind} <= {*KINDS}:
            return int(not record(60 * float(given.rstrip("m")), kind[0] if kind else "", Path("results")))
        case ["amounts", *folders] if folders:
            return int(not amounts(map(Path, folders)))
        case ["resample", size, *folders] if folders:
            return int(not resample(size, [Path(folder) for folder in folders]))
        case ["live", kind, size, *arm] if len(arm) <= 1 and kind in [*KINDS, "comment", "docs"]:
            return int(not live(kind, size, arm[0] if arm else None, Path("results")))
        case ["kinds"]:
            print(", ".join([*KINDS, "comment", "docs"]))
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
