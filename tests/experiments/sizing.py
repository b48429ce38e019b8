"""How many streams one Locust worker takes, by how fast their tokens come: what the sizing table is derived from.

    python -m tests.experiments.sizing [SECONDS]

For each token rate the users grow by half until the worker's busiest seconds pass 80 % of its core, or its loop
is late. The target is the server without a library, on another core, which it shares with the master.
Prints a row per run; the last row that fits is the answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.swarm.here import free_port, master, process, target, worker
from bench.trial import Cores

RATES = (10, 30, 100)
"""Tokens per second of a stream."""
FIRST = 8_000
"""Tokens per second of all streams in the first run of a rate."""
GROWTH = 1.5
SHARE = 0.8
LAG_MS = 10.0
SCENARIO = """
title = "Sizing"
[arms.sse]
protocol = "sse"
stack = "roofline"
[arms.websocket]
protocol = "websocket"
stack = "roofline"
[phases.paced]
load = "closed"
users = 1
turns = 1
connections = "warm"
profile = "paced"
[profiles.paced]
first = {{ dist = "lognormal", median_ms = 200, sigma = 0.4 }}
gap = {{ dist = "lognormal", median_ms = {gap_ms}, sigma = 0.3 }}
length = {{ dist = "fixed", tokens = {tokens} }}
"""


def run(scenario: Path, url: str, users: int, seconds: int, core: list[int] | None, rest: list[int]) -> dict[str, Any]:
    """A worker with so many users of both protocols, and a master; returns what that wrote."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        wanted = [
            *("-u", str(users), "-r", str(max(1, users // 3)), "-t", f"{seconds}s", "--stop-timeout", "20"),
            *("--scenario", str(scenario), "--host", url, "--expect-workers", "1"),
        ]
        if core:
            os.sched_setaffinity(0, core)
        with process(worker(port, Path(folder))):
            if core:
                os.sched_setaffinity(0, rest)
            quiet = subprocess.DEVNULL
            subprocess.run(master(port, Path(folder), wanted), stdout=quiet, stderr=quiet)
        (report,) = Path(folder).rglob("distributed.json")
        told: dict[str, Any] = json.loads(report.read_bytes())
        return told


def main(seconds: int) -> None:
    """Grow the load at every rate, and print what each run saw."""
    cores = Cores.split()
    print(f"{'tokens/s':>9}{'users':>7}{'all tokens/s':>14}{'core':>7}{'us/token':>10}{'lag p99 ms':>12}  fits")
    for rate in RATES:
        with tempfile.TemporaryDirectory() as folder:
            scenario = Path(folder) / "sizing.toml"
            scenario.write_text(SCENARIO.format(gap_ms=1000 / rate / 1.046, tokens=rate * 3))
            if cores:
                os.sched_setaffinity(0, cores.server)
            with target(str(scenario)) as url:
                users = FIRST / rate
                while True:
                    told = run(
                        scenario,
                        url,
                        round(users),
                        seconds,
                        cores.driver if cores else None,
                        cores.server if cores else [],
                    )
                    (seen,) = told["workers"]
                    tokens = sum(tally["counts"]["tokens"] for tally in told["tallies"]) / told["elapsed_s"]
                    share, lag_ms = seen["cpu_share"], seen["loop_lag_p99_ms"]
                    fits = share <= SHARE and lag_ms <= LAG_MS
                    print(
                        f"{rate:9}{round(users):7}{tokens:14,.0f}{share:7.0%}{share / tokens * 1e6:10.1f}{lag_ms:12.1f}"
                        f"  {'yes' if fits else 'no'}",
                        flush=True,
                    )
                    if not fits:
                        break
                    users *= GROWTH


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
