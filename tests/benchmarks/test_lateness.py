"""Whole trials at many paced streams: does the driver start them on time, and how late does each stack emit?

    make bench-micro

Server and driver keep to one core each. Lateness is `written - due` of every token; a stack that cannot keep up on its
core shows in the rate it reached, which is part of the figure.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.record import read_trial
from bench.scenario import Closed, Experiment, Scenario
from bench.scenario_toml import load
from bench.trial import Cores, Place, run_block
from servers.emitter import Constant, Fixed, Lognormal, Profile

ARMS = ["sse-aiohttp", "ws-aiohttp", "ws-websockets"]


def scenario(streams: int) -> Scenario:
    """`streams` users, each one answer of 200 tokens at 50 a second, begun over one second."""
    return Scenario(
        name="lateness",
        title="lateness",
        arms=load("duel").arms,
        profiles={"p": Profile(Constant(100), Lognormal(19.2, 0.3), Fixed(200))},
        phases={"paced": Closed("p", "warm", users=streams, turns=1, ramp_s=1.0)},
        contrasts={},
        experiment=Experiment(blocks=1),
    )


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("streams", [200, 400, 1000])
def test_lateness(benchmark: BenchmarkFixture, tmp_path: Path, streams: int, arm: str) -> None:
    trials = tmp_path / "trials"
    benchmark.pedantic(
        run_block,
        args=(scenario(streams), 1, [Place(arm, 1, 1, 1)], trials, Cores.split(), lambda *_: None),
        rounds=1,
    )
    frame = read_trial(next(trials.glob("*.parquet")))
    frame = frame[frame["window"]]
    assert set(frame["outcome"]) == {"complete"}
    late_ms = (frame["written_ns"] - frame["due_ns"]).astype(float) / 1e6
    first = frame.drop_duplicates("stream")
    start_late_ms = (first["started_ns"] - first["intended_ns"]).astype(float) / 1e6
    seconds = (frame["received_ns"].max() - frame["received_ns"].min()) / 1e9
    figures = {
        "lateness_p50_ms": late_ms.median(),
        "lateness_p99_ms": late_ms.quantile(0.99),
        "start_late_p99_ms": start_late_ms.quantile(0.99),
        "start_late_max_ms": start_late_ms.max(),
        "tokens_per_s": len(frame) / seconds,
    }
    benchmark.extra_info.update({name: round(float(value), 3) for name, value in figures.items()})
    print(f"\n{arm}, {streams} streams: " + ", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
