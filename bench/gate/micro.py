"""Hot paths of two revisions against each other, each as a multiple of a loop that is the same in both.

Head's file of micro-benchmarks measures either one's code, in processes of their own that take turns. What a process
tells of a path is a multiple of the reference loop in the same process, so that the speed of the machine drops out; the
multiples are paired round by round and tested like the blocks of a run.
"""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.gate.judge import SIDES, in_words
from bench.gate.result import Finding, Row
from bench.paired import FEWEST_BLOCKS, Floats, estimate, holm, interval, sign_flip_p
from bench.verdict import ALPHA

ROUNDS = 10
"""Enough for up to 25 paths: see `fewest_rounds`."""
UNIT = "× reference"
TIMEOUT_S = 120.0
"""For one process, which takes some 4 s."""


class MicroError(Exception):
    """The hot paths cannot be measured: the side and why, one line."""


class Code(NamedTuple):
    """A revision's code and the interpreter, with its libraries, that runs it."""

    python: Path
    tree: Path


class HotPath(NamedTuple):
    """What was measured of one path: multiples of the reference loop, those of a round at the same place."""

    title: str
    base: list[float]
    head: list[float]
    missing: dict[str, str]
    """Side -> why it could not be measured there, if it could not."""


class _Seen(NamedTuple):
    """A path in one process."""

    title: str
    multiple: float | None
    why: str
    """Why there is no multiple, else empty."""


def run(
    base: Code,
    head: Code,
    benchmarks: Path,
    rounds: int = ROUNDS,
    seconds: float = math.inf,
    told: Callable[[str], object] = lambda _line: None,
) -> dict[str, HotPath]:
    """Measure every path of the file `benchmarks` on both sides, by name, in so many rounds of a process each.

    Ends sooner rather than take more than `seconds` by the longest round so far. `told` hears of every round. Raises
    `MicroError`.
    """
    seen: dict[str, list[dict[str, _Seen]]] = {side: [] for side in SIDES}
    sides = {"base": base, "head": head}
    began = time.monotonic()
    longest = 0.0
    for number in range(rounds):
        start = time.monotonic()
        if start - began + longest > seconds:
            break
        told(f"hot paths, round {number + 1} of {rounds}")
        # The one that goes second finds another machine: caches, clock rates, whatever else runs.
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            seen[side].append(_process(sides[side], benchmarks.resolve(), side))
        longest = max(longest, time.monotonic() - start)
    names = dict.fromkeys(name for one in chain(*seen.values()) for name in one)
    return {name: _path(name, seen) for name in names}


def _path(name: str, seen: dict[str, list[dict[str, _Seen]]]) -> HotPath:
    """One path over all rounds: measured everywhere, or missing for the first reason there was."""
    absent = _Seen(name, None, "there is no such benchmark")
    by_side = {side: [one.get(name, absent) for one in rounds] for side, rounds in seen.items()}
    missing = {
        side: next(one.why for one in ones if one.multiple is None)
        for side, ones in by_side.items()
        if any(one.multiple is None for one in ones)
    }
    multiples = {side: [one.multiple for one in ones if one.multiple is not None] for side, ones in by_side.items()}
    title = next(one.title for one in chain(*by_side.values()) if one is not absent)
    return HotPath(title, multiples["base"], multiples["head"], missing)


def _process(code: Code, benchmarks: Path, side: str) -> dict[str, _Seen]:
    """Run all benchmarks once, on one side's code. Nothing of it is left when this returns or raises."""
    with tempfile.TemporaryDirectory(prefix="tokenwire-micro-") as folder:
        report, output = Path(folder, "report.xml"), Path(folder, "output.txt")
        command = [
            *(str(code.python.absolute()), "-m", "pytest", str(benchmarks)),
            *("--benchmark-only", "-q", "--tb=line", "--junit-xml", str(report)),
            # No configuration, fixture or plugin of either tree has a part in it, and nothing is written to one.
            *("-c", os.devnull, "--rootdir", str(benchmarks.parent), "--noconftest", "--import-mode=importlib"),
            *("-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"),
            *("--basetemp", str(Path(folder, "files")), "--benchmark-storage", Path(folder, "kept").as_uri()),
        ]
        # Nothing that is set here for Python or pytest, only this.
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))},
            "PYTHONPATH": str(code.tree.absolute()),
            "PYTHONHASHSEED": "0",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        status = _finished(command, code.tree, environment, output, side)
        # 1: some benchmarks failed, which is those paths' affair.
        if status not in (0, 1) or not report.exists():
            raise MicroError(f"{side}: exit code {status}: {_trouble(output.read_text(errors='replace'))}")
        try:
            return _read(report, code.tree)
        except (ValueError, ET.ParseError) as error:
            raise MicroError(f"{side}: {error}") from error


def _finished(command: Sequence[str], folder: Path, environment: dict[str, str], output: Path, side: str) -> int:
    """Run a command to its end, on one core; return its exit code."""
    core = {max(os.sched_getaffinity(0))} if hasattr(os, "sched_setaffinity") else None

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, core)

    with open(output, "wb") as told:
        try:
            # A session of its own: Ctrl-C in the terminal is for this process, which then ends the other.
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                start_new_session=True,
                preexec_fn=pin,
            )
        except OSError as error:
            raise MicroError(f"{side}: {error.filename or command[0]}: {error.strerror}") from error
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise MicroError(f"{side}: took more than {TIMEOUT_S:.0f} s, and was given up") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _trouble(output: str) -> str:
    """The line that says what went wrong: pytest's last word on errors, else the last there is."""
    lines = [line for line in output.splitlines() if line.strip()]
    told = [line.removeprefix("E ") for line in lines if line.startswith(("E ", "ERROR:"))]
    return (told or lines or ["it said nothing"])[-1].strip()


def _read(report: Path, tree: Path) -> dict[str, _Seen]:
    """What a JUnit report tells of each path, whichever of its passes does. Raises `ValueError` or `ParseError`."""
    seen: dict[str, _Seen] = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        told = [(one.get("name", ""), one.get("value", "")) for one in case.iter("property")]
        for key, file in told:
            if key == "code" and not Path(file).resolve().is_relative_to(tree.resolve()):
                raise ValueError(f"{file} was measured, which is not in {tree}")
        properties = dict(told)
        name = properties.get("path", case.get("name", ""))
        before = seen.get(name, _Seen(properties.get("title", name), None, ""))
        trouble = next((one.get("message", "") for one in case if one.tag in ("skipped", "failure", "error")), "")
        why = before.why or trouble.partition("\n")[0].strip()
        multiple = float(properties["multiple"]) if "multiple" in properties else before.multiple
        seen[name] = _Seen(before.title, None if why else multiple, why)
    return {
        name: one if one.multiple or one.why else one._replace(why="no figure was told") for name, one in seen.items()
    }


# What the multiples amount to.


def fewest_rounds(paths: int) -> int:
    """The rounds without which no path can be a regression: all of one sign must be enough for Holm's test."""
    rounds = FEWEST_BLOCKS
    while paths * 2 / 2**rounds > ALPHA:
        rounds += 1
    return rounds


def judge(paths: dict[str, HotPath], smallest_effect: float, decides: bool) -> list[Row]:
    """A row for each path. `smallest_effect` is the share of base's time by which head must be slower to be worse."""
    logs = {
        name: np.log(np.array(path.head)) - np.log(np.array(path.base))
        for name, path in paths.items()
        if path.base and not path.missing
    }
    adjusted = dict(zip(logs, holm([sign_flip_p(log) for log in logs.values()]), strict=True))
    return [
        _judged(name, path, logs[name], adjusted[name], fewest_rounds(len(logs)), smallest_effect, decides)
        if name in logs
        else _untold(name, path)
        for name, path in paths.items()
    ]


def _judged(
    name: str, path: HotPath, logs: Floats, p: float, fewest: int, smallest_effect: float, decides: bool
) -> Row:
    """The row of a path that was measured on both sides. `p` is Holm's."""
    bound, middle = math.log1p(smallest_effect), estimate(logs)
    reach, upper = interval(logs, 0.95), interval(logs, 0.90)
    enough = len(logs) >= FEWEST_BLOCKS
    finding: Finding = "inconclusive"
    if enough and p <= ALPHA and abs(middle) > bound:
        finding = "regression" if middle > 0 else "improvement"
    elif enough and upper is not None and upper[1] < bound:
        finding = "same"
    low, high = (None, None) if reach is None else (math.expm1(reach[0]), math.expm1(reach[1]))
    least = f"{smallest_effect * 100:g} %"
    said = in_words(finding, least)
    if finding == "inconclusive" and len(logs) < fewest:
        said += f" from {len(logs)} rounds: it takes {fewest}"
    between = "" if low is None or high is None else f" (95 % interval {low * 100:+.1f} % to {high * 100:+.1f} %)"
    return Row(
        name=f"micro/{name}",
        kind="micro",
        title=path.title,
        where="",
        arm="",
        measure=name,
        unit=UNIT,
        base=statistics.median(path.base),
        head=statistics.median(path.head),
        decides=decides,
        finding=finding,
        sentence=f"{path.title}: {math.expm1(middle) * 100:+.1f} %{between}, {said}.",
        scale="ratio",
        effect=math.expm1(middle),
        low=low,
        high=high,
        smallest_effect=smallest_effect,
        blocks=len(logs),
    )


def _untold(name: str, path: HotPath) -> Row:
    """The row of a path that there is nothing to compare of."""
    whys = "; ".join(f"{side}: {why}" for side, why in path.missing.items()) or "no round was measured"
    return Row(
        name=f"micro/{name}",
        kind="micro",
        title=path.title,
        where="",
        arm="",
        measure=name,
        unit=UNIT,
        base=statistics.median(path.base) if path.base else None,
        head=statistics.median(path.head) if path.head else None,
        decides=False,
        finding="told",
        sentence=f"{path.title}: not compared ({whys}).",
        blocks=min(len(path.base), len(path.head)),
    )
