"""A worker is killed in the middle of a test, and another joins: are the totals right, does anything hang, who is told?

    python -m tests.experiments.worker_lost [MINUTES]

A target, a master and two workers on this machine; at a third of the time one worker is killed by SIGKILL, at half
of it another joins. Then what the master says is held against the raw records that each worker kept. Exits with 1 if
anything was amiss.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.rawlog import STREAMS_FILE, StreamRecord
from bench.swarm.here import free_port, master, process, target, worker

DEGRADED = 5
USERS = 100
OVERTIME_S = 60.0
"""How much longer than it was told to the whole may take."""


def records(folder: Path) -> dict[str, Counter[str]]:
    """What each worker recorded of its streams: how many ended how, and how many tokens came."""
    found: dict[str, Counter[str]] = {}
    for file in folder.rglob(STREAMS_FILE):
        counts = found.setdefault(file.parts[-3], Counter())
        for line in file.read_bytes().splitlines():
            try:
                record = msgspec.json.decode(line, type=StreamRecord)
            except msgspec.DecodeError:  # the last line of one that was killed
                continue
            if record.window:
                counts["ended"] += 1
                counts["tokens"] += record.chunks
                counts[record.outcome] += 1
    return found


def carry_out(minutes: float, folder: Path) -> tuple[int, dict[str, Any], float]:
    """Run it; return the master's exit code, what it wrote, and how long it took in seconds."""
    seconds = minutes * 60
    port = free_port()
    began = time.monotonic()
    with target("chat") as url, process(worker(port, folder)), process(worker(port, folder)) as victim:
        wanted = ["-u", str(USERS), "-r", str(USERS), "-t", f"{seconds:.0f}s", "--host", url, "--expect-workers", "2"]
        adding = subprocess.Popen(master(port, folder, wanted))
        time.sleep(seconds / 3)
        victim.kill()
        print(f"a worker was killed after {time.monotonic() - began:.0f} s", flush=True)
        time.sleep(seconds / 6)
        with process(worker(port, folder)):
            print(f"another joined after {time.monotonic() - began:.0f} s", flush=True)
            code = adding.wait(seconds + OVERTIME_S)
        took_s = time.monotonic() - began
    (report,) = folder.rglob("distributed.json")
    return code, json.loads(report.read_bytes()), took_s


def amiss(code: int, told: dict[str, Any], kept: dict[str, Counter[str]]) -> list[str]:
    """What the master says that is not so."""
    found = []
    if code != DEGRADED:
        found.append(f"exit code {code}, not {DEGRADED}")
    states = Counter(one["state"] for one in told["workers"])
    if states != {"there": 2, "lost": 1}:
        found.append(f"workers: {dict(states)}")
    if len(told["missing"]) != 1:
        found.append(f"missing: {told['missing']}")
    for one in told["workers"]:
        recorded = kept[one["name"]]["ended"]
        # A worker that was killed may have recorded more than it had reported, and never less.
        if one["ended"] > recorded or (one["ended"] < recorded and one["state"] != "lost"):
            found.append(f"{one['name']}: {one['ended']} streams reported, {recorded} recorded")
    reported = sum(tally["counts"]["ended"] for tally in told["tallies"])
    if reported != sum(one["ended"] for one in told["workers"]):
        found.append(f"{reported} streams in all are not the sum over workers")
    whole = sum(tally["outcomes"].get("complete", 0) for tally in told["tallies"])
    if whole != reported:
        found.append(f"{reported - whole} streams did not complete")
    for tally in told["tallies"]:
        samples = next(
            row["count"] for row in told["rows"] if (row["protocol"], row["measure"]) == (tally["protocol"], "icl")
        )
        if samples != tally["counts"]["tokens"] - tally["counts"]["ended"]:
            found.append(f"{tally['protocol']}: {samples} gaps of {tally['counts']['tokens']} tokens")
    return found


def main(minutes: float) -> int:
    """Run and judge; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        code, told, took_s = carry_out(minutes, Path(folder))
        kept = records(Path(folder))
    found = amiss(code, told, kept)
    here = psutil.Process()
    found += [f"left behind: {child.cmdline()}" for child in here.children(recursive=True)]
    for one in told["workers"]:
        print(f"{one['name']} {one['state']}: {one['ended']} streams reported, {kept[one['name']]['ended']} recorded")
    print(*told["missing"], f"exit code {code} after {took_s:.0f} s for {minutes * 60:.0f}", sep="\n")
    print("amiss: " + ("nothing" if not found else "; ".join(found)))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0))
