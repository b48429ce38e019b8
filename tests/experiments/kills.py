"""Kill a driver, a server or the whole run at random moments; nothing that had finished may be lost, nothing may stay.

    python -m tests.experiments.kills [TIMES] [SEED]

After each kill every trial file is read, the report is built, an unfinished run is gone on with, and the machine is
searched for processes and listening ports of the run. Prints a line per kill; exits with 1 if anything was amiss.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.record import read_run, read_trial

TARGETS = ("driver", "server", "run")
SCENARIO = Path(__file__).parent / "small.toml"
LONGEST_S = 10.0
"""A kill comes at any moment up to this long after the start."""
AWAY_S = 10.0
"""By then what was killed is gone, with all that depended on it."""
END_S = 120.0


class Outcome(NamedTuple):
    """What one kill did."""

    target: str
    after_s: float
    code: int | None
    trials: int
    """Files that were read."""
    amiss: list[str]


def tokenwire(*arguments: str) -> list[str]:
    """The command, by this interpreter."""
    return [sys.executable, "-c", "from bench.cli import main; main()", *arguments]


def once(target: str, after_s: float, results: Path) -> Outcome:
    """Start a run, kill `target` after so long, and look at what is left."""
    with (results.parent / "output").open("wb") as output:
        run = subprocess.Popen(tokenwire("run", str(SCENARIO), "--results", str(results)), stdout=output, stderr=output)
        family = {run.pid: psutil.Process(run.pid)}
        killed = _kill(run, target, after_s, family)
        try:
            code: int | None = run.wait(END_S)
        except subprocess.TimeoutExpired:
            run.kill()
            code = None
    said = (results.parent / "output").read_text("utf-8", "replace")
    amiss = [] if code is not None else [f"it hung:\n{said}"]
    if "Traceback" in said:
        amiss.append(f"a traceback:\n{said}")
    amiss += _left_over(family)
    trials = 0
    for folder in sorted(results.glob("*")):
        trials += _check(folder, amiss)
    return Outcome(target if killed else f"{target} (had ended)", after_s, code, trials, amiss)


def _kill(run: subprocess.Popen[bytes], target: str, after_s: float, family: dict[int, psutil.Process]) -> bool:
    """Wait, getting to know all processes of the run, and kill one; false when there was none any more."""
    end = time.monotonic() + after_s
    while True:
        own = _children(run.pid)
        family.update({process.pid: process for process in own})
        wanted = [process for process in own if _is(process, target)]
        if time.monotonic() >= end and (target == "run" or wanted or run.poll() is not None):
            break
        time.sleep(0.02)
    if run.poll() is not None:
        return False
    try:
        (psutil.Process(run.pid) if target == "run" else random.choice(wanted)).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _is(process: psutil.Process, target: str) -> bool:
    try:
        return {"driver": "bench.drivers.asyncio_", "server": "servers"}.get(target, "") in process.cmdline()
    except psutil.Error:
        return False


def _left_over(family: dict[int, psutil.Process]) -> list[str]:
    """The processes of the run that live on; their ports would be theirs."""
    _, alive = psutil.wait_procs(family.values(), timeout=AWAY_S)
    return [f"{process.pid} lives on: {' '.join(process.cmdline())}" for process in alive]


def _check(folder: Path, amiss: list[str]) -> int:
    """Read all that is there, build the report, and go on with the run if it can; return how many trials were read."""
    if not (folder / "run.json").exists():
        return 0  # killed before its first line
    run = read_run(folder)
    amiss += run.warnings
    for trial in run.trials:
        if read_trial(trial.path).empty:
            amiss.append(f"{trial.path.name} is empty")
    report = subprocess.run(
        tokenwire("report", str(folder)), capture_output=True, text=True, timeout=END_S, check=False
    )
    wanted = 0 if run.trials else 2
    if report.returncode != wanted or "Traceback" in report.stderr:
        amiss.append(f"report ended with {report.returncode}, not {wanted}: {report.stderr}")
    if run.info["state"] in ("running", "failed"):
        again = subprocess.run(
            tokenwire("run", "--resume", str(folder)), capture_output=True, text=True, timeout=END_S, check=False
        )
        if again.returncode not in (0, 3):
            amiss.append(f"it could not go on: {again.returncode}: {again.stderr}")
    return len(run.trials)


def main(times: int, seed: int) -> int:
    """Kill so many times; the seed fixes the moments and the targets."""
    draw = random.Random(seed)
    bad = trials = 0
    done: Counter[str] = Counter()
    for number in range(1, times + 1):
        target, after_s = TARGETS[number % len(TARGETS)], draw.uniform(0, LONGEST_S)
        with tempfile.TemporaryDirectory() as folder:
            outcome = once(target, after_s, Path(folder) / "results")
        bad += bool(outcome.amiss)
        trials += outcome.trials
        done[outcome.target] += 1
        print(
            f"{number:3} {outcome.target:20} after {outcome.after_s:4.1f} s: exit code {outcome.code}, "
            f"{outcome.trials} trials read; {'; '.join(outcome.amiss) or 'all well'}",
            flush=True,
        )
    killed = ", ".join(f"{target} {count}" for target, count in sorted(done.items()))
    print(f"{times} kills ({killed}): {trials} finished trials read, {bad} times something was amiss")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, int(sys.argv[2]) if len(sys.argv) > 2 else 1))
