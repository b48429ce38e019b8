"""Are the verdicts right? Experiments of the default size, made again and again from recorded blocks.

    python -m tests.experiments.calibrate aa RUN...        # runs of `tokenwire aa`: how often is something found there?
    python -m tests.experiments.calibrate planted RUN...   # runs of planted.toml: how often is what was planted found?
    python -m tests.experiments.calibrate repeats RUN...   # runs of one scenario: do their verdicts ever contradict?
    python -m tests.experiments.calibrate live PLANT       # one run of the default size with that arm of planted.toml

An experiment is made by drawing blocks without putting any back, and judging them by the same code as a run. Between an
arm and itself, which trial is called which is drawn too. Prints a table; exit code 1 when a rate is not as stated.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from scipy.stats import binomtest

from bench import experiment
from bench.measures import MEASURES, streams_of
from bench.metrics import Summary, Value, summarize
from bench.progress import Progress
from bench.record import read_run
from bench.report import build
from bench.scenario import Contrast, Primary, Scenario
from bench.scenario_toml import load
from bench.verdict import ALPHA, conclude, conclude_run, paired, whole_blocks

PLANTED = str(Path(__file__).with_name("planted.toml"))
BLOCKS = load("duel").experiment.blocks
EXPERIMENTS = 1000
FOUND = {
    "cpu-5": ("cpu", "slower", 0.8),
    "cpu-10": ("cpu", "slower", 1.0),
    "delay-02": ("first-token", "slower", 0.8),
    "delay-05": ("first-token", "slower", 1.0),
}
"""By planted arm: the primary measure that should say which verdict, and how often at least."""
COUNTED = {"split": ("segments", "chat"), "drop": ("lost", "firehose")}
"""By planted arm: the exact counter that should differ, and where."""


class Recorded(NamedTuple):
    """The figures of recorded trials: by primary measure and arm, of every whole block."""

    values: dict[tuple[str, str], Value]
    blocks: list[int]
    primary: dict[str, Primary]
    summary: Summary


class Made:
    """As much of a summary as verdicts need, of an experiment made from recorded blocks."""

    def __init__(self, values: Sequence[Value], summary: Summary) -> None:
        self.values = list(values)
        self.phases = summary.phases
        self._index = {(v.phase, v.arm, v.temperature, v.measure, v.statistic): v for v in values}

    def get(self, phase: str, arm: str, temperature: str, measure: str, statistic: str) -> Value | None:
        return self._index.get((phase, arm, temperature, measure, statistic))

    def account(self, _phase: str, _arm: str) -> None:
        return None


def recorded(folder: Path) -> Recorded:
    """The primary figures of a run."""
    run = read_run(folder)
    summary = summarize(run)
    primary = msgspec.convert(run.info["scenario"]["primary"], dict[str, Primary])
    values = {}
    for name, one in primary.items():
        where = streams_of(one.measure, one.temperature, run.info["scenario"]["phases"][one.phase]["connections"])
        for arm in summary.arms:
            value = summary.get(one.phase, arm.name, where, one.measure, one.statistic)
            if value is not None:
                values[name, arm.name] = value
    return Recorded(values, sorted(whole_blocks(summary)), primary, summary)


def drawn(value: Value, arm: str, blocks: Sequence[int]) -> Value:
    """A value's figures of some blocks, as those of blocks 1, 2, 3 ... of `arm`."""
    at = [value.blocks.index(block) for block in blocks]
    slices = [value.per_slice[i] for i in at] if value.per_slice else []
    figures = [value.per_trial[i] for i in at]
    numbers = list(range(1, len(blocks) + 1))
    return msgspec.structs.replace(value, arm=arm, per_trial=figures, per_slice=slices, blocks=numbers)


def verdicts(values: Sequence[Value], summary: Summary, contrasts: Mapping[str, Contrast], primary: Any) -> list[Any]:
    """Judge figures by the code that judges a run."""
    made: Any = Made(values, summary)
    return conclude(made, contrasts, primary, set(range(1, 10_000))).primary


def pooled(runs: Sequence[Recorded]) -> list[dict[str, tuple[Value, Value]]]:
    """The blocks of several A/A runs of one arm: for each, by primary measure, both trials' single figures."""
    blocks = []
    for run in runs:
        names = sorted({arm for _, arm in run.values})
        for block in run.blocks:
            pair = {name: (run.values[name, names[0]], run.values[name, names[1]]) for name in run.primary}
            blocks.append({n: (drawn(a, "a", [block]), drawn(b, "b", [block])) for n, (a, b) in pair.items()})
    return blocks


def made_of(
    blocks: Sequence[dict[str, tuple[Value, Value]]], name: str, arms: tuple[str, str], swap: Sequence[bool]
) -> list[Value]:
    """One primary measure of both arms over drawn blocks, with the two trials of some blocks exchanged."""
    pairs = [block[name][:: -1 if s else 1] for block, s in zip(blocks, swap, strict=True)]
    return [msgspec.structs.replace(joined([pair[side] for pair in pairs]), arm=arms[side]) for side in (0, 1)]


def aa(folders: Sequence[Path]) -> bool:
    """Print how the A/A runs themselves ended and how experiments made of them would; whether all is as stated."""
    runs: dict[str, list[Recorded]] = {}
    real: Counter[tuple[str, str]] = Counter()
    for folder in folders:
        run = recorded(folder)
        arms = sorted({arm for _, arm in run.values})
        runs.setdefault(arms[0], []).append(run)
        contrast = {"itself": Contrast(arms[0], arms[1])}
        for c in conclude(run.summary, contrast, run.primary, set(run.blocks)).primary:
            real[c.primary, c.verdict] += 1
    print(f"{len(folders)} real runs of an arm against itself, {sum(real.values())} primary comparisons:")
    for (name, verdict), count in sorted(real.items()):
        print(f"  {name:12} {verdict:12} {count}")
    equivalent = sum(n for (_, v), n in real.items() if v == "equivalent") / sum(real.values())
    wrong_real = sum(n for (_, v), n in real.items() if v in ("faster", "slower"))
    print(f"  equivalent: {equivalent:.0%}; wrong: {wrong_real}")

    _turns(runs)
    rng = np.random.default_rng(1)
    pools = {arm: pooled(some) for arm, some in runs.items()}
    wrong = significant = 0
    found: Counter[str] = Counter()
    summary, primary = next(iter(runs.values()))[0].summary, next(iter(runs.values()))[0].primary
    contrasts = {"protocol": Contrast("a", "b"), "library": Contrast("c", "d")}
    for _ in range(EXPERIMENTS):
        values = []
        for arms, pool in zip((("a", "b"), ("c", "d")), rng.choice(len(pools), 2), strict=True):
            blocks = list(pools.values())[pool]
            some = [blocks[i] for i in rng.choice(len(blocks), BLOCKS, replace=False)]
            swap = rng.random(BLOCKS) < 0.5
            values += [v for name in primary for v in made_of(some, name, arms, list(swap))]
        judged = verdicts(values, summary, contrasts, primary)
        found.update(c.verdict for c in judged)
        wrong += any(c.verdict in ("faster", "slower") for c in judged)
        significant += any(c.p_holm <= ALPHA for c in judged)
    total = sum(found.values())
    sources = ", ".join(f"{len(pool)} blocks of {arm}" for arm, pool in pools.items())
    print(f"{EXPERIMENTS} experiments of {BLOCKS} blocks, 2 contrasts and {len(primary)} measures each, from {sources}")
    print("  verdicts: " + ", ".join(f"{verdict} {n / total:.1%}" for verdict, n in found.most_common()))
    stated = binomtest(wrong, EXPERIMENTS, ALPHA, alternative="greater")
    level = binomtest(significant, EXPERIMENTS, ALPHA, alternative="greater")
    print(f"  with any wrong faster or slower, stated at most {ALPHA:.0%}: {wrong / EXPERIMENTS:.1%};", end=" ")
    print(f"binomial test that it is more: p = {stated.pvalue:.2g}")
    print(f"  with any p of {ALPHA} or less after Holm, of whatever size: {significant / EXPERIMENTS:.1%};", end=" ")
    print(f"p = {level.pvalue:.2g}")
    return wrong_real == 0 and equivalent >= 0.8 and stated.pvalue > 0.01 and level.pvalue > 0.01


def _turns(runs: Mapping[str, Sequence[Recorded]]) -> None:
    """Print what taking turns is worth: differences within blocks beside those to the trial of the next block."""
    print("standard deviation of a difference, of trials that took turns and of trials one block apart:")
    for name, one in next(iter(runs.values()))[0].primary.items():
        kind: Any = MEASURES[one.measure].scale
        within: list[float] = []
        apart: list[float] = []
        for run in (run for some in runs.values() for run in some):
            a, b = (run.values[name, arm] for arm in sorted({arm for _, arm in run.values}))
            shifted = msgspec.structs.replace(b, blocks=[block + 1 for block in b.blocks])
            for found, other in ((within, b), (apart, shifted)):
                found.extend(paired(a, other, set(run.blocks), kind)[1])
        unit = MEASURES[one.measure].unit if kind == "difference" else "%"
        scale = 1 if kind == "difference" else 100
        turns, blocks = (scale * float(np.std(found, ddof=1)) for found in (within, apart))
        print(f"  {name:12} {turns:.3g} {unit} and {blocks:.3g} {unit}")


def planted(folders: Sequence[Path]) -> bool:
    """Print how often experiments made of recorded blocks find what was planted; whether that is often enough."""
    good = True
    rng = np.random.default_rng(2)
    runs = [recorded(folder) for folder in folders]
    summary, primary = runs[0].summary, runs[0].primary
    count = sum(len(run.blocks) for run in runs)
    print(f"{EXPERIMENTS} experiments of {BLOCKS} out of {count} blocks of {len(runs)} runs, against control")
    for arm, (name, wanted, share) in FOUND.items():
        contrast = {"planted": Contrast("control", arm)}
        # By primary measure and side: that figure of every block of every run.
        single = {
            (n, who): [drawn(run.values[n, who], who, [block]) for run in runs for block in run.blocks]
            for n in primary
            for who in ("control", arm)
        }
        found: Counter[str] = Counter()
        elsewhere = 0
        for _ in range(EXPERIMENTS):
            some = rng.choice(count, BLOCKS, replace=False)
            judged = _judged([joined([of[i] for i in some]) for of in single.values()], summary, contrast, primary)
            found[judged[name].verdict] += 1
            elsewhere += any(c.verdict in ("faster", "slower") for n, c in judged.items() if n != name)
        all_of_it = _judged([joined(of) for of in single.values()], summary, contrast, primary)[name]
        words = ", ".join(f"{verdict} {n / EXPERIMENTS:.1%}" for verdict, n in found.most_common())
        print(f"  {arm:9} {name:12} {words}; all blocks: {all_of_it.estimate:+.3g}", end=" ")
        print(f"({all_of_it.low:+.3g} to {all_of_it.high:+.3g}); another measure: {elsewhere / EXPERIMENTS:.1%}")
        good &= found[wanted] / EXPERIMENTS >= share
    for run in runs:
        for arm, (counter, phase) in COUNTED.items():
            contrast = {"planted": Contrast("control", arm)}
            counted = conclude(run.summary, contrast, {}, set(run.blocks)).counters
            one = next(c for c in counted if c.measure == counter and c.phase == phase)
            print(f"  {arm:9} {phase} {counter}: {one.baseline_value:g} against {one.other_value:g}, {one.finding}")
            good &= one.finding == "more"
    return good


def joined(values: Sequence[Value]) -> Value:
    """Single figures of one arm as those of blocks 1, 2, 3 ..."""
    return msgspec.structs.replace(
        values[0],
        per_trial=[value.per_trial[0] for value in values],
        per_slice=[value.per_slice[0] for value in values if value.per_slice],
        blocks=list(range(1, len(values) + 1)),
    )


def _judged(
    values: Sequence[Value], summary: Summary, contrasts: Mapping[str, Contrast], primary: Mapping[str, Primary]
) -> dict[str, Any]:
    return {c.primary: c for c in verdicts(values, summary, contrasts, primary)}


def repeats(folders: Sequence[Path]) -> bool:
    """Print the verdicts of runs of one experiment side by side; whether none contradict each other."""
    rows: dict[str, list[str]] = {}
    estimates: dict[str, list[str]] = {}
    for folder in folders:
        run = read_run(folder)
        summary = summarize(run)
        for c in conclude_run(summary, run.info["scenario"]).primary:
            rows.setdefault(f"{c.contrast} {c.primary}", []).append(c.verdict)
            estimates.setdefault(f"{c.contrast} {c.primary}", []).append(f"{c.estimate:+.3g}")
        voided = sum(entry["why"] == "validity" for entry in run.info["voids"])
        print(f"{folder.name}: {run.info['state']}, {summary.blocks_whole} blocks, {voided} void")
    opposite = [name for name, seen in rows.items() if {"faster", "slower"} <= set(seen)]
    for name, seen in rows.items():
        print(f"  {name:24} " + "  ".join(f"{v} {e}" for v, e in zip(seen, estimates[name], strict=True)))
    print(f"opposite verdicts: {', '.join(opposite) or 'none'}")
    return not opposite


def live(arm: str, results: Path) -> bool:
    """Run the default size with the control and one planted arm, and print what the run says."""
    whole = load(PLANTED)
    scenario: Scenario = msgspec.structs.replace(
        whole,
        name=f"live-{arm}",
        arms={name: whole.arms[name] for name in ("control", arm)},
        contrasts={"planted": Contrast("control", arm)},
        experiment=msgspec.structs.replace(whole.experiment, blocks=BLOCKS),
    )
    folder = experiment.new_folder(results, scenario)
    with Progress(scenario) as progress:
        state = experiment.run(scenario, PLANTED, [], folder, progress)
    summary, written = build(folder)
    assert summary.conclusions is not None
    print(f"{folder.name}: {state}, {summary.conclusions.blocks} blocks; {written['html']}")
    for c in summary.conclusions.primary:
        print(f"  {c.primary:12} {c.verdict:12} {c.estimate:+.3g} ({c.low} to {c.high}), p = {c.p_holm:.2g} after Holm")
    if arm in FOUND:
        name, wanted, _ = FOUND[arm]
        return any(c.primary == name and c.verdict == wanted for c in summary.conclusions.primary)
    counter, phase = COUNTED[arm]
    [one] = [c for c in summary.conclusions.counters if c.measure == counter and c.phase == phase]
    print(f"  {phase} {counter}: {one.baseline_value:g} against {one.other_value:g}, {one.finding}")
    return one.finding == "more"


def main(arguments: Sequence[str]) -> int:
    """Carry out one of the commands above; 0 as stated, 1 not, 2 wrong usage."""
    match list(arguments):
        case ["aa", *folders] if folders:
            return int(not aa([Path(folder) for folder in folders]))
        case ["planted", *folders] if folders:
            return int(not planted([Path(folder) for folder in folders]))
        case ["repeats", *folders] if folders:
            return int(not repeats([Path(folder) for folder in folders]))
        case ["live", arm] if arm in FOUND or arm in COUNTED:
            return int(not live(arm, Path("results")))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
