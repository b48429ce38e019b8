"""How late is the driver's stamp? `received_ns` against the kernel's stamp of the packet, from a capture of loopback.

    python -m tests.experiments.capture [--blocks N] [--json FILE]

Every block runs each arm twice in random order, with the capture and without, so that its own effect is known too.
Needs Linux and CAP_NET_RAW. Exit codes: 0 measured, 1 a trial failed, 2 wrong usage, 4 not permitted here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from bench.record import read_trial
from bench.scenario import Scenario
from bench.scenario_toml import load
from bench.trial import Cores, Place, TrialError, run_block
from tests.experiments.capture_packets import Captured, open_capture, parse

SMALLER = ["phases.cold.duration_s=1.5", "phases.chat.turns=1"]
SEED = 715_517
"""No shipped scenario's: completion ids follow from it, and other runs on this machine cross loopback too."""
WITHIN_US = 20.0
CLOCK_MOVED_NS = 1_000
NOT_PERMITTED = 4
QUIET = 0.05
"""Of a core for other programs: more of them on the driver's core show as its p99, by whole time slices."""
SPANS = {"server": ("written_ns", "packet_ns"), "driver": ("packet_ns", "received_ns")}
"""What delivery, from `written_ns` to `received_ns`, is made of."""


def scenario() -> Scenario:
    """Two phases of `duel`: short answers over cold connections, and paced chat over kept ones."""
    duel = load("duel", SMALLER)
    return msgspec.structs.replace(duel, phases={name: duel.phases[name] for name in ("cold", "chat")})


@contextlib.contextmanager
def recording(path: Path, cores: Cores | None, said: dict[str, int]) -> Iterator[None]:
    """Capture into `path` while inside; afterwards `said` has the counts. Raises `TrialError`.

    On the server's core: what the capture takes there can delay a packet but not the driver's stamp of it.
    """
    command = [sys.executable, "-m", "tests.experiments.capture_packets", str(path)]
    command += [str(cpu) for cpu in (cores.server if cores else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            if ready:
                yield
        finally:
            process.stdin.close()
            counts = process.stdout.read()
    if not counts:
        raise TrialError(f"the capture ended with exit code {process.returncode}; what it said stands above")
    said.update(json.loads(counts))


def to_monotonic(real_ns: pd.Series[int], clocks: list[tuple[int, int]]) -> pd.Series[int]:
    """CLOCK_REALTIME stamps on CLOCK_MONOTONIC, in proportion between the readings before and after each."""
    reals, monos = np.array(clocks, dtype=np.int64).T
    offsets = monos - reals
    # Floats hold to the ns what is left when the first reading is taken off.
    moved = np.interp(real_ns - reals[0], reals - reals[0], offsets - offsets[0])
    monotonic: pd.Series[int] = real_ns + offsets[0] + np.rint(moved).astype(np.int64)
    return monotonic


def match(chunks: pd.DataFrame, captured: Captured) -> pd.DataFrame:
    """`chunks` with `packet_ns`, null for every stream of which not each chunk was captured exactly once."""
    packets = pd.DataFrame(
        [(name, chunk, ns) for name, stamps in captured.stamps.items() for chunk, ns in enumerate(stamps)],
        columns=["completion_id", "chunk", "packet_ns"],
    )
    packets["packet_ns"] = to_monotonic(packets["packet_ns"], captured.clocks).astype("Int64")
    received = chunks.groupby("completion_id").size()
    whole = received.index[received == packets.groupby("completion_id").size().reindex(received.index)]
    return chunks.merge(packets[packets["completion_id"].isin(whole)], how="left", on=["completion_id", "chunk"])


def checks(chunks: pd.DataFrame, captured: Captured) -> dict[str, float]:
    """What could spoil a trial's figures, counted; and the driver's part, p99, us."""
    offsets = [mono - real for real, mono in captured.clocks]
    disorder = (chunks["packet_ns"] < chunks["written_ns"]) | (chunks["received_ns"] < chunks["packet_ns"])
    return {
        "unmatched": int(chunks["packet_ns"].isna().sum()),
        "out_of_order": int(disorder.sum()),
        "split": captured.split,
        "clock_moved_ns": max(offsets) - min(offsets),
        "driver_p99": float((chunks["received_ns"] - chunks["packet_ns"]).dropna().astype(float).quantile(0.99)) / 1e3,
    }


def others_s() -> float:
    """CPU time that programs other than this one and its ended children have used since the machine's start, s."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return float(machine.user + machine.nice + machine.system - sum(own[:4]))


def measure(blocks: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run all trials. Returns their content chunks, and a row of checks per capture. Raises `TrialError`."""
    what, cores, rng = scenario(), Cores.split(), random.Random(SEED)
    found, checked = [], []
    with tempfile.TemporaryDirectory(prefix="capture-") as name:
        file = Path(name) / "packets"
        for block in range(1, blocks + 1):
            order = [(arm, capture) for arm in what.arms for capture in (True, False)]
            rng.shuffle(order)
            for position, (arm, capture) in enumerate(order, 1):
                print(f"block {block}/{blocks}: {arm}{', captured' * capture}", file=sys.stderr)
                place = Place(arm, block, (block - 1) * len(order) + position, position)
                said: dict[str, int] = {}
                used = others_s()
                begun = time.monotonic()
                with recording(file, cores, said) if capture else contextlib.nullcontext():
                    [trial] = run_block(what, SEED, [place], Path(name) / str(capture), cores, lambda *_: None)
                chunks = read_trial(trial.path)
                chunks = chunks[chunks["window"] & chunks["chunk"].notna()].assign(capture=capture)
                if capture:
                    captured = parse(file)
                    chunks = match(chunks, captured)
                    others = (others_s() - used) / (time.monotonic() - begun)
                    known = {"arm": arm, "block": block, "others": others}
                    checked.append(known | said | checks(chunks, captured))
                found.append(chunks)
    return pd.concat(found, ignore_index=True), pd.DataFrame(checked)


def figures(chunks: pd.DataFrame) -> pd.DataFrame:
    """Per arm, phase and content: of each span the median and p99 over all captured trials, us.

    `low` and `high` are the lowest and the highest median of a trial.
    """
    chunks = chunks[chunks["capture"] & chunks["packet_ns"].notna()].astype({"arm": str, "phase": str})
    chunks = pd.concat([chunks.assign(phase="both"), chunks])
    chunks = pd.concat([chunks[chunks["chunk"] == 0].assign(content="first"), chunks.assign(content="all")])
    by = ["arm", "content", "phase"]
    columns = {"count": chunks.groupby(by, sort=False).size()}
    for span, (start, end) in SPANS.items():
        us = chunks.assign(us=(chunks[end] - chunks[start]).astype(float) / 1e3)
        groups, trials = us.groupby(by, sort=False)["us"], us.groupby([*by, "block"], sort=False)["us"].median()
        columns[f"{span}_p50"], columns[f"{span}_p99"] = groups.median(), groups.quantile(0.99)
        columns[f"{span}_low"], columns[f"{span}_high"] = (trials.groupby(by).agg(f) for f in ("min", "max"))
    return pd.DataFrame(columns).sort_index().reset_index()


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """How far the WebSocket arms' median stamps are behind their packets, less the SSE arm's, us."""
    protocols = pd.Series({name: arm.protocol for name, arm in scenario().arms.items()})
    medians = rows[rows["phase"] == "both"].pivot(index="arm", columns="content", values="driver_p50")
    differences = (medians - medians[protocols.eq("sse")].iloc[0])[protocols.ne("sse")]
    return differences.assign(within=differences.abs().le(WITHIN_US).all(axis=1)).reset_index()


def effect(chunks: pd.DataFrame) -> pd.DataFrame:
    """The capture's own effect per arm: delivery, median over the trials' medians, without and with it, us."""
    us = (chunks["received_ns"] - chunks["written_ns"]).astype(float) / 1e3
    trials = us.groupby([chunks["arm"].astype(str), chunks["block"], chunks["capture"]]).median().unstack()
    pairs = (trials[True] - trials[False]).groupby("arm")
    middle = trials.groupby("arm").median().rename(columns={False: "without", True: "with"})
    return middle.assign(low=pairs.min(), median=pairs.median(), high=pairs.max()).reset_index()


def show(console: Console, title: str, rows: pd.DataFrame) -> None:
    """Print a table in Markdown."""
    table = Table(box=box.MARKDOWN)
    for name in rows.columns:
        table.add_column(name, justify="left" if name in ("arm", "content", "phase") else "right")
    for row in rows.itertuples(index=False):
        table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row))
    console.print(f"\n{title}", table)


def report(chunks: pd.DataFrame, checked: pd.DataFrame, file: Path | None) -> None:
    """Print all figures and what spoils them; write them to `file` too, if given. Raises `OSError`."""
    rows = figures(chunks)
    parts: dict[str, Any] = {"figures": rows, "agreement": agreement(rows), "effect": effect(chunks), "checks": checked}
    console = Console(highlight=False, width=160)
    title = (
        "server: written to packet, driver: packet to received, us; median and p99 over all, a trial's median at least "
    )
    show(console, title + "and at most", rows.rename(columns=lambda name: name.replace("_", " ")))
    show(console, "packet_ns to received_ns: WebSocket less SSE at the median, us", parts["agreement"])
    verdict = "within" if parts["agreement"]["within"].all() else "NOT within"
    console.print(f"The two protocols agree {verdict} {WITHIN_US:.0f} us.")
    show(
        console,
        "written_ns to received_ns without and with the capture, and with less without by block, us",
        parts["effect"],
    )
    total = checked[["packets", "dropped", "unmatched", "out_of_order", "split"]].sum()
    console.print(", ".join(f"{name} {count:,}" for name, count in total.items()))
    if total["dropped"] or total["unmatched"]:
        console.print("PACKETS WERE LOST: streams without all of theirs are in no figure above but the last.")
    if total["out_of_order"]:
        console.print("STAMPS OUT OF ORDER: a packet before it was written or after it was received.")
    quiet = checked[checked["others"] < QUIET]
    console.print(f"Other programs used {checked['others'].max():.0%} of a core at most in a captured trial.")
    if len(quiet):
        least, most = quiet["driver_p99"].min(), quiet["driver_p99"].max()
        console.print(
            f"Below {QUIET:.0%} were {len(quiet)} of {len(checked)}: a trial's driver p99 {least:.0f} to {most:.0f} us."
        )
    moved = checked["clock_moved_ns"].max()
    steady = "steady" if moved <= CLOCK_MOVED_NS else "NOT STEADY, stamps are only as good as the readings between"
    console.print(f"Realtime less monotonic clock moved by {moved} ns at most within a trial: {steady}.")
    if file:
        file.write_text(json.dumps({name: json.loads(part.to_json(orient="records")) for name, part in parts.items()}))


def main(argv: list[str] | None = None) -> int:
    """Run the experiment. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.capture")
    parser.add_argument("--blocks", type=int, default=4, help="each runs every arm with and without (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    arguments = parser.parse_args(argv)
    if arguments.blocks < 1:
        parser.error(f"--blocks {arguments.blocks}: give 1 or more")
    try:
        open_capture().close()
    except (OSError, AttributeError) as error:
        print(f"capture: {error}: loopback is captured on Linux only, with CAP_NET_RAW; run as root", file=sys.stderr)
        return NOT_PERMITTED
    try:
        report(*measure(arguments.blocks), arguments.json)
    except (TrialError, OSError) as error:
        print(f"capture: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
