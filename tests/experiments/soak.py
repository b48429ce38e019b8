"""A long run with everything that can go wrong in it: does memory stay, and is every outcome explained?

    python -m tests.experiments.soak [MINUTES]

The arms take turns, half a minute each. Memory of server and driver is sampled twice a second and fitted against time
and against the streams served so far, in the second half. Prints a table; exits with 1 when an outcome is
unexplained or memory grows.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import linregress, t

from bench.drivers.plan import Said, Tick
from bench.record import read_trial
from bench.scenario_toml import check
from bench.trial import Cores, Place, Trial, run_block
from servers.registry import KNOWN

SLICE_S = 30
SETTLED = 0.5
"""Of the samples, the first such share is not fitted: buffers, caches and tables fill."""
KEPT_BYTES = 128
"""Of an ended stream or connection no more may stay than this, on average."""

SCENARIO = """
title = "soak: paced streams, some cut, some refused, some left"
[arms.sse-aiohttp]
protocol = "sse"
stack = "aiohttp"
[arms.ws-aiohttp]
protocol = "websocket"
stack = "aiohttp"
tls = true
[arms.ws-websockets]
protocol = "websocket"
stack = "websockets"
[timeouts]
gap_s = 2.0
[phases.soak]
load = "closed"
users = 100
duration_s = {duration_s}
slices = {slices}
ramp_s = 1.0
connections = "warm"
profile = "soak"
fault = "cut"
retry = {{ delay_ms = 20, jitter = 0.5 }}
leave = {{ share = 0.1, at = [2, 15], by = "cancel" }}
[faults.cut]
kind = "{kind}"
share = 0.1
at = [2, 15]
[profiles.soak]
first = {{ dist = "lognormal", median_ms = 100, sigma = 0.3 }}
gap = {{ dist = "lognormal", median_ms = 40, sigma = 0.3 }}
length = {{ dist = "uniform", min = 10, max = 30 }}
"""

EXPLAINED = {("truncated", "reset"), ("truncated", "closed"), ("truncated", "no_close_frame")}
"""What a cut looks like to the client; it is asked for again."""


class Growth(NamedTuple):
    """A slope with its 95 % interval."""

    slope: float
    low: float
    high: float


def growth(x: np.ndarray, y: np.ndarray) -> Growth:
    """Of `y` against `x`, by least squares. Samples follow each other closely, so that intervals are too narrow."""
    fit = linregress(x, y)
    reach = float(t.ppf(0.975, len(x) - 2) * fit.stderr)
    return Growth(float(fit.slope), float(fit.slope) - reach, float(fit.slope) + reach)


def judge(arm: str, ticks: list[tuple[float, Tick]], trial: Trial) -> list[str]:
    """Print what an arm showed, and return what is wrong with it."""
    rows = read_trial(trial.path)
    attempts = rows[rows["window"].astype(bool)].drop_duplicates("stream")
    last = attempts.sort_values("attempt").drop_duplicates("ordinal", keep="last")
    outcomes = Counter(zip(attempts["outcome"].astype(str), attempts["reason"].astype(str), strict=True))
    final = Counter(zip(last["outcome"].astype(str), last["reason"].astype(str), strict=True))
    flaws = {name: int(last[name].sum()) for name in ("repeated", "reordered", "corrupted")}
    flaws["lost"] = int(last[last["outcome"] != "cancelled"]["lost"].sum())
    unexplained = set(outcomes) - EXPLAINED - {("complete", ""), ("cancelled", "left")}
    unfinished = set(final) - {("complete", ""), ("cancelled", "left")}
    print(f"{arm}: {len(last):,} streams, {int(rows['received_ns'].notna().sum()):,} tokens; attempts:", end=" ")
    print(", ".join(f"{' '.join(filter(None, key))} {n:,}" for key, n in outcomes.most_common()))
    print(f"  flaws: {', '.join(f'{name} {n}' for name, n in flaws.items())}")
    amiss = [f"{arm}: unexplained: {sorted(unexplained)}"] if unexplained else []
    amiss += [f"{arm}: never finished: {sorted(unfinished)}"] if unfinished else []
    amiss += [f"{arm}: {flaws}"] if any(flaws.values()) else []
    kept = ticks[int(len(ticks) * SETTLED) :]
    hours = np.array([at for at, _ in kept]) / 3600
    streams = np.array([tick.streams for _, tick in kept], dtype=float)
    for who in ("server", "driver"):
        memory = np.array([getattr(tick, f"{who}_memory") for _, tick in kept], dtype=float)
        by_time, by_stream = growth(hours, memory / 2**20), growth(streams, memory)
        print(
            f"  {who}: {memory[0] / 2**20:.1f} to {memory[-1] / 2**20:.1f} MiB; {by_time.slope:+.2f} MiB an hour of "
            f"work ({by_time.low:+.2f} to {by_time.high:+.2f}), {by_stream.slope:+.0f} bytes a stream "
            f"({by_stream.low:+.0f} to {by_stream.high:+.0f})"
        )
        if who == "server" and streams[0] < KNOWN:
            # It remembers when its last streams began, for who resumes them.
            print(f"  too short to judge the server by: its table of {KNOWN:,} streams was not full by then")
        elif by_stream.low > KEPT_BYTES:
            amiss.append(f"{arm}: the {who} grows by {by_stream.slope:.0f} bytes a stream; {KEPT_BYTES} may stay")
    return amiss


def main(minutes: float) -> int:
    """Soak for so long."""
    slices = max(1, round(minutes * 60 / 3 / SLICE_S))
    amiss: list[str] = []
    text = SCENARIO.format(duration_s=minutes * 60 / 3, slices=slices, kind="reset")
    scenario = check(tomllib.loads(text), "soak", "soak")
    ticks: dict[str, list[tuple[float, Tick]]] = {arm: [] for arm in scenario.arms}
    worked = dict.fromkeys(scenario.arms, 0.0)

    def heard(place: Place, said: Said) -> None:
        # Time goes on for an arm while it has its turn: two ticks a second.
        if isinstance(said, Tick) and said.driver_memory and said.server_memory:
            worked[place.arm] += 0.5
            ticks[place.arm].append((worked[place.arm], said))

    with tempfile.TemporaryDirectory() as folder:
        places = [Place(arm, 1, at + 1, at + 1) for at, arm in enumerate(scenario.arms)]
        for trial in run_block(scenario, 1, places, Path(folder), Cores.split(), heard):
            amiss += judge(trial.place.arm, ticks[trial.place.arm], trial)
    print("\n".join(amiss) if amiss else f"{minutes:g} minutes: memory stays, every outcome is explained")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0))
