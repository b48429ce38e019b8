"""The noise floor: what an A/A run leaves behind, and how later runs are held to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import floor
from bench.metrics import Comparison, Conclusions
from bench.scenario import Scenario
from bench.scenario_toml import ScenarioError, load


def compared(phase: str, temperature: Any, measure: str, statistic: str, scale: Any, differences: Any) -> Comparison:
    return Comparison(
        "itself", "a", "b", phase, temperature, measure, statistic, scale, "ms" if scale == "difference" else "", False,
        0.0, None, None, None, None, [float(d) for d in differences], list(range(1, len(differences) + 1)),
    )  # fmt: skip


def noise(first_ms: float = 0.02, cpu: float = 0.01) -> Conclusions:
    draw = np.random.default_rng(1).standard_normal(60)
    primary = [
        compared("cold", "cold", "ttft_excess", "p50", "difference", first_ms * draw),
        compared("firehose", "all", "cpu_server", "value", "ratio", np.expm1(cpu * draw)),
    ]
    return Conclusions(0.05, 60, 8, primary, [], [])


def remembered(tmp_path: Path, scenario: Scenario, **kwargs: float) -> None:
    floor.remember(tmp_path, floor.noise_of(noise(**kwargs), scenario, "aa-duel-1", "sse-aiohttp"))


def test_an_arm_against_itself_is_that_arm_twice_and_nothing_else() -> None:
    duel = load("duel")
    twice = floor.against_itself(duel, "ws-aiohttp", "duel")
    first, second = twice.arms.values()
    assert first is second
    assert first == duel.arms["ws-aiohttp"]
    [contrast] = twice.contrasts.values()
    assert (contrast.baseline, contrast.other) == tuple(twice.arms)
    assert (twice.phases, twice.primary) == (duel.phases, duel.primary)
    assert not twice.experiment.roofline
    assert floor.work_of(twice) == floor.work_of(duel)
    assert next(iter(floor.against_itself(duel, None, "duel").arms)) == "sse-aiohttp"


def test_an_arm_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ScenarioError, match=r"^duel: --arm sse: no such arm; allowed: sse-aiohttp, "):
        floor.against_itself(load("duel"), "sse", "duel")


def test_the_floor_of_later_runs_is_known_and_shrinks_with_blocks(tmp_path: Path) -> None:
    duel = load("duel")
    assert floor.floors(tmp_path, duel) == {}
    remembered(tmp_path, duel)
    found = floor.check(tmp_path, duel, "duel")
    assert set(found) == {"first-token", "cpu"}
    assert 0.01 < found["first-token"] < 0.05
    assert 0.005 < found["cpu"] < 0.02
    more = floor.floors(tmp_path, load("duel", ["experiment.blocks=40"]))
    assert more["cpu"] < found["cpu"] / 1.5


def test_a_smallest_effect_below_the_floor_is_refused_with_the_number_to_use(tmp_path: Path) -> None:
    scenario = load("duel", ["primary.cpu.smallest_effect=0.001"])
    remembered(tmp_path, scenario)
    with pytest.raises(ScenarioError, match=r"^duel: primary\.cpu\.smallest_effect = 0\.001: below") as caught:
        floor.check(tmp_path, scenario, "duel")
    enough = float(str(caught.value).split("use at least ")[1].split(",")[0])
    floor.check(tmp_path, load("duel", [f"primary.cpu.smallest_effect={enough}"]), "duel")
    with pytest.raises(ScenarioError):
        floor.check(tmp_path, load("duel", [f"primary.cpu.smallest_effect={enough * 0.85}"]), "duel")


@pytest.mark.parametrize(
    "change",
    ["experiment.mode=as-deployed", "phases.firehose.users=17", "timeouts.gap_s=3", "profiles.chat.text=chinese"],
)
def test_other_work_has_another_floor(tmp_path: Path, change: str) -> None:
    remembered(tmp_path, load("duel"))
    assert floor.floors(tmp_path, load("duel", [change])) == {}


def test_another_machine_has_another_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered(tmp_path, load("duel"))
    monkeypatch.setattr("bench.floor.machine.describe", lambda: {"cpu": "another"})
    assert floor.floors(tmp_path, load("duel")) == {}


@pytest.mark.parametrize("change", ["experiment.blocks=7", "experiment.budget_s=600"])
def test_runs_without_verdict_or_with_a_budget_are_not_held_to_it(tmp_path: Path, change: str) -> None:
    remembered(tmp_path, load("duel"))
    assert floor.floors(tmp_path, load("duel", [change])) == {}


def test_the_highest_floor_of_several_arms_counts_and_a_new_run_replaces_the_old(tmp_path: Path) -> None:
    duel = load("duel")
    remembered(tmp_path, duel, cpu=0.01)
    low = floor.floors(tmp_path, duel)["cpu"]
    floor.remember(tmp_path, floor.noise_of(noise(cpu=0.02), duel, "aa-duel-2", "ws-aiohttp"))
    assert floor.floors(tmp_path, duel)["cpu"] > 1.8 * low
    floor.remember(tmp_path, floor.noise_of(noise(cpu=0.005), duel, "aa-duel-3", "ws-aiohttp"))
    assert floor.floors(tmp_path, duel)["cpu"] == pytest.approx(low)
    assert len(msgspec.json.decode((tmp_path / floor.FILE).read_bytes())) == 2


def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / floor.FILE).write_text("{")
    assert floor.floors(tmp_path, load("duel")) == {}
    remembered(tmp_path, load("duel"))
    assert floor.floors(tmp_path, load("duel"))
