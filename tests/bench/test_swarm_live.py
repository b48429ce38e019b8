"""The locustfile in one Locust process, headless or with its page, against a real target."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import swarming
from swarming import (
    LOCUSTFILE,
    LONG_TOKENS,
    PROTOCOLS,
    Locust,
    Page,
    Target,
    Test,
    eventually,
    in_order,
    samples,
)

import bench.certificate
from bench.scenario_toml import load
from bench.server_settings import server_settings
from bench.swarm import options
from bench.swarm.here import free_port

KEY = "sk-proj-do-not-tell-0123456789"
TITLES = {"sse": "SSE", "websocket": "WS"}
Runs = Callable[[str], Locust]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with swarming.target(tmp_path_factory.mktemp("target")) as there:
        yield there


SHAPE = """
from locust import LoadTestShape

class Steps(LoadTestShape):
    def tick(self):
        return (int(self.get_run_time() >= 1) + 1, 100) if self.get_run_time() < 2 else None
"""
AT_ONCE = 3
"""Runs, most of which wait for streams most of the time."""


def signalled(number: signal.Signals, when: str) -> Callable[[Locust], None]:
    """Send a signal when the process has logged that."""

    def send(run: Locust) -> None:
        eventually(lambda: run.said(when))
        run.process.send_signal(number)

    return send


def impatient(run: Locust) -> None:
    """Ctrl-C, again and again."""
    eventually(lambda: run.said("All users spawned"))

    def interrupted() -> bool:
        if not run.said("Shutting down"):
            run.process.send_signal(signal.SIGINT)
        return run.said("Shutting down")

    eventually(interrupted)


def starved(run: Locust) -> None:
    """Let it have few descriptors."""
    resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (50, 50))


def left_alone(_run: Locust) -> None:
    """Do nothing."""


class Case(NamedTuple):
    arguments: str
    then: Callable[[Locust], None] = left_alone
    locustfile: str = str(LOCUSTFILE)


FOUR, TWO = "-u 4 -r 4", "-u 2 -r 2"
CASES = {
    "few users": Case("-u 1 -r 1 -t 3s --phase warm --rate 100 --protocol sse"),
    "time": Case(f"{FOUR} -t 3s --phase long"),
    "SIGTERM": Case(f"{FOUR} --phase long", signalled(signal.SIGTERM, "All users spawned")),
    "SIGINT": Case(f"{FOUR} --phase long", signalled(signal.SIGINT, "All users spawned")),
    "SIGINT in the drain": Case(f"{FOUR} -t 3s --phase long", signalled(signal.SIGINT, "limit reached")),
    "SIGINT, many": Case(f"{FOUR} --phase lasting", impatient),
    "descriptors": Case("-u 60 -r 60 -t 2s --phase long --protocol sse", starved),
    "shape": Case("--phase calm", locustfile=f"{LOCUSTFILE},{{folder}}/shape.py"),
    "--stop-timeout": Case(f"{TWO} -t 1s --phase patient --stop-timeout 1"),
    "failures": Case(f"{FOUR} -t 1s --phase broken"),
    "user": Case(f"{TWO} -t 1s --phase calm SSEUser"),
    "--protocol": Case(f"{TWO} -t 1s --phase calm --protocol websocket"),
    "--tags": Case(f"{TWO} -t 1s --phase calm --tags sse"),
    "records": Case("-t 20s --records {folder}/shape.py/records"),
    "scenario": Case("-t 20s --scenario none-such"),
    "phase": Case("-t 20s --phase grown"),
    "no host": Case("-t 20s --host="),
    "nobody": Case("-t 20s --protocol websocket SSEUser"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[Callable[[str], Locust]]:
    """All headless runs of `CASES`, some at a time; the call waits for one."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "shape.py").write_text(SHAPE)
    known = ["--headless", "--only-summary", "--scenario", str(target.scenario), "--host", target.url]

    with swarming.locusts() as started, ThreadPoolExecutor(AT_ONCE) as pool:

        def carry_out(name: str) -> Locust:
            arguments, then, locustfile = CASES[name]
            more = arguments.format(folder=folder).split()
            run: Locust = started(folder / name, *known, *more, locustfile=locustfile.format(folder=folder))
            then(run)
            run.ended()
            return run

        there = {name: pool.submit(carry_out, name) for name in CASES}
        yield lambda name: there[name].result()
        for one in there.values():
            one.cancel()


# One headless run.


class Alone:
    def __init__(self, run: Locust, test: Test, csv_file: Path, html_file: Path) -> None:
        self.run, self.test = run, test
        self.table = {row["Name"]: row for row in csv.DictReader(csv_file.open())}
        self.html = html_file


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[Alone]:
    """A run of the shortest kind: what is under way at its end takes longer than the run."""
    folder = tmp_path_factory.mktemp("alone")
    with swarming.locusts() as started:
        run = started(
            folder / "locust", "--headless", "--only-summary", "--scenario", str(target.scenario),
            "--host", target.url, "-u", "6", "-r", "6", "-t", "2s", "--csv", str(folder / "table"),
            "--html", str(folder / "locust.html"), env={"TOKENWIRE_API_KEY": KEY},
        )  # fmt: skip
        run.ended()
        yield Alone(run, run.test, folder / "table_stats.csv", folder / "locust.html")


def test_a_headless_run_ends_in_good_order(alone: Alone) -> None:
    in_order(alone.run, alone.test)
    assert "Traceback" not in alone.run.err
    assert not alone.test.report["missing"]
    (worker,) = alone.test.report["workers"]
    assert (worker["state"], worker["final"], worker["users"], worker["open"]) == ("there", True, 6, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_stream_is_complete_and_counted_once(alone: Alone, target: Target, protocol: str) -> None:
    streams = [stream for stream in alone.test.streams_of(target.scenario) if stream.protocol == protocol]
    assert len(streams) > 3
    assert {stream.record.outcome for stream in streams} == {"complete"}
    assert len({stream.record.ordinal for stream in streams}) == len(streams)
    assert all(len(stream.stamps_ns) == len(stream.due_ns) == stream.record.chunks for stream in streams)
    tally = alone.test.tally(protocol)
    assert tally["outcomes"] == {"complete": len(streams)}
    counts = tally["counts"]
    assert (counts["started"], counts["ended"], tally["open"]) == (len(streams), len(streams), 0)
    assert (counts["dropped"], counts["retried"], counts["misfits"]) == (0, 0, 0)
    assert counts["tokens"] == sum(stream.record.chunks for stream in streams)
    assert counts["received_bytes"] == sum(stream.record.received_bytes for stream in streams)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("part", "measure"), [("connect", "connect"), ("ttft", "ttft_cold"), ("icl", "icl"), ("stream", "stream")]
)
def test_locusts_table_has_the_parts_of_streams(
    alone: Alone, target: Target, protocol: str, part: str, measure: str
) -> None:
    row = alone.table[f"{TITLES[protocol]} {part}"]
    mine = [stream for stream in alone.test.streams_of(target.scenario) if stream.protocol == protocol]
    truth = samples(mine, measure)
    assert (row["Type"], int(row["Request Count"]), int(row["Failure Count"])) == (TITLES[protocol], len(truth), 0)
    assert float(row["Min Response Time"]) == pytest.approx(truth[0] / 1e6, abs=0.001)
    assert float(row["Max Response Time"]) == pytest.approx(truth[-1] / 1e6, abs=0.001)
    assert float(row["Average Response Time"]) == pytest.approx(sum(truth) / len(truth) / 1e6, abs=0.001)
    # Three digits, and a rank that Locust finds in its own way: next to the true one.
    low, high = truth[(len(truth) - 1) // 2 - 1], truth[min(len(truth) - 1, len(truth) // 2 + 1)]
    assert low / 1e6 * 0.994 - 0.001 <= float(row["50%"]) <= high / 1e6 * 1.006 + 0.001


def test_locusts_table_has_microseconds(alone: Alone) -> None:
    medians = [float(alone.table[f"{title} {part}"]["50%"]) for title in TITLES.values() for part in ("icl", "ttft")]
    assert not all(median.is_integer() for median in medians), medians


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_report_has_what_the_records_have(alone: Alone, target: Target, protocol: str) -> None:
    mine = [stream for stream in alone.test.streams_of(target.scenario) if stream.protocol == protocol]
    rows = [row for row in alone.test.report["rows"] if row["protocol"] == protocol]
    assert {row["measure"] for row in rows} == {
        "connect", "ttft_cold", "ttft_excess_cold", "icl", "gap_excess", "stream", "late",
    }  # fmt: skip
    for row in rows:
        assert row["count"] == len(samples(mine, row["measure"]))


def test_all_that_is_to_be_written_is(alone: Alone) -> None:
    assert "<html" in (alone.test.folder / "report.html").read_text()
    assert "SSE ttft" in alone.html.read_text()
    assert f"report: {alone.test.folder / 'report.html'}" in alone.run.out
    for title in ("First token, excess, cold", "Gap, excess", "Connect"):
        assert title in alone.run.out
    assert alone.run.out.count("report: ") == 1, "the table is printed once"


def test_nothing_has_the_key(alone: Alone) -> None:
    files = [path for path in alone.run.folder.parent.rglob("*") if path.is_file()]
    assert {"stdout", "stderr", "report.html", "streams.jsonl", "table_stats.csv"} <= {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


# Ends.


def drained(run: Locust, target: Target, *users: int) -> None:
    """A run was stopped in the middle of streams, and none was cut."""
    in_order(run, run.test)
    streams = run.test.streams_of(target.scenario)
    counts = [run.test.tally(protocol)["counts"] for protocol in PROTOCOLS]
    assert len(streams) == sum(told["started"] for told in counts) == sum(told["ended"] for told in counts)
    assert min(users) <= len(streams) <= max(users)
    assert {(stream.record.outcome, stream.record.chunks) for stream in streams} == {("complete", LONG_TOKENS)}
    assert all(row["count"] for row in run.test.report["rows"])


@pytest.mark.parametrize("end", ["time", "SIGTERM", "SIGINT", "SIGINT in the drain"])
def test_streams_under_way_at_the_end_are_drained(runs: Runs, target: Target, end: str) -> None:
    run = runs(end)
    # Users begin one after the other: a signal that comes as soon as they are there may find some that have not.
    # Three seconds are enough for a second stream of each.
    drained(run, target, *((4, 8) if end in ("time", "SIGINT in the drain") else (1, 4)))
    assert run.out.count("report: ") == 1


def test_ctrl_c_again_cuts_what_is_under_way(runs: Runs, target: Target) -> None:
    run = runs("SIGINT, many")
    assert run.process.returncode in (1, 3), run.err
    assert "Traceback" not in run.err
    streams = run.test.streams_of(target.scenario)
    assert {stream.record.outcome for stream in streams} == {"cancelled"}
    assert len(streams) == sum(run.test.tally(protocol)["counts"]["ended"] for protocol in PROTOCOLS) > 0
    assert run.out.count("report: ") == 1


def test_a_stop_timeout_bounds_the_drain(runs: Runs, target: Target) -> None:
    run = runs("--stop-timeout")
    assert run.process.returncode in (1, 3), "all streams broke off, and waited to be asked for again"
    streams = run.test.streams_of(target.scenario)
    assert [stream.record.outcome for stream in streams] == ["truncated"] * 2
    assert all(run.test.tally(protocol)["open"] == 0 for protocol in PROTOCOLS)


# Exit codes.


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("scenario", ["--scenario", "none-such"]),
        ("phase", ["--phase grown", "closed and open loads", "cold, warm, calm, long"]),
        ("no host", ["--host : expected the target's URL"]),
        ("nobody", ["--protocol websocket: no user is left"]),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(runs: Runs, case: str, words: list[str]) -> None:
    run = runs(case)
    assert run.process.returncode == 2, run.err
    assert "Traceback" not in run.err
    (line,) = (line for line in run.err.splitlines() if line.startswith("tokenwire: "))
    for word in words:
        assert word in line
    assert not run.tests


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"phase": "other"}, ["--phase other", "cold, warm"]),
        ({"phase": "crowded"}, ["--phase crowded", "closed and open"]),
        ({"phase": "restarted"}, ["--phase restarted", "closed and open"]),
        ({"rate": -1.0}, ["--rate -1", "from 0 to 100000"]),
        ({"rate": float("nan")}, ["--rate nan"]),
        ({"host": "ftp://127.0.0.1"}, ["--host ftp://127.0.0.1"]),
        ({"host": "http://127.0.0.1:99999"}, ["--host http://127.0.0.1:99999"]),
        ({"host": "http://127.0.0.1/v1"}, ["--host http://127.0.0.1/v1", "without a path"]),
        ({"host": "https://127.0.0.1", "ca_file": "/none/such"}, ["--ca-file /none/such: no such file"]),
        ({"host": "https://127.0.0.1", "ca_file": str(LOCUSTFILE)}, [f"--ca-file {LOCUSTFILE}", "in PEM"]),
    ],
)
def test_options_that_cannot_be_used(target: Target, given: dict[str, Any], words: list[str]) -> None:
    usual = {
        "scenario": str(target.scenario), "phase": "", "protocol": "both", "rate": 0.0, "arrivals": "poisson",
        "ca_file": "", "host": target.url,
    }  # fmt: skip
    assert options.read(Namespace(**usual), target.url).phase == "cold"
    wanted = Namespace(**usual | given)
    with pytest.raises(options.OptionError) as raised:
        options.read(wanted, wanted.host)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_records_that_cannot_be_written(runs: Runs) -> None:
    run = runs("records")
    assert run.process.returncode == 2
    assert "--records" in run.err
    assert "Traceback" not in run.err


def test_streams_that_fail(runs: Runs, target: Target) -> None:
    run = runs("failures")
    assert run.test.others == []
    assert run.process.returncode == {"fine": 1, "invalid": 3}[run.test.state]
    streams = run.test.streams_of(target.scenario)
    for protocol in PROTOCOLS:
        ended = [stream.record.outcome for stream in streams if stream.protocol == protocol]
        assert set(ended) == {"truncated"}, "both protocols meet the fault, each time"
        assert run.test.tally(protocol)["outcomes"] == {outcome: ended.count(outcome) for outcome in set(ended)}
    assert "StreamFailed('truncated: closed')" in run.err


def test_an_open_loop_with_too_few_users_is_no_measurement(runs: Runs, target: Target) -> None:
    run = runs("few users")
    assert run.process.returncode == 3
    assert run.test.state == "invalid"
    assert any("starts dropped by the driver" in reason and "more users" in reason for reason in run.test.reasons)
    outcomes = [stream.record.outcome for stream in run.test.streams_of(target.scenario)]
    dropped = run.test.tally("sse")["counts"]["dropped"]
    assert dropped == outcomes.count("dropped") > 0
    assert outcomes.count("complete") == len(outcomes) - dropped > 0
    streams = next(line for line in run.err.split("percentiles")[1].splitlines() if "SSE stream" in line)
    assert "  0  " not in streams, "what was not begun is no stream of 0 ms"


def test_too_few_descriptors_are_an_instruments_fault(runs: Runs) -> None:
    run = runs("descriptors")
    assert run.process.returncode == 3
    assert any("this machine has no more for the driver" in reason for reason in run.test.reasons)


# Who streams.


@pytest.mark.parametrize(("case", "protocol"), [("user", "sse"), ("--protocol", "websocket"), ("--tags", "sse")])
def test_one_protocol(runs: Runs, case: str, protocol: str) -> None:
    run = runs(case)
    in_order(run, run.test)
    assert [tally["protocol"] for tally in run.test.report["tallies"]] == [protocol]
    (worker,) = run.test.report["workers"]
    assert worker["users"] == 2, "no user is without a task"
    assert "Traceback" not in run.err


def test_a_load_shape_of_somebody_elses(runs: Runs, target: Target) -> None:
    run = runs("shape")
    in_order(run, run.test)
    streams = run.test.streams_of(target.scenario)
    assert {stream.protocol for stream in streams} == set(PROTOCOLS)
    assert {stream.record.outcome for stream in streams} == {"complete"}


def test_https(tmp_path: Path, target: Target) -> None:
    made = bench.certificate.make(tmp_path)
    config = tmp_path / "server.json"
    tls = {"tls": {"certificate": str(made.certificate), "key": str(made.key)}}
    config.write_bytes(msgspec.json.encode(server_settings(load(str(target.scenario)), "sse", None) | tls))
    command = [sys.executable, "-m", "servers", "aiohttp", "--config", str(config)]
    with swarming.locusts() as started, subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            port = json.loads(server.stdout.readline())["port"]
            run = started(
                tmp_path / "locust", "--headless", "--only-summary", "--scenario", str(target.scenario),
                "--host", f"https://127.0.0.1:{port}", "--ca-file", str(made.ca_file), *TWO.split(), "-t", "1s",
                "--phase", "calm",
            )  # fmt: skip
            run.ended()
        finally:
            server.kill()
    in_order(run, run.test)
    streams = run.test.streams_of(target.scenario)
    for protocol in PROTOCOLS:
        mine = [stream.record for stream in streams if stream.protocol == protocol]
        assert {record.outcome for record in mine} == {"complete"}
        assert all(record.connected_ns < record.secured_ns <= record.requested_ns for record in mine)
        assert run.test.row(protocol, "tls")["count"] == len(mine)


# The page.


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Iterator[Page]:
    """A Locust with its page, whose first test is under way and has figures."""
    port = free_port()
    with swarming.locusts() as started:
        run = started(
            tmp_path_factory.mktemp("page") / "locust", "--web-host", "127.0.0.1", "--web-port", str(port),
            "--autostart", "--scenario", str(target.scenario), "--host", target.url, "-u", "4", "-r", "4",
            "--phase", "calm", env={"TOKENWIRE_API_KEY": KEY},
        )  # fmt: skip
        page = Page(run, port)
        eventually(page.there)
        eventually(lambda: page.row("WS icl"), "figures come into Locust's table")
        yield page


def test_the_page_from_one_test_to_the_next(page: Page, target: Target) -> None:
    """One story, as each part is about what the one before has left."""
    assert 'href="/tokenwire"' in page.get("/")
    html, live = page.get("/tokenwire"), page.json("/tokenwire.json")
    assert "http-equiv" in html, "it loads itself anew while a test runs"
    assert live["conclusion"] is None
    assert {row["protocol"] for row in live["rows"]} == set(PROTOCOLS)
    for name in (f"{title} {part}" for title in TITLES.values() for part in ("connect", "ttft", "icl", "stream")):
        row = page.row(name)
        assert row["num_requests"] > 0
        assert 0 < row["median_response_time"] <= row["max_response_time"] < 10_000
    assert page.row("SSE ttft")["min_response_time"] >= 5, "the model's own delay is in it"
    assert KEY not in html + page.get("/") + page.get("/stats/requests")

    # /stats/reset clears both tables.
    before = page.json("/tokenwire.json")["tallies"][0]["counts"]["ended"]
    page.post("/stats/reset")
    cleared = eventually(
        lambda: next((t for t in page.json("/tokenwire.json")["tallies"] if t["counts"]["ended"] < before), None)
    )
    assert cleared["counts"]["started"] + cleared["counts"]["carried"] == cleared["counts"]["ended"] + cleared["open"]
    assert page.row("SSE stream").get("num_requests", 0) < before + cleared["counts"]["ended"]

    # /stop ends the first test, with its report.
    page.post("/stop")
    (first,) = page.run.tests
    assert first.others == []
    assert page.json("/tokenwire.json")["conclusion"]["state"] == first.state
    assert "http-equiv" not in page.get("/tokenwire")

    # What cannot be is refused, and the page stays.
    form = {"user_count": "2", "spawn_rate": "2", "host": target.url, "scenario": str(target.scenario)}
    page.post("/swarm", **form, phase="other")
    eventually(lambda: page.run.said("--phase other"))
    page.post("/stop")
    assert page.there()
    assert len(page.run.tests) == 1

    # /swarm makes a second one with a folder and streams of its own.
    page.post("/swarm", **form, phase="cold", protocol="both")
    eventually(lambda: page.json("/tokenwire.json")["rows"] and not page.json("/tokenwire.json")["conclusion"])
    page.post("/stop")
    tests = page.run.tests
    assert len(tests) == 2
    assert len({test.folder for test in tests}) == 2
    for test, phase in zip(tests, ("calm", "cold"), strict=True):
        assert {stream.record.phase for stream in test.streams_of(target.scenario)} == {phase}
    second = tests[1]
    for protocol in PROTOCOLS:
        mine = [stream for stream in second.streams_of(target.scenario) if stream.protocol == protocol]
        assert second.tally(protocol)["counts"]["ended"] == len(mine) > 0


def test_a_page_that_quits_by_itself(tmp_path: Path, target: Target) -> None:
    with swarming.locusts() as started:
        run = started(
            tmp_path / "locust", "--web-host", "127.0.0.1", "--web-port", str(free_port()), "--autostart",
            "--autoquit", "0", "--scenario", str(target.scenario), "--host", target.url, "-u", "4", "-r", "4",
            "-t", "3s", "--phase", "long",
        )  # fmt: skip
        run.ended()
        drained(run, target, 4, 8)


def test_two_tests_in_the_same_second_have_two_folders(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nimport sys\nfrom bench.swarm import wiring\n"
        "wiring.new_name = lambda scenario: 'locust-' + scenario\n"
        "print([wiring._new_folder(Path(sys.argv[1]), 'chat') for _ in range(3)])"
    )
    # In a process of its own, as importing Locust patches the standard library.
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['locust-chat', 'locust-chat-2', 'locust-chat-3']"
    shutil.rmtree(tmp_path)
