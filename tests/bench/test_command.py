"""Arms whose server is something else than this installation's: another checkout's, or any command that serves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import gateway
import msgspec
import pandas as pd
import psutil
import pytest
from tiny import tiny

from bench import experiment
from bench.command import CommandError, serving
from bench.drivers.plan import Said
from bench.floor import work_of
from bench.precision import Width
from bench.record import Run, read_run, read_trial
from bench.report import build
from bench.scenario import Arm, Contrast, Scenario, Tree
from bench.scenario_toml import ScenarioError, load
from bench.server_settings import server_settings
from bench.trial import Cores, Place, TrialError, run_block
from bench.validity import breaches, seen

ROOT = Path(__file__).parents[2]
GATEWAY = f"{sys.executable} {gateway.__file__} --port {{port}}"
THROUGH = f"{GATEWAY} --upstream {{upstream}}"
ARMS = {
    "plain": Arm("sse", "aiohttp"),
    "renamed": Arm("sse", "aiohttp", command=f"{THROUGH} --rename"),
    "websocket": Arm("websocket", "websockets", command=THROUGH),
    "own": Arm("sse", "aiohttp", command=f"{GATEWAY} --child"),
}
TOLD_BY_LOGS = {"schedule", "log_torn", "unlogged", "backwards", "work"}
LIVING = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


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


class Silent:
    """A watcher that says nothing."""

    def begins(self, block: int, places: Sequence[Place]) -> None: ...

    def heard(self, place: Place, said: Said) -> None: ...

    def ended(self, block: int, reasons: Sequence[str], widths: Sequence[Width]) -> None: ...

    def stopping(self) -> None: ...


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One block of all `ARMS`, for all the tests that look at it."""
    folder = tmp_path_factory.mktemp("commands")
    file = tiny(folder)
    scenario = msgspec.structs.replace(
        load(str(file), ["profiles.p.gap.ms=2"]), arms=ARMS, contrasts={"own": Contrast("plain", "own")}
    )
    made = experiment.new_folder(folder, scenario)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.experiment.breaches", lambda *_: [])
        assert experiment.run(scenario, str(file), [], made, Silent()) == "finished"
    return read_run(made)


def frame_of(run: Run, arm: str) -> pd.DataFrame:
    return read_trial(next(trial.path for trial in run.trials if trial.facts["arm"] == arm))


@pytest.mark.parametrize("arm", ["renamed", "websocket"])
def test_what_a_gateway_passes_on_is_joined_with_the_log_behind_it(run: Run, arm: str) -> None:
    frame, plain = frame_of(run, arm), frame_of(run, "plain")
    assert set(frame["outcome"]) == set(frame["server_reason"]) == {"complete"}
    assert frame[["due_ns", "written_ns", "received_ns", "taken_up_ns"]].notna().all().all()
    assert (frame["requested_ns"] < frame["taken_up_ns"]).all()
    assert (frame["written_ns"] < frame["received_ns"]).all()
    assert frame[["lost", "repeated", "reordered", "corrupted"]].to_numpy().sum() == 0
    keys = ["window", "ordinal", "chunk"]
    work = [one.set_index(keys).sort_index()[["seed", "tokens"]] for one in (frame, plain)]
    assert work[0].equals(work[1])
    if arm == "renamed":
        assert set(frame["completion_id"]) == {"gw-42"}


def test_of_a_server_of_its_own_only_what_came_is_known(run: Run) -> None:
    frame = frame_of(run, "own")
    assert set(frame["outcome"]) == {"complete"}
    assert frame[["due_ns", "written_ns", "taken_up_ns", "server_reason"]].isna().all().all()
    assert frame["received_ns"].notna().all()
    assert (frame.groupby("stream")["chunk"].apply(list).map(tuple) == tuple(range(len(gateway.OWN)))).all()
    facts = next(trial.facts for trial in run.trials if trial.facts["arm"] == "own")
    assert facts["phases"]["cold"]["tokens"] == 4 * len(gateway.OWN)
    assert (facts["log_torn"], facts["schedule_mismatches"], facts["server"]["settings"]["upstream"]) == (None,) * 3
    behind = next(trial.facts for trial in run.trials if trial.facts["arm"] == "websocket")["server"]["upstream"]
    assert (behind["stack"], facts["server"]["upstream"]) == ("websockets", {})


def test_what_a_command_starts_counts_as_the_server(run: Run) -> None:
    peaks = {trial.facts["arm"]: trial.facts["phases"]["cold"]["server_rss_peak"] for trial in run.trials}
    assert peaks["own"] > 64 << 20 > max(peaks["renamed"], peaks["websocket"])


def test_rules_about_logs_are_for_those_who_have_one(run: Run) -> None:
    scenario = run.info["scenario"]
    for trial in run.trials:
        siblings = [other.facts for other in run.trials if other is not trial]
        assert not TOLD_BY_LOGS & {breach.rule for breach in breaches(trial.facts, scenario, siblings)}
        looked_at = {one.rule for one in seen(trial.facts, scenario, siblings)} & TOLD_BY_LOGS
        assert looked_at == (set() if trial.facts["arm"] == "own" else TOLD_BY_LOGS)


def test_nobody_asks_whether_a_command_waited_for_a_core_that_it_shares_with_itself(run: Run) -> None:
    facts = {trial.facts["arm"]: json.loads(json.dumps(trial.facts)) for trial in run.trials}
    for arm in facts.values():
        arm["server"]["settings"]["cpus"] = [0]
        arm["phases"]["cold"] |= {"server_wait_ns": 10**9, "driver_wait_ns": 10**9, "steal_cores": 2}
    waits = {
        name: {breach.rule for breach in breaches(arm, run.info["scenario"])} & {"server_wait", "driver_wait"}
        for name, arm in facts.items()
    }
    assert waits == {name: {"driver_wait"} for name in ARMS} | {"plain": {"server_wait", "driver_wait"}}


def test_the_report_has_what_is_known(run: Run) -> None:
    summary, written = build(run.path)
    assert all(path.stat().st_size for path in written.values() if path.is_file())
    known = {(value.arm, value.measure) for value in summary.values}
    always = {"ttft", "icl", "tpot", "max_stall", "e2e", "throughput", "cpu_server", "wire_bytes", "segments"}
    excess = {"ttft_excess", "gap_excess", "lateness", "delivery"}
    if sys.platform != "linux":
        always.remove("segments")
    for arm in ARMS:
        found = {measure for name, measure in known if name == arm}
        assert always <= found
        assert found & excess == (set() if arm == "own" else excess)
    assert all(account.lost == account.failed == 0 for account in summary.accounts)
    labels = {arm.name: (arm.label, arm.stack) for arm in summary.arms}
    assert labels["own"] == ("SSE on own", "command")
    assert labels["plain"] == ("SSE on aiohttp", "aiohttp")
    text = written["markdown"].read_text("utf-8")
    assert "All 16 streams are complete and of those known beforehand all 48 tokens are accounted for" in text
    assert "Of SSE on own nobody knows which tokens were to come: whether any is missing is not known." in text


def fails(folder: Path, command: str) -> str:
    """What is said of an arm that is this command."""
    scenario = with_arm(load(str(tiny(folder))), Arm("sse", "aiohttp", command=command))
    with pytest.raises(TrialError) as caught:
        run_block(scenario, 1, [Place("other", 1, 1, 1)], folder / "trials", None, nobody)
    assert (caught.value.arm, caught.value.process) == ("other", "server")
    return str(caught.value)


def test_a_command_that_does_not_come_to_serve_is_named_with_its_last_words(tmp_path: Path) -> None:
    assert fails(tmp_path, "/nowhere/gateway {port}") == (
        "the command /nowhere/gateway cannot be started: No such file or directory"
    )
    code = "import sys; print('reading', 'no such key', sep=chr(10), file=sys.stderr); sys.exit(3)"
    assert fails(tmp_path, f'{sys.executable} -c "{code}" {{port}}') == (
        f"the command {sys.executable} ended at its start with exit code 3: no such key"
    )


def living(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children(recursive=True) if child.status() not in LIVING]


def test_a_command_that_never_listens_is_given_up_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.trial.READY_S", 1.0)
    monkeypatch.setattr("bench.trial.STOP_S", 0.1)
    before = living(psutil.Process())
    assert "does not listen on port" in fails(tmp_path, f"{GATEWAY} --deaf")
    assert living(psutil.Process()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_a_command_keeps_to_its_core_with_all_it_starts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with serving(f"{GATEWAY} --child", "", [core], tmp_path / "err", 20, 5) as serves:
        own = psutil.Process(serves.process.pid)
        everyone = [own, *own.children(recursive=True)]
        assert len(everyone) == 2
        assert all(os.sched_getaffinity(one.pid) == {core} for one in everyone)
        assert os.getpgid(everyone[1].pid) != os.getpgid(own.pid)
    gone, alive = psutil.wait_procs(everyone, timeout=10)
    assert not [one for one in alive if one.status() not in LIVING], gone
    serves.stop()  # a second time is none


def test_a_port_that_another_takes_is_no_failure(tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    code = (
        "import socket, sys, time; said = open(sys.argv[1], 'a'); print(sys.argv[2], file=said, flush=True)\n"
        "if len(open(sys.argv[1]).readlines()) < int(sys.argv[3]): sys.exit('bind: Address already in use')\n"
        "listens = socket.create_server(('127.0.0.1', int(sys.argv[2]))); time.sleep(600)\n"
    )
    (tmp_path / "late.py").write_text(code)
    command = f"{sys.executable} {tmp_path / 'late.py'} {ports} {{port}}"
    with serving(f"{command} 3", "", None, tmp_path / "err", 20, 5) as serves:
        assert ports.read_text().split()[2:] == [str(serves.port)]
        socket.create_connection(("127.0.0.1", serves.port)).close()
    ports.unlink()
    with (
        pytest.raises(CommandError, match="exit code 1: bind: Address already in use"),
        serving(f"{command} 4", "", None, tmp_path / "err", 20, 5),
    ):
        pass
    assert len(ports.read_text().split()) == 3


def test_the_server_behind_a_command_has_a_core_of_its_own_where_there_is_one() -> None:
    two, three = Cores([0], [1]), Cores([0], [1], [2])
    through, own, plain = ARMS["websocket"], ARMS["own"], ARMS["plain"]
    assert [two.mock(arm) for arm in (through, plain)] == [[0], [0]]
    assert [three.mock(arm) for arm in (through, plain)] == [[2], [0]]
    assert [three.used_by(arm) for arm in (through, own, plain)] == [[0, 1, 2], [0, 1], [0, 1]]
    assert two.used_by(through) == [0, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("command='gateway'", "command needs {port}, in whose place it is told where to listen: gateway --port {port}"),
        (
            "command='gateway {port} {host}'",
            "command has {host}, which nothing stands for; allowed: {port}, {upstream}",
        ),
        ("command='gateway \"{port}'", "cannot be split into words: No closing quotation"),
        (
            "command='g {port}', tree={ path = '/a', python = '/b' }",
            "the server is the one or the other; leave one out",
        ),
        ("command='g {port}', plant={ cpu_us = 5 }", "plant needs {upstream} in command"),
        ("command='g {port}', heartbeat_s=1", "heartbeat_s needs {upstream} in command"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(str(tiny(tmp_path)), [f"arms.other={{ protocol = 'sse', stack = 'aiohttp', {more} }}"])
    assert message in str(caught.value)
    assert "arms.other" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        (THROUGH, "experiment.tls=true", "arms.other.command: tls = true: nothing hands a certificate to a command"),
        (THROUGH, "experiment.networks=['lte']", "experiment.networks has 'lte': a command listens on 127.0.0.1"),
        (THROUGH, "phases.cold.restart={ after_s = 1 }", "phases.cold.restart: no second one can wait"),
        (GATEWAY, "phases.cold.fault='f'", "phases.cold.fault: needs a server of this project behind the command"),
        (
            GATEWAY,
            "phases.cold={ load='steps', users=[1], turns=1, limit_ms=5, connections='cold', profile='p' }",
            "phases.cold.load = 'steps': needs a server of this project behind the command; give it {upstream}",
        ),
    ],
)
def test_what_a_command_cannot_do_is_refused(tmp_path: Path, command: str, override: str, message: str) -> None:
    arm = f"arms.other={{ protocol = 'sse', stack = 'aiohttp', command = \"{command}\" }}"
    with pytest.raises(ScenarioError) as caught:
        load(str(tiny(tmp_path)), [arm, "faults.f={ kind = 'reset' }", override])
    assert message in str(caught.value)


def test_a_command_behind_which_this_projects_server_is_may_have_what_that_offers(tmp_path: Path) -> None:
    arm = (
        f"arms.other={{ protocol='sse', stack='aiohttp', command=\"{THROUGH}\", heartbeat_s=1, plant={{ cpu_us=1 }} }}"
    )
    scenario = load(str(tiny(tmp_path)), [arm, "faults.f={ kind = 'reset' }", "phases.cold.fault='f'"])
    assert scenario.arms["other"].mocked
    assert work_of(scenario) == work_of(
        load(str(tiny(tmp_path)), ["faults.f={ kind = 'reset' }", "phases.cold.fault='f'"])
    )
