"""When an experiment goes on, repeats a block, stops, and takes up where it was: without servers, by made-up trials."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import experiment
from bench.drivers.plan import Said
from bench.precision import Width
from bench.record import RecordError, read_run
from bench.scenario import Experiment, Scenario
from bench.scenario_toml import load
from bench.trial import Place, Trial
from bench.validity import Breach

FAULT = Breach("steal", "sse-aiohttp", 1, "chat", 9.0, 2.0, "%", "Time stolen: 9.0 %.", "Run at another time.")


class Nobody:
    """A watcher that keeps what became of every block."""

    def __init__(self) -> None:
        self.ended_with: list[tuple[int, list[str]]] = []

    def begins(self, _block: int, _places: Sequence[Place]) -> None: ...

    def heard(self, _place: Place, _said: Said) -> None: ...

    def ended(self, block: int, reasons: Sequence[str], _widths: Sequence[Width]) -> None:
        self.ended_with.append((block, list(reasons)))

    def stopping(self) -> None: ...


class Widening:
    """A stand-in for `Precision` whose intervals are narrow from a given block on."""

    narrow_from = 1000

    def __init__(self, _scenario: Scenario) -> None:
        self.blocks = 0

    def add(self, _trials: Any) -> None:
        self.blocks += 1

    def widths(self) -> list[Width]:
        return []

    @property
    def narrow(self) -> bool:
        return self.blocks >= self.narrow_from


class Machine:
    """What stands in for processes: blocks that take no time, and those that are at fault."""

    def __init__(self) -> None:
        self.faulty: set[int] = set()
        self.ran: list[tuple[int, list[str]]] = []
        self.clock = 0.0
        self.block_s = 20.0

    def run_block(self, _scenario: Any, _seed: int, places: list[Place], trials: Path, *_: Any) -> list[Trial]:
        self.clock += self.block_s
        self.ran.append((places[0].block, [place.arm for place in places]))
        return [Trial(p, trials / p.file, {"arm": p.arm, "block": p.block, "phases": {}}) for p in places]

    def breaches(self, facts: dict[str, Any], *_: Any) -> list[Breach]:
        return [FAULT] if facts["block"] in self.faulty and facts["arm"] == "sse-aiohttp" else []


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(experiment, "run_block", made.run_block)
    monkeypatch.setattr(experiment, "breaches", made.breaches)
    monkeypatch.setattr(experiment, "Precision", Widening)
    monkeypatch.setattr(experiment.time, "monotonic", lambda: made.clock)
    return made


def run(tmp_path: Path, **settings: Any) -> tuple[str, dict[str, Any], Nobody]:
    scenario = msgspec.structs.replace(load("duel"), experiment=Experiment(roofline=False, **settings))
    folder = experiment.new_folder(tmp_path, scenario)
    watcher = Nobody()
    state = experiment.run(scenario, "duel", [], folder, watcher)
    info = read_run(folder).info
    assert info["state"] == state
    return state, info, watcher


def test_every_block_runs_every_arm_once_in_an_order_of_its_own(tmp_path: Path, machine: Machine) -> None:
    state, info, _ = run(tmp_path, blocks=12)
    assert state == "finished"
    assert [block for block, _ in machine.ran] == list(range(1, 13))
    assert [order for _, order in machine.ran] == info["order"]
    assert all(sorted(order) == sorted(info["order"][0]) for order in info["order"])
    assert len({tuple(order) for order in info["order"]}) > 2


def test_a_faulty_block_is_void_and_runs_again(tmp_path: Path, machine: Machine) -> None:
    machine.faulty = {2}
    state, info, watcher = run(tmp_path, blocks=4)
    assert state == "finished"
    assert [block for block, _ in machine.ran] == [1, 2, 3, 4, 5]
    [void] = info["voids"]
    assert (void["block"], void["why"]) == (2, "validity")
    assert "Time stolen: 9.0 %." in void["reasons"][0]
    assert watcher.ended_with[1] == (2, void["reasons"])


def test_too_many_faulty_blocks_end_the_run_as_invalid(tmp_path: Path, machine: Machine) -> None:
    machine.faulty = {1, 2, 3, 4}
    state, info, _ = run(tmp_path, blocks=10)
    assert state == "invalid"
    assert [void["block"] for void in info["voids"]] == [1, 2, 3]
    assert [block for block, _ in machine.ran] == [1, 2, 3]


def test_a_budget_ends_the_run_before_the_block_that_would_pass_it(tmp_path: Path, machine: Machine) -> None:
    state, info, _ = run(tmp_path, budget_s=110.0)
    assert state == "finished"
    assert [block for block, _ in machine.ran] == [1, 2, 3, 4, 5]
    assert info["spent_s"] == 100.0


def test_narrow_intervals_end_a_run_with_a_budget_and_no_other(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Widening, "narrow_from", 9)
    assert run(tmp_path / "a", budget_s=3600.0)[0] == "finished"
    assert machine.ran[-1][0] == 9
    assert run(tmp_path / "b", blocks=14)[0] == "finished"
    assert machine.ran[-1][0] == 14


def test_the_roofline_runs_once_per_protocol_before_the_blocks(tmp_path: Path, machine: Machine) -> None:
    scenario = msgspec.structs.replace(load("duel"), experiment=Experiment(blocks=1))
    experiment.run(scenario, "duel", [], experiment.new_folder(tmp_path, scenario), Nobody())
    assert machine.ran[0] == (0, ["roofline-sse", "roofline-websocket"])
    assert [block for block, _ in machine.ran] == [0, 1]


def test_a_run_goes_on_where_it_was_and_repeats_the_block_that_is_not_whole(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = msgspec.structs.replace(load("duel"), experiment=Experiment(blocks=4, roofline=False))
    folder = experiment.new_folder(tmp_path, scenario)

    def killed(*args: Any) -> list[Trial]:
        if len(machine.ran) == 2:
            raise KeyboardInterrupt
        return machine.run_block(*args)

    monkeypatch.setattr(experiment, "run_block", killed)
    assert experiment.run(scenario, "duel", [], folder, Nobody()) == "interrupted"
    monkeypatch.setattr(experiment, "run_block", machine.run_block)
    on_disk = read_run(folder)
    for block, arms in machine.ran:
        on_disk.trials.extend(Trial(Place(arm, block, 1, 1), folder, {"arm": arm, "block": block}) for arm in arms)
    monkeypatch.setattr(experiment, "read_run", lambda _folder: on_disk)
    assert experiment.resume(folder, lambda _scenario: nullcontext(Nobody())) == "finished"
    assert [block for block, _ in machine.ran] == [1, 2, 4, 5]
    info = read_run(folder).info
    assert [(void["block"], void["why"]) for void in info["voids"]] == [(3, "interrupted")]


@pytest.mark.usefixtures("machine")
def test_only_what_was_stopped_can_go_on(tmp_path: Path) -> None:
    scenario = msgspec.structs.replace(load("duel"), experiment=Experiment(blocks=1, roofline=False))
    folder = experiment.new_folder(tmp_path, scenario)
    experiment.run(scenario, "duel", [], folder, Nobody())
    with pytest.raises(RecordError, match="the run is finished; only running, interrupted, failed ones can go on"):
        experiment.resume(folder, lambda _scenario: nullcontext(Nobody()))


def test_two_processes_do_not_run_one_run(tmp_path: Path) -> None:
    with (
        experiment._held(tmp_path),
        pytest.raises(RecordError, match="another process is running it"),
        experiment._held(tmp_path),
    ):
        pass
