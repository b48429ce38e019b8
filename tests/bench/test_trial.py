"""Trials and experiments end to end, small: real processes, real sockets, Parquet that pandas and DuckDB read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import msgspec
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from tiny import tiny

from bench import experiment, validity
from bench.drivers.plan import Said, Tick
from bench.precision import Width
from bench.record import SCHEMA, read_run, read_trial
from bench.scenario import Scenario
from bench.scenario_toml import load
from bench.trial import Place, TrialError, run_block

SMALL = [
    "experiment.blocks=2",
    "experiment.roofline=false",
    "phases.cold.duration_s=0.2",
    "phases.cold.slices=2",
    "phases.chat.users=4",
    "phases.chat.turns=2",
    "phases.chat.slices=1",
    "phases.chat.ramp_s=0.1",
    "profiles.chat.first={dist='constant', ms=30}",
    "profiles.chat.length.min=8",
    "profiles.chat.length.max=12",
    "phases.reconnect.users=2",
    "phases.reconnect.ramp_s=0",
    "profiles.resumed.length.tokens=8",
    "phases.firehose.users=2",
    "phases.firehose.turns=2",
    "phases.firehose.slices=2",
    "profiles.firehose.length.tokens=50",
]


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[tuple[int, list[str]]] = []
        self.spoke: list[tuple[str, type]] = []

    def begins(self, block: int, _places: Sequence[Place]) -> None:
        self.begun.append(block)

    def heard(self, place: Place, said: Said) -> None:
        self.spoke.append((place.arm, type(said)))

    def ended(self, block: int, reasons: Sequence[str], _widths: Sequence[Width]) -> None:
        self.done.append((block, list(reasons)))

    def stopping(self) -> None:
        pass


@pytest.fixture(autouse=True)
def machine_is_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on the machine that runs the tests is no reason to void their blocks."""
    monkeypatch.setattr("bench.experiment.breaches", lambda *_: [])


@pytest.fixture
def begun() -> Callable[[], list[psutil.Process]]:
    """The child processes that came with the test, dead ones too: those of other tests' fixtures may go on."""
    others = psutil.Process().children()
    return lambda: [child for child in psutil.Process().children() if child not in others]


def nobody(_place: Place, _said: Said) -> None:
    pass


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small experiment, run once for all the tests that look at it."""
    scenario = load("duel", SMALL)
    folder = experiment.new_folder(tmp_path_factory.mktemp("results"), scenario)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.experiment.breaches", lambda *_: [])
        assert experiment.run(scenario, "duel", SMALL, folder, Silent()) == "finished"
    return folder


def trials_of(folder: Path) -> dict[str, pd.DataFrame]:
    return {trial.facts["arm"]: read_trial(trial.path) for trial in read_run(folder).trials}


def test_every_arm_ran_once_per_block_in_the_recorded_order(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.info["state"] == "finished"
    assert run.warnings == []
    ran = [(trial.facts["block"], trial.facts["arm"]) for trial in run.trials]  # in the order of their first turns
    assert ran == [(block, arm) for block, order in enumerate(run.info["order"], 1) for arm in order]
    assert all(sorted(order) == ["sse-aiohttp", "ws-aiohttp", "ws-websockets"] for order in run.info["order"])
    assert run.info["overrides"] == SMALL
    assert run.info["scenario"]["phases"]["chat"]["users"] == 4
    assert not list((run_folder / "trials").glob(".*"))  # raw logs are gone once joined


def test_every_stream_is_complete_and_every_token_accounted_for(run_folder: Path) -> None:
    for frame in trials_of(run_folder).values():
        assert frame[["lost", "repeated", "reordered", "corrupted"]].to_numpy().sum() == 0
        assert frame["due_ns"].notna().all()
        cut = frame[(frame["phase"] == "reconnect") & (frame["attempt"] == 0) & frame["window"]]
        assert set(cut["outcome"]) == {"truncated"}
        assert set(cut["server_reason"]) == {"cut"}
        others = frame.drop(cut.index)
        assert set(others["outcome"]) == set(others["server_reason"]) == {"complete"}
        assert others[["written_ns", "received_ns"]].notna().all().all()
        got = frame[frame["received_ns"].notna()].groupby(["phase", "window", "ordinal"], observed=True)["chunk"]
        assert (got.nunique() == got.max() + 1).all()


def test_stamps_are_in_the_order_of_events(run_folder: Path) -> None:
    for frame in trials_of(run_folder).values():
        assert (frame["due_ns"] <= frame["written_ns"]).all()  # never early
        assert (frame["written_ns"] < frame["received_ns"]).all()
        assert (frame["intended_ns"] <= frame["started_ns"]).all()
        assert (frame["started_ns"] <= frame["requested_ns"]).all()
        assert (frame["requested_ns"] < frame["taken_up_ns"]).all()
        cold = frame[frame["cold"]]
        assert (cold["started_ns"] <= cold["connected_ns"]).all()
        assert (cold["connected_ns"] <= cold["ready_ns"]).all()
        assert frame.loc[~frame["cold"], "connected_ns"].isna().all()


def test_arms_did_the_same_work(run_folder: Path) -> None:
    facts = [trial.facts for trial in read_run(run_folder).trials]
    assert all(fact["schedule_mismatches"] == 0 for fact in facts)
    keys = ["phase", "window", "ordinal", "attempt", "chunk"]
    work = [frame.set_index(keys).sort_index()[["seed", "tokens"]] for frame in trials_of(run_folder).values()]
    assert all(work[0].equals(other) for other in work[1:])
    tokens = [{name: phase["tokens"] for name, phase in fact["phases"].items()} for fact in facts]
    assert all(counts == tokens[0] for counts in tokens)
    assert tokens[0]["firehose"] == 2 * 2 * 50


def test_slices_go_round(run_folder: Path) -> None:
    run = read_run(run_folder)
    for number, order in enumerate(run.info["order"], 1):
        began = sorted(
            (one["start_ns"], trial.facts["arm"])
            for trial in run.trials
            for one in trial.facts["phases"]["firehose"]["slices"]
            if trial.facts["block"] == number
        )
        assert [arm for _, arm in began] == order * 2


def test_bytes_add_up(run_folder: Path) -> None:
    frames = trials_of(run_folder)
    for frame in frames.values():
        streams = frame.drop_duplicates("stream")
        assert (streams["received_bytes"] > streams["head_bytes"] + streams["payload_bytes"]).all()
        assert (streams["payload_bytes"] > streams["content_bytes"]).all()
        assert (streams["content_bytes"] > streams["text_bytes"]).all()
    keys = ["phase", "window", "ordinal", "attempt"]
    payloads = [f.drop_duplicates("stream").set_index(keys).sort_index()["payload_bytes"] for f in frames.values()]
    assert all(payloads[0].equals(other) for other in payloads[1:])  # the same JSON on every arm, byte for byte


def test_equal_streams_have_equal_framing(run_folder: Path) -> None:
    for frame in trials_of(run_folder).values():
        streams = frame[frame["window"] & (frame["phase"] == "firehose")].drop_duplicates("stream")
        framing = streams["received_bytes"] - streams["head_bytes"] - streams["payload_bytes"]
        assert framing.nunique() == 1


@pytest.mark.parametrize("arm", ["sse-aiohttp", "ws-aiohttp", "ws-websockets"])
@pytest.mark.parametrize("what", ["first", "gap"])
def test_time_outs_hold_on_every_protocol(tmp_path: Path, arm: str, what: str) -> None:
    slow = {
        "first": "profiles.chat.first={dist='constant', ms=5000}",
        "gap": "profiles.chat.gap={dist='constant', ms=5000}",
    }
    scenario = small_scenario(f"timeouts.{what}_s=0.2", slow[what])
    only = msgspec.structs.replace(scenario, phases={"chat": scenario.phases["chat"]})
    frame = read_trial(run_block(only, 1, [Place(arm, 1, 1, 1)], tmp_path, None, nobody)[0].path)
    streams = frame[frame["window"]].drop_duplicates("stream")
    assert set(streams["outcome"]) == {"timed_out"}
    assert set(streams["reason"]) == {f"{what}_timeout"}
    assert len(streams) == 8


def test_too_few_descriptors_are_the_instruments_fault(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "import bench.trial as t; from bench.scenario_toml import load\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "s = load('duel', ['phases.chat.users=60', 'profiles.chat.first.median_ms=2000'])\n"
        "place = t.Place('sse-aiohttp', 1, 1, 1)\n"
        "try: t.run_block(s, 1, [place], Path(sys.argv[1]), None, lambda *_: None)\n"
        "except t.TrialError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "Too many open files" in done.stdout, done.stderr


def test_phases_know_their_cost(run_folder: Path) -> None:
    for trial in read_run(run_folder).trials:
        for phase in trial.facts["phases"].values():
            assert phase["window_end_ns"] > phase["window_start_ns"]
            assert phase["server_cpu_ns"] > 0
            assert phase["driver_cpu_ns"] > 0
            assert phase["server_rss_peak"] >= phase["server_rss_start"] > 1 << 20


def test_files_are_read_in_one_line(run_folder: Path) -> None:
    pattern = str(run_folder / "trials" / "*.parquet")
    by_duckdb = duckdb.sql(f"select arm, count(*) as n from '{pattern}' group by arm").df().set_index("arm")["n"]
    by_pandas = pd.read_parquet(run_folder / "trials").groupby("arm", observed=True).size()
    assert by_duckdb.to_dict() == by_pandas.to_dict()
    assert len(by_pandas) == 3
    assert pq.read_schema(next((run_folder / "trials").glob("*.parquet"))).names == SCHEMA.names


def small_scenario(*more: str) -> Scenario:
    return load("duel", [*SMALL, *more])


def test_a_server_that_cannot_start_fails_the_trial_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: Callable[[], list[psutil.Process]]
) -> None:
    monkeypatch.setattr("bench.trial.server_settings", lambda *_: {"loop": "trio"})
    with pytest.raises(TrialError, match=r"the server ended at its start with exit code 2: .*loop") as caught:
        run_block(small_scenario(), 1, [Place("sse-aiohttp", 1, 1, 1)], tmp_path, None, nobody)
    assert "\n" not in str(caught.value)
    assert not begun()


@pytest.mark.parametrize("victim", ["servers", "bench.drivers.asyncio_"])
def test_killing_a_process_leaves_finished_trials_and_no_orphans(
    tmp_path: Path, victim: str, monkeypatch: pytest.MonkeyPatch, begun: Callable[[], list[psutil.Process]]
) -> None:
    whole = small_scenario()
    arms = {name: whole.arms[name] for name in ("sse-aiohttp", "ws-aiohttp")}
    scenario = msgspec.structs.replace(
        whole, arms=arms, phases={"chat": whole.phases["chat"]}, contrasts={}, primary={}
    )
    folder = experiment.new_folder(tmp_path, scenario)

    class Killer(Silent):
        killed = False

        def heard(self, _place: Place, said: Said) -> None:
            if len(self.done) == 1 and isinstance(said, Tick) and not self.killed:  # in the second block
                self.killed = True
                for child in begun():
                    if victim in child.cmdline():
                        child.kill()

    killer = Killer()
    monkeypatch.undo()
    monkeypatch.setattr(
        "bench.experiment.breaches",
        lambda facts, *_: [b for b in validity.breaches(facts, *_) if b.rule in ("died", "log_torn")],
    )
    if victim == "servers":
        # Its streams are refused or cut, and the trials say so; the block runs again.
        assert experiment.run(scenario, "duel", [], folder, killer) == "finished"
        run = read_run(folder)
        assert [void["block"] for void in run.info["voids"]] == [2]
        assert "server died" in run.info["voids"][0]["reasons"][0]
        dead = [trial for trial in run.trials if trial.facts["block"] == 2]
        assert all(set(read_trial(trial.path)["outcome"]) & {"refused", "truncated"} for trial in dead)
        assert {trial.facts["server"]["died"] for trial in dead} == {-signal.SIGKILL}
        assert sorted({trial.facts["block"] for trial in run.trials}) == [1, 2, 3]
    else:
        with pytest.raises(TrialError, match="the driver ended early"):
            experiment.run(scenario, "duel", [], folder, killer)
        run = read_run(folder)
        assert run.info["state"] == "failed"
        assert {trial.facts["block"] for trial in run.trials} == {1}
    assert not begun()


def long_run(folder: Path) -> subprocess.Popen[str]:
    """A run with more blocks than a test waits for, into `results`."""
    command = [sys.executable, "-m", "bench", "run", str(tiny(folder)), "--results", str(folder / "results")]
    command += ["--set", "experiment.blocks=50"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Until a file is there; the process under test ending, or a minute, ends the wait."""
    deadline = time.monotonic() + 60
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_finishes_the_block_and_reports(tmp_path: Path) -> None:
    process = long_run(tmp_path)
    wait_for(tmp_path, "results/*/trials/*.parquet", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this block" in err
    run = read_run(next((tmp_path / "results").iterdir()))
    assert run.info["state"] == "interrupted"
    assert 2 <= len(run.trials) < 100
    assert len(run.trials) % 2 == 0
    assert f"tokenwire run --resume {run.path}" in out
    assert "report.html" in out
    assert (run.path / "report.html").stat().st_size > 10_000


def test_a_killed_run_is_still_reported(tmp_path: Path) -> None:
    process = long_run(tmp_path)
    wait_for(tmp_path, "results/*/trials/*.parquet", process)
    children = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    if sys.platform == "linux":
        assert not psutil.wait_procs(children, timeout=10)[1]  # nothing is left running
    folder = next((tmp_path / "results").iterdir())
    again = subprocess.run(
        [sys.executable, "-m", "bench", "report", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert summary
    assert os.listdir(folder / "charts")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dual"], "tokenwire: dual: no such scenario or file; did you mean 'duel'? "),
        (
            ["run", "duel", "--set", "phases.chat.users=-1"],
            "tokenwire: duel.toml: phases.chat.users = -1: expected int",
        ),
        (["report", "/nonexistent"], "tokenwire: /nonexistent: no run here"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
