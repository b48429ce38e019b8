"""The locustfile over several processes: what the master adds up is what its workers recorded, and what is missing."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import swarming
from swarming import LONG_TOKENS, PROTOCOLS, Locust, Page, Stream, Target, Test, eventually, in_order, nearest_rank
from swarming import samples as samples_of

from bench.arrivals import derive_seed, endless_offsets
from bench.scenario_toml import load
from bench.swarm.here import free_port

KEY = "sk-proj-do-not-tell-0123456789"
RATE = 40.0
MEASURES = ("connect", "ttft_cold", "ttft_excess_cold", "icl", "gap_excess", "stream", "late")


class Swarm(NamedTuple):
    """A master and its workers, which all keep records in one folder."""

    master: Locust
    workers: list[Locust]


class Starter:
    """Starts masters and workers."""

    def __init__(self, folder: Path, target: Target, start: Callable[..., Locust]) -> None:
        self._folder, self._target, self._start = folder, target, start
        self._number = 0

    def worker(self, master: Locust, port: int) -> Locust:
        self._number += 1
        return self._start(
            master.folder.with_name(f"{master.folder.name}-{self._number}"), "--worker", "--master-port", str(port),
            "--records", str(master.records), env={"TOKENWIRE_API_KEY": KEY},
        )  # fmt: skip

    def master(self, name: str, port: int, workers: int, *arguments: str) -> Locust:
        return self._start(
            self._folder / name, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port),
            "--expect-workers", str(workers), "--only-summary", "--scenario", str(self._target.scenario),
            "--host", self._target.url, *arguments, env={"TOKENWIRE_API_KEY": KEY},
        )  # fmt: skip

    def swarm(self, name: str, *arguments: str) -> Swarm:
        """A headless master with two workers, to its end."""
        port = free_port()
        master = self.master(name, port, 2, "--headless", *arguments)
        workers = [self.worker(master, port) for _ in range(2)]
        master.ended()
        for worker in workers:
            worker.ended()
        return Swarm(master, workers)

    def processes(self, name: str, number: signal.Signals, *, to_all: bool) -> Locust:
        """`--processes 2`, stopped by a signal in the middle of streams."""
        port = str(free_port())
        run = self._start(
            self._folder / name, "--processes", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
            "--master-port", port, "--headless", "--only-summary", "--scenario", str(self._target.scenario),
            "--host", self._target.url, "-u", "4", "-r", "4", "--phase", "long",
            env={swarming.REPORTS_WAIT: "20"},
        )  # fmt: skip
        eventually(lambda: run.said("All users spawned"))
        run.signal(number, to_all=to_all)
        run.ended()
        return run

    def story(self) -> Story:
        """Two tests on one page: a worker joins in the first; in the second one leaves, and one is killed."""
        port, web = free_port(), free_port()
        master = self.master(
            "story", port, 2, "--web-host", "127.0.0.1", "--web-port", str(web), "--autostart",
            "-u", "6", "-r", "6", "--phase", "calm",
        )  # fmt: skip
        workers = [self.worker(master, port) for _ in range(2)]
        page = Page(master, web)
        eventually(page.there)
        eventually(lambda: _with_users(page, 2), "two workers report")
        workers.append(self.worker(master, port))
        eventually(lambda: _with_users(page, 3), "the third has users")
        page.post("/stop")
        page.post("/swarm", user_count="6", spawn_rate="6", host=self._target.url, phase="cold")
        eventually(lambda: page.json("/tokenwire.json")["conclusion"] is None and _with_users(page, 3))
        at_first = page.json("/tokenwire.json")
        workers[1].process.send_signal(signal.SIGTERM)
        workers[1].ended()
        eventually(lambda: _states(page)["left"] == 1)
        workers[0].kill()
        eventually(lambda: _states(page)["lost"] == 1, "the master notices")
        eventually(lambda: _users(page) == [6], "the one that is left has all users")
        master.process.send_signal(signal.SIGTERM)
        master.ended()
        workers[2].ended()
        return Story(Swarm(master, workers), at_first)


class Story(NamedTuple):
    swarm: Swarm
    live: dict[str, Any]
    """The figures of the second test when all three workers had users."""


def _users(page: Page) -> list[int]:
    """Of the workers that are there, at their last reports."""
    return [worker["users"] for worker in page.json("/tokenwire.json")["workers"] if worker["state"] == "there"]


def _with_users(page: Page, workers: int) -> bool:
    users = _users(page)
    return len(users) == workers and all(users) and sum(users) == 6


def _states(page: Page) -> Counter[str]:
    return Counter(worker["state"] for worker in page.json("/tokenwire.json")["workers"])


Runs = Callable[[str], Any]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with swarming.target(tmp_path_factory.mktemp("target")) as there:
        yield there


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[Runs]:
    """All runs, two at a time, as most of them wait most of the time; the call waits for one."""
    folder = tmp_path_factory.mktemp("runs")
    with swarming.locusts() as started, ThreadPoolExecutor(2) as pool:
        starter = Starter(folder, target, started)
        there: dict[str, Future[Any]] = {
            "story": pool.submit(starter.story),
            "closed": pool.submit(
                starter.swarm, "closed", "-u", "8", "-r", "8", "-t", "3s", "--phase", "cold",
                "--csv", str(folder / "closed-table"),
            ),
            "open": pool.submit(
                starter.swarm, "open", "-u", "40", "-r", "40", "-t", "4s", "--phase", "warm", "--rate", str(RATE)
            ),
            "SIGINT": pool.submit(starter.processes, "SIGINT", signal.SIGINT, to_all=True),
            "SIGTERM": pool.submit(starter.processes, "SIGTERM", signal.SIGTERM, to_all=False),
        }  # fmt: skip
        yield lambda name: there[name].result()
        for one in there.values():
            one.cancel()


def ended(streams: list[Stream], protocol: str) -> list[Stream]:
    return [one for one in streams if one.protocol == protocol and one.record.outcome != "dropped"]


def worker_that(test: Test, state: str) -> dict[str, Any]:
    """The only worker of a state, as it is reported."""
    (found,) = (worker for worker in test.report["workers"] if worker["state"] == state)
    return dict(found)


# Two workers.


@pytest.mark.parametrize("name", ["closed", "open"])
def test_a_swarm_ends_in_good_order(runs: Runs, name: str) -> None:
    swarm: Swarm = runs(name)
    in_order(swarm.master, swarm.master.test)
    assert [worker.process.returncode for worker in swarm.workers] == [0, 0]
    assert all("Traceback" not in worker.err for worker in swarm.workers)
    seen = swarm.master.test.report["workers"]
    assert [(worker["final"], worker["open"]) for worker in seen] == [(True, 0)] * 2
    assert all((swarm.master.test.folder / worker["name"]).is_dir() for worker in seen)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("measure", MEASURES)
def test_merged_percentiles_are_those_of_all_records(runs: Runs, target: Target, protocol: str, measure: str) -> None:
    test = runs("closed").master.test
    truth = samples_of(ended(test.streams_of(target.scenario), protocol), measure)
    row = test.row(protocol, measure)
    assert row["count"] == len(truth) > 10
    assert row["min_ms"] == pytest.approx(truth[0] / 1e6, abs=2e-6)
    assert row["max_ms"] == pytest.approx(truth[-1] / 1e6, abs=2e-6)
    assert row["mean_ms"] == pytest.approx(sum(truth) / len(truth) / 1e6, abs=2e-6)
    assert len(row["curve"]) >= 2
    for p, value_ms in row["curve"]:
        true_ns = nearest_rank(truth, p)
        assert abs(value_ms * 1e6 - true_ns) <= max(1_000, abs(true_ns) / 1000) + 1, p
    told = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p99_9_ms": 99.9}
    curve = dict(row["curve"])
    assert all(row[key] == curve.get(p) for key, p in told.items())


@pytest.mark.parametrize("name", ["closed", "open"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_counts_are_those_of_all_records(runs: Runs, target: Target, name: str, protocol: str) -> None:
    test = runs(name).master.test
    streams = test.streams_of(target.scenario)
    mine = ended(streams, protocol)
    tally = test.tally(protocol)
    assert tally["outcomes"] == {"complete": len(mine)}
    assert tally["counts"]["started"] == tally["counts"]["ended"] == len(mine)
    assert tally["counts"]["tokens"] == sum(one.record.chunks for one in mine)
    assert tally["counts"]["received_bytes"] == sum(one.record.received_bytes for one in mine)
    dropped = [one for one in streams if one.protocol == protocol and one.record.outcome == "dropped"]
    assert tally["counts"]["dropped"] == len(dropped)


@pytest.mark.parametrize("name", ["closed", "open"])
def test_every_worker_has_both_protocols(runs: Runs, target: Target, name: str) -> None:
    test = runs(name).master.test
    had = {(one.worker, one.protocol) for one in test.streams_of(target.scenario)}
    workers = [worker["name"] for worker in test.report["workers"]]
    assert had == {(worker, protocol) for worker in workers for protocol in PROTOCOLS}
    assert len({worker["users"] for worker in test.report["workers"]}) == 1


def test_no_worker_has_the_streams_of_another(runs: Runs, target: Target) -> None:
    streams = runs("closed").master.test.streams_of(target.scenario)
    assert len({(one.protocol, one.record.seed) for one in streams}) == len(streams)


def test_locusts_table_of_a_master_has_the_parts_of_streams(runs: Runs) -> None:
    swarm = runs("closed")
    table = (swarm.master.folder.parent / "closed-table_stats.csv").read_text()
    rows = {line.split(",")[1]: line.split(",") for line in table.splitlines()}
    for title, protocol in (("SSE", "sse"), ("WS", "websocket")):
        for part, measure in (("connect", "connect"), ("ttft", "ttft_cold"), ("icl", "icl"), ("stream", "stream")):
            assert int(rows[f"{title} {part}"][2]) == swarm.master.test.row(protocol, measure)["count"]


def test_nothing_has_the_key(runs: Runs) -> None:
    folder = runs("closed").master.folder.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"stdout", "stderr", "report.html", "streams.jsonl"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


# Open loop.


def test_workers_have_the_schedule_between_them(runs: Runs, target: Target) -> None:
    streams = runs("open").master.test.streams_of(target.scenario)
    ordinals = {p: Counter(one.record.ordinal for one in streams if one.protocol == p) for p in PROTOCOLS}
    assert ordinals["sse"] == ordinals["websocket"]
    assert set(ordinals["sse"].values()) == {1}
    # Workers do not end in the same instant: what they all were there for is whole.
    last = min(max(one.record.ordinal for one in streams if one.worker == w) for w in {one.worker for one in streams})
    assert last > RATE / 2
    assert set(range(last + 1)) <= set(ordinals["sse"])


def test_streams_are_due_at_the_schedules_times_of_a_workers_own_clock(runs: Runs, target: Target) -> None:
    streams = runs("open").master.test.streams_of(target.scenario)
    seed = derive_seed(load(str(target.scenario)).experiment.seed, "warm", "arrivals")
    count = max(one.record.ordinal for one in streams) + 1
    offsets = [offset for offset, _ in zip(endless_offsets("poisson", RATE, seed), range(count), strict=False)]
    for worker in {one.worker for one in streams}:
        epochs = {one.record.intended_ns - offsets[one.record.ordinal] for one in streams if one.worker == worker}
        assert len(epochs) == 1
    assert all(one.record.started_ns >= one.record.intended_ns for one in streams if one.record.started_ns)


# Ends.


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_processes_that_are_stopped_drain_their_streams(runs: Runs, target: Target, name: str) -> None:
    run: Locust = runs(name)
    in_order(run, run.test)
    streams = run.test.streams_of(target.scenario)
    assert {(one.record.outcome, one.record.chunks) for one in streams} == {("complete", LONG_TOKENS)}
    begun = Counter(one.protocol for one in streams)
    assert set(begun.values()) <= {1, 2}, "a signal may come before the last users have begun"
    for protocol in PROTOCOLS:
        assert run.test.tally(protocol)["outcomes"] == {"complete": begun[protocol]}


# Who comes and goes.


def test_a_worker_that_joins_later_has_users(runs: Runs, target: Target) -> None:
    swarm = runs("story").swarm
    first, _ = swarm.master.tests
    assert first.others == []
    assert [worker["joined_s"] > 0 for worker in first.report["workers"]] == [False, False, True]
    assert [worker["users"] for worker in first.report["workers"]] == [2, 2, 2]
    assert any("joined after" in remark for remark in first.report["remarks"])
    assert sum(worker["users"] for worker in first.report["workers"]) == 6
    late = first.report["workers"][2]["name"]
    assert {one.protocol for one in first.streams_of(target.scenario) if one.worker == late} == set(PROTOCOLS)


def test_two_tests_do_not_mix(runs: Runs, target: Target) -> None:
    story: Story = runs("story")
    first, second = story.swarm.master.tests
    assert first.folder != second.folder
    assert {one.record.phase for one in first.streams_of(target.scenario)} == {"calm"}
    assert {one.record.phase for one in second.streams_of(target.scenario)} == {"cold"}
    for protocol in PROTOCOLS:
        mine = ended(first.streams_of(target.scenario), protocol)
        assert first.tally(protocol)["counts"]["ended"] == len(mine) > 0
    assert not any("joined after" in remark for remark in second.report["remarks"])


def test_a_worker_that_is_killed_is_named(runs: Runs) -> None:
    swarm = runs("story").swarm
    test = swarm.master.tests[1]
    assert sorted(worker["state"] for worker in test.report["workers"]) == ["left", "lost", "there"]
    lost = worker_that(test, "lost")
    (missing,) = test.others
    assert missing.startswith(f"worker {lost['name']} lost after ")
    assert f"{lost['open']} stream" in missing
    assert "it had 2 of " in missing or "it had 3 of " in missing, "of 6 users, which some had taken over by then"
    assert swarm.master.process.returncode == {"degraded": 5, "invalid": 3}[test.state]
    assert f"worker {lost['name']}" in swarm.master.out


def test_what_a_lost_worker_reported_stays(runs: Runs, target: Target) -> None:
    story: Story = runs("story")
    test = story.swarm.master.tests[1]
    lost = worker_that(test, "lost")
    (before,) = (worker["ended"] for worker in story.live["workers"] if worker["name"] == lost["name"])
    assert lost["ended"] >= before > 0
    assert not lost["final"]
    for protocol in PROTOCOLS:
        for part in ("ended", "tokens"):
            assert test.tally(protocol)["counts"][part] >= next(
                tally["counts"][part] for tally in story.live["tallies"] if tally["protocol"] == protocol
            )
    assert sum(test.tally(protocol)["counts"]["ended"] for protocol in PROTOCOLS) == sum(
        worker["ended"] for worker in test.report["workers"]
    )
    recorded = Counter(one.worker for one in test.streams_of(target.scenario))
    others = [worker for worker in test.report["workers"] if worker["state"] != "lost"]
    assert [worker["ended"] for worker in others] == [recorded[worker["name"]] for worker in others]


def test_a_worker_that_is_asked_to_end_leaves_in_good_order(runs: Runs, target: Target) -> None:
    story: Story = runs("story")
    test = story.swarm.master.tests[1]
    left = worker_that(test, "left")
    assert (left["state"], left["final"], left["open"]) == ("left", True, 0)
    assert story.swarm.workers[1].process.returncode == 0
    mine = [one for one in test.streams_of(target.scenario) if one.worker == left["name"]]
    assert {one.record.outcome for one in mine} == {"complete"}
    assert left["ended"] == len(mine)
    assert not any(left["name"] in reason for reason in test.others), "nothing of it is missing"
