"""Locust processes with tokenwire's locustfile against a real target, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.rawlog import STREAMS_FILE, StreamRecord, content_reads
from bench.scenario_toml import load
from servers.emitter import schedule

LOCUSTFILE = Path(__file__).parents[2] / "bench" / "swarm" / "locustfile.py"
PROTOCOLS = ("sse", "websocket")
PATIENCE_S = 30.0
"""How long to wait for what has to come: only a failure takes so long."""

SCENARIO = """
title = "Quick streams"

[arms.sse]
protocol = "sse"
stack = "aiohttp"

[arms.ws]
protocol = "websocket"
stack = "aiohttp"

[timeouts]
total_s = 20

[phases.cold]
load = "closed"
users = 1
turns = 1
think_s = 0.01
connections = "cold"
profile = "quick"

[phases.warm]
load = "open"
rate = 1
duration_s = 1
connections = "warm"
pool = 1
profile = "quick"

# Half a second between one stream and the next, so that few are under way at once.
[phases.calm]
load = "closed"
users = 1
turns = 1
think_s = 0.1
connections = "cold"
profile = "quick"

# Two seconds a stream: what is under way at the end of a short test is to be drained.
[phases.long]
load = "closed"
users = 1
turns = 1
connections = "cold"
profile = "long"

# Fifteen seconds a stream, which only who is impatient cuts.
[phases.lasting]
load = "closed"
users = 1
turns = 1
connections = "cold"
profile = "lasting"

[phases.broken]
load = "closed"
users = 1
turns = 1
think_s = 0.05
connections = "cold"
profile = "broken"
fault = "all"

# Asked for again so late that a test is over before.
[phases.patient]
load = "closed"
users = 1
turns = 1
connections = "cold"
profile = "patient"
fault = "all"
retry = { delay_ms = 60000, most_ms = 60000 }

[phases.grown]
load = "steps"
users = [1, 2]
turns = 1
limit_ms = 10
connections = "cold"
profile = "quick"

[phases.crowded]
load = "crowd"
sizes = [1]
hold_s = 1
connections = "cold"
profile = "quick"

[phases.restarted]
load = "closed"
users = 1
duration_s = 2
connections = "cold"
profile = "quick"
restart = { after_s = 1 }

[faults.all]
kind = "close"
share = 1.0
at = [2, 5]

[profiles.quick]
first = { dist = "constant", ms = 5 }
gap = { dist = "lognormal", median_ms = 2, sigma = 0.4 }
length = { dist = "uniform", min = 10, max = 20 }

[profiles.long]
first = { dist = "constant", ms = 500 }
gap = { dist = "constant", ms = 100 }
length = { dist = "fixed", tokens = 16 }

[profiles.lasting]
first = { dist = "constant", ms = 5 }
gap = { dist = "constant", ms = 100 }
length = { dist = "fixed", tokens = 150 }

[profiles.broken]
first = { dist = "constant", ms = 5 }
gap = { dist = "constant", ms = 2 }
length = { dist = "fixed", tokens = 10 }

[profiles.patient]
first = { dist = "constant", ms = 5 }
gap = { dist = "constant", ms = 2 }
length = { dist = "fixed", tokens = 10 }
"""
LONG_TOKENS = 16


REPORTS_WAIT = "LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP"
"""How long Locust waits for users before it says that all are there, in seconds: usually 1, whether or not they are."""


class Target(NamedTuple):
    """A server of `SCENARIO`."""

    scenario: Path
    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def target(folder: Path) -> Iterator[Target]:
    """`tokenwire serve` in a process of its own."""
    scenario = folder / "quick.toml"
    scenario.write_text(SCENARIO)
    command = [sys.executable, "-m", "bench", "serve", "--scenario", str(scenario), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Target(scenario, f"http://127.0.0.1:{ready['port']}", process)
    finally:
        process.kill()
        process.communicate()


def eventually(what: Callable[[], Any], why: str = "") -> Any:
    """What the call returns once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline, why or what
        time.sleep(0.05)
    return found


class Locust:
    """A Locust process with our locustfile. What it says goes into files, so that no pipe can fill up."""

    def __init__(
        self, folder: Path, *arguments: str, locustfile: str = str(LOCUSTFILE), env: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.records = folder / "records"
        self._out, self._err = folder / "stdout", folder / "stderr"
        command = [sys.executable, "-m", "locust", "-f", locustfile, "--records", str(self.records), *arguments]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder,
                env=os.environ | {"COLUMNS": "200", **(env or {})}, start_new_session=True,
            )  # fmt: skip
        self.began = time.monotonic()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def said(self, text: str) -> bool:
        """Whether it has logged this."""
        assert self.process.poll() is None or text in self.err, f"it ended with {self.process.returncode}: {self.err}"
        return text in self.err

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(PATIENCE_S)

    def signal(self, number: signal.Signals, *, to_all: bool) -> None:
        """Send a signal, `to_all` also to its children, as a terminal does."""
        (os.killpg if to_all else os.kill)(self.process.pid, number)

    def kill(self) -> None:
        """End it and its children, however they are."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def tests(self) -> list[Test]:
        """The tests that it had a report of, in order."""
        return [Test(path.parent) for path in sorted(self.records.glob("*/distributed.json"))]

    @property
    def test(self) -> Test:
        """The only one."""
        assert len(self.tests) == 1, f"{self.tests}\n{self.err}\n{self.out}"
        return self.tests[0]


@contextlib.contextmanager
def locusts() -> Iterator[Callable[..., Locust]]:
    """Start some; they end with the block, however that ends."""
    there: list[Locust] = []

    def start(*arguments: Any, **more: Any) -> Locust:
        there.append(Locust(*arguments, **more))
        return there[-1]

    try:
        yield start
    finally:
        for one in there:
            one.kill()


class Page:
    """A Locust's page, asked directly."""

    def __init__(self, run: Locust, port: int) -> None:
        self.run, self._url = run, f"http://127.0.0.1:{port}"
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> str:
        with self._direct.open(self._url + path, timeout=10) as answer:
            body: bytes = answer.read()
        return body.decode()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, **form: str) -> str:
        with self._direct.open(self._url + path, urllib.parse.urlencode(form).encode(), timeout=30) as answer:
            body: bytes = answer.read()
        return body.decode()

    def there(self) -> bool:
        assert self.run.process.poll() is None, self.run.err
        try:
            return bool(self.get("/tokenwire.json"))
        except urllib.error.URLError:
            return False

    def row(self, name: str) -> dict[str, Any]:
        """A row of Locust's own table; empty where there is none."""
        rows = self.json("/stats/requests")["stats"]
        return next((row for row in rows if row["name"] == name), {})


class Stream(NamedTuple):
    """A stream as the worker kept it."""

    worker: str
    protocol: str
    record: StreamRecord
    stamps_ns: list[int]
    """Of each content chunk."""
    due_ns: list[int]


class Test:
    """What is left of a test: its report, and the raw records of workers that share its folder."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report: dict[str, Any] = json.loads((folder / "distributed.json").read_bytes())
        self.state: str = self.report["conclusion"]["state"]
        self.reasons: list[str] = self.report["conclusion"]["reasons"]

    @property
    def others(self) -> list[str]:
        """Reasons that are not about this machine being busy with something else."""
        noise = ("loop lag", "share of its core", "starts over 1 ms late")
        return [reason for reason in self.reasons if not any(one in reason for one in noise)]

    def row(self, protocol: str, measure: str) -> dict[str, Any]:
        """A row of the report."""
        (found,) = (r for r in self.report["rows"] if (r["protocol"], r["measure"]) == (protocol, measure))
        return dict(found)

    def tally(self, protocol: str) -> dict[str, Any]:
        """The counts of a protocol."""
        (found,) = (tally for tally in self.report["tallies"] if tally["protocol"] == protocol)
        return dict(found)

    def streams_of(self, scenario: Path) -> list[Stream]:
        """All streams of the window that workers recorded, dropped starts included."""
        return list(_streams(self.folder, scenario))


def in_order(run: Locust, test: Test) -> None:
    """A run that shows nothing but, at most, that this machine is busy with other things."""
    assert test.others == [], run.err
    assert run.process.returncode == {"fine": 0, "invalid": 3}[test.state], run.err
    assert "Traceback" not in run.err


def _streams(folder: Path, scenario: Path) -> Iterator[Stream]:
    known = load(str(scenario))
    for path in sorted(folder.glob(f"*/*/{STREAMS_FILE}")):
        reads = {stream: (stamps, counts) for stream, stamps, counts in content_reads(path.parent)}
        for line in path.read_bytes().splitlines():
            record = msgspec.json.decode(line, type=StreamRecord)
            if not record.window:
                continue
            stamps, counts = reads.get(record.stream, (array("q"), array("I")))
            each = list(chain.from_iterable(map(repeat, stamps, counts)))
            due = schedule(known.profiles[known.phases[record.phase].profile], record.seed).due_ns
            yield Stream(path.parent.parent.name, path.parent.name, record, each, list(due))


def samples(streams: Iterable[Stream], measure: str) -> list[int]:
    """The samples of a measure (ns), by what the documentation of records says, and not by the code under test."""
    found: list[int] = []
    for _, _, record, stamps, due in streams:
        if not record.started_ns:
            continue
        temperature = "cold" if record.cold else "warm"
        gaps = [b - a for a, b in pairwise(stamps)]
        if measure == "connect" and record.cold and record.connected_ns:
            found.append(record.connected_ns - record.started_ns)
        elif measure == f"ttft_{temperature}" and stamps:
            found.append(stamps[0] - record.started_ns)
        elif measure == f"ttft_excess_{temperature}" and stamps:
            found.append(stamps[0] - record.started_ns - due[0])
        elif measure == "icl":
            found += gaps
        elif measure == "gap_excess":
            found += [gap - (b - a) for gap, (a, b) in zip(gaps, pairwise(due), strict=False)]
        elif measure == "stream" and record.outcome == "complete":
            found.append(record.ended_ns - record.started_ns)
        elif measure == "late":
            found.append(record.started_ns - record.intended_ns)
    return sorted(found)


def nearest_rank(ordered: Sequence[int], p: float) -> int:
    """The least sample that `p` percent of all do not exceed."""
    return ordered[max(1, math.ceil(Fraction(str(p)) * len(ordered) / 100)) - 1]
