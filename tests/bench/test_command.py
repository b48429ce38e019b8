"""Arms whose server is something else than this installation's: another checkout's, or any command that serves."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from tiny import tiny

from bench.floor import work_of
from bench.record import read_trial
from bench.scenario import Arm, Scenario, Tree
from bench.scenario_toml import ScenarioError, load
from bench.server_settings import server_settings
from bench.trial import Place, TrialError, run_block

ROOT = Path(__file__).parents[2]


def nobody(*_: object) -> None:
    pass


def checkout(folder: Path) -> Path:
    """Another checkout, whose servers can be told from those of this one by a version they tell."""
    shutil.copytree(ROOT / "servers", folder / "servers", ignore=shutil.ignore_patterns("__pycache__"))
    main = folder / "servers" / "__main__.py"
    text = main.read_text("utf-8")
    main.write_text(text.replace('"msgspec": msgspec.__version__', '"msgspec": "of another checkout"'), "utf-8")
    assert main.read_text("utf-8") != text
    return folder


def with_arm(scenario: Scenario, arm: Arm) -> Scenario:
    """The scenario with this one beside the arm `sse-aiohttp`."""
    return msgspec.structs.replace(scenario, arms={"sse-aiohttp": scenario.arms["sse-aiohttp"], "other": arm})


def test_a_tree_is_the_code_that_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tree = Tree(str(checkout(tmp_path / "tree")), sys.executable)
    scenario = with_arm(load(str(tiny(tmp_path))), Arm("sse", "aiohttp", tree=tree))
    places = [Place("sse-aiohttp", 1, 1, 1), Place("other", 1, 2, 2)]
    here, there = run_block(scenario, 1, places, tmp_path / "trials", None, nobody)
    assert here.facts["server"]["versions"]["msgspec"] == msgspec.__version__
    assert there.facts["server"]["versions"]["msgspec"] == "of another checkout"
    assert set(read_trial(there.path)["outcome"]) == {"complete"}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Tree("/nowhere", sys.executable), "the server cannot be started: /nowhere: No such file or directory"),
        (Tree("/", "/nowhere/python"), "the server cannot be started: /nowhere/python: No such file or directory"),
    ],
)
def test_a_tree_that_cannot_be_started_is_named(tmp_path: Path, tree: Tree, message: str) -> None:
    scenario = with_arm(load(str(tiny(tmp_path))), Arm("sse", "aiohttp", tree=tree))
    with pytest.raises(TrialError) as caught:
        run_block(scenario, 1, [Place("other", 1, 1, 1)], tmp_path / "trials", None, nobody)
    assert (str(caught.value), caught.value.arm, caught.value.process) == (message, "other", "server")


def test_a_tree_that_ends_at_its_start_says_so_with_its_last_words(tmp_path: Path) -> None:
    tree = Tree(str(checkout(tmp_path / "tree")), sys.executable)
    (Path(tree.path) / "servers" / "registry.py").write_text("raise ImportError('a name is missing')\n", "utf-8")
    scenario = with_arm(load(str(tiny(tmp_path))), Arm("sse", "aiohttp", tree=tree))
    with pytest.raises(TrialError) as caught:
        run_block(scenario, 1, [Place("other", 1, 1, 1)], tmp_path / "trials", None, nobody)
    expected = "the server ended at its start with exit code 1: ImportError: a name is missing"
    assert (str(caught.value), caught.value.arm, caught.value.process) == (expected, "other", "server")


def test_a_driver_that_fails_is_told_from_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.trial.DRIVERS", {"asyncio": "bench.no_such_driver"})
    with pytest.raises(TrialError, match="the driver ended early") as caught:
        run_block(load(str(tiny(tmp_path))), 1, [Place("ws-aiohttp", 1, 1, 1)], tmp_path / "trials", None, nobody)
    assert (caught.value.arm, caught.value.process) == ("ws-aiohttp", "driver")


def test_a_server_is_told_nothing_that_goes_without_saying(tmp_path: Path) -> None:
    """So that the servers of a revision that does not know a newer key can start."""
    found = server_settings(load(str(tiny(tmp_path))), "sse-aiohttp", tmp_path / "log")
    assert found.keys() == {"mode", "loop", "profiles", "log"}
    assert found["profiles"]["p"] == {
        "first": {"dist": "constant", "ms": 0.0},
        "gap": {"dist": "constant", "ms": 0.0},
        "length": {"dist": "fixed", "tokens": 4},
    }
    given = ["arms.sse-aiohttp.heartbeat_s=0", "arms.ws-aiohttp.compression=false", "profiles.p.bundle=2"]
    scenario = load(str(tiny(tmp_path)), given)
    assert server_settings(scenario, "sse-aiohttp", None)["heartbeat_s"] == 0
    assert server_settings(scenario, "ws-aiohttp", None)["compression"] is False
    assert server_settings(scenario, "ws-aiohttp", None)["profiles"]["p"]["bundle"] == 2


@pytest.mark.parametrize("name", ["flaky", "restart-storm", "duel", "cjk"])
def test_a_server_understands_what_it_is_told_as_it_was_meant(name: str) -> None:
    scenario = load(name)
    arm = next(iter(scenario.arms))
    told = json.loads(msgspec.json.encode(server_settings(scenario, arm, None)))
    profiles = {
        key: msgspec.convert(value, type(scenario.profiles[key]))
        for key, value in told["profiles"].items()
        if key in scenario.profiles
    }
    assert profiles == scenario.profiles
    faults = {phase.profile: scenario.fault(key) for key, phase in scenario.phases.items() if phase.fault}
    assert {key: msgspec.convert(told["faults"][key], type(fault)) for key, fault in faults.items()} == faults


def test_noise_is_of_the_work_whatever_serves_it(tmp_path: Path) -> None:
    scenario = load(str(tiny(tmp_path)))
    assert work_of(with_arm(scenario, Arm("sse", "aiohttp", tree=Tree("/a", "/b")))) == work_of(scenario)


def test_a_file_may_name_a_tree(tmp_path: Path) -> None:
    file = str(tiny(tmp_path))
    arm = load(file, ["arms.sse-aiohttp.tree={ path = '/a', python = '/b' }"]).arms["sse-aiohttp"]
    assert arm.tree == Tree("/a", "/b")
    with pytest.raises(ScenarioError, match=r"arms\.sse-aiohttp\.tree\.path = '': expected `?str`? of length >= 1"):
        load(file, ["arms.sse-aiohttp.tree={ path = '', python = '/b' }"])
