"""The doctor: every check on a machine that is fit and on one that is not, made of a few fake files."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bench import doctor
from bench.cli import app
from bench.doctor import Finding, Status, host, network, processor, sampling, show, watched
from bench.doctor.finding import findings
from bench.doctor.machine import Folder, Machine
from bench.doctor.sampling import Sample, Wakes
from bench.trial import Cores
from servers.stacks import BACKLOG

GIB = 1 << 30
CPU = "/sys/devices/system/cpu"
CLOCKS = "/sys/devices/system/clocksource/clocksource0"
IPV4 = "/proc/sys/net/ipv4"
FIT = {
    "/proc/self/cgroup": "0::/work/bench.scope",
    "/proc/loadavg": "0.40 0.30 0.20 1/234 5678",
    "/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapTotal: 1048576 kB\nSwapFree: 1048576 kB",
    f"{CPU}/cpu0/topology/thread_siblings_list": "0,4",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "performance",
    f"{CPU}/intel_pstate/no_turbo": "1",
    f"{CLOCKS}/current_clocksource": "tsc",
    f"{IPV4}/ip_local_port_range": "10240\t65535",
    f"{IPV4}/tcp_tw_reuse": "0",
    f"{IPV4}/tcp_max_syn_backlog": "4096",
    f"{IPV4}/tcp_timestamps": "1",
    f"{IPV4}/tcp_autocorking": "0",
    f"{IPV4}/tcp_slow_start_after_idle": "0",
    f"{IPV4}/tcp_rmem": "4096\t131072\t6291456",
    f"{IPV4}/tcp_wmem": "4096\t16384\t4194304",
    "/proc/sys/net/core/somaxconn": "4096",
    "/sys/class/net/lo/mtu": "65536",
}
QUICK = processor.CHECKS + host.CHECKS + network.CHECKS
ROOM = Folder(writable=True, free_bytes=50 * GIB)


def machine(texts: dict[str, str] | None = None, **changes: Any) -> Machine:
    """A fit machine of four cores, with some of its files and facts changed."""
    tree = FIT | (texts or {})
    fit = Machine(
        read=tree.get,
        cores=[0, 1, 2, 3],
        all_cores=4,
        files=(1024, 1_048_576),
        power="mains",
        results=ROOM,
        temporary=ROOM,
    )
    return dataclasses.replace(fit, **changes)


def found(name: str, texts: dict[str, str] | None = None, **changes: Any) -> Finding:
    return next(f for f in findings(QUICK, machine(texts, **changes)) if f.name == name)


def said(finding: Finding) -> tuple[str, str, str]:
    return finding.status.value, finding.seen, finding.command


def test_a_fit_machine_has_nothing_to_change() -> None:
    assert [f for f in findings(QUICK, machine()) if f.status is not Status.OK or f.advice or f.command] == []


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("usable cores", "4 cores"),
        ("physical cores", "cores 0 and 1 are apart"),
        ("load average", "0.10 per core over the last minute"),
        ("frequency governor", "performance"),
        ("turbo", "off"),
        ("power", "mains"),
        ("clock resolution", "1 ns"),
        ("clock source", "tsc"),
        ("open files", "soft 1,024, hard 1,048,576"),
        ("memory available", "8.0 GiB"),
        ("swap in use", "0 MiB"),
        ("results folder", "50.0 GiB free"),
        ("temporary folder", "50.0 GiB free"),
        ("ephemeral ports", "55,296 ports: 921 connections/s"),
        ("listen backlog", "4,096"),
        ("SYN backlog", "4,096"),
        ("TCP timestamps", "1"),
        ("autocorking", "0"),
        ("slow start after idle", "0"),
        ("receive buffer", "6,144 KiB"),
        ("send buffer", "4,096 KiB"),
        ("loopback MTU", "65,536 bytes"),
    ],
)
def test_what_is_well_is_said_with_its_unit(name: str, seen: str) -> None:
    assert said(found(name)) == ("ok", seen, "")


TROUBLES: list[tuple[str, dict[str, str], dict[str, Any], tuple[str, str, str]]] = [
    ("usable cores", {}, {"cores": [2]}, ("problem", "1 core", "")),
    (
        "usable cores",
        {"/sys/fs/cgroup/work/cpu.max": "150000 100000"},
        {},
        ("problem", "4 cores, limited to 1.5 CPUs", "docker update --cpus 2 CONTAINER"),
    ),
    (
        "physical cores",
        {f"{CPU}/cpu0/topology/thread_siblings_list": "0-1"},
        {},
        ("advice", "cores 0 and 1 share one", "taskset -c 0,2 tokenwire run"),
    ),
    (
        "physical cores",
        {f"{CPU}/cpu0/topology/thread_siblings_list": "0-1"},
        {"cores": [0, 1]},
        ("advice", "cores 0 and 1 share one", ""),
    ),
    (
        "load average",
        {"/proc/loadavg": "3.00 1.00 0.50 4/234 5678"},
        {},
        ("advice", "0.75 per core over the last minute", "top"),
    ),
    (
        "frequency governor",
        {f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave"},
        {},
        ("advice", "performance, powersave", "sudo cpupower frequency-set -g performance"),
    ),
    (
        "turbo",
        {f"{CPU}/intel_pstate/no_turbo": "0"},
        {},
        ("advice", "on", f"echo 1 | sudo tee {CPU}/intel_pstate/no_turbo"),
    ),
    ("power", {}, {"power": "battery"}, ("advice", "battery", "")),
    ("clock resolution", {}, {"resolution_ns": 15_600}, ("advice", "15,600 ns", "")),
    ("clock resolution", {}, {"resolution_ns": 4_000_000}, ("problem", "4,000,000 ns", "")),
    (
        "clock source",
        {f"{CLOCKS}/current_clocksource": "hpet", f"{CLOCKS}/available_clocksource": "hpet acpi_pm tsc"},
        {},
        ("advice", "hpet", f"echo tsc | sudo tee {CLOCKS}/current_clocksource"),
    ),
    (
        "clock source",
        {f"{CLOCKS}/current_clocksource": "acpi_pm", f"{CLOCKS}/available_clocksource": "acpi_pm"},
        {},
        ("advice", "acpi_pm", ""),
    ),
    (
        "open files",
        {},
        {"files": (1024, 4096)},
        ("advice", "soft 1,024, hard 4,096", "sudo prlimit --pid $$ --nofile=65536:65536"),
    ),
    ("memory available", {"/proc/meminfo": "MemAvailable: 524288 kB"}, {}, ("advice", "0.5 GiB", "top -o %MEM")),
    ("memory available", {"/proc/meminfo": "MemAvailable: 131072 kB"}, {}, ("problem", "0.1 GiB", "top -o %MEM")),
    (
        "swap in use",
        {"/proc/meminfo": "SwapTotal: 1048576 kB\nSwapFree: 524288 kB"},
        {},
        ("advice", "512 MiB", "sudo swapoff -a && sudo swapon -a"),
    ),
    ("results folder", {}, {"results": Folder(False, 50 * GIB)}, ("problem", "not writable", "")),
    ("results folder", {}, {"results": Folder(True, GIB // 2)}, ("problem", "0.5 GiB free", "")),
    ("temporary folder", {}, {"temporary": Folder(True, GIB // 2)}, ("advice", "0.5 GiB free", "")),
    (
        "ephemeral ports",
        {f"{IPV4}/ip_local_port_range": "32768\t60999"},
        {},
        (
            "advice",
            "28,232 ports: 470 connections/s",
            'sudo sysctl -w net.ipv4.ip_local_port_range="10240 65535"',
        ),
    ),
    (
        "listen backlog",
        {"/proc/sys/net/core/somaxconn": "128"},
        {},
        ("advice", "128", "sudo sysctl -w net.core.somaxconn=4096"),
    ),
    (
        "SYN backlog",
        {f"{IPV4}/tcp_max_syn_backlog": "512", f"{IPV4}/tcp_syncookies": "0"},
        {},
        ("advice", "512", "sudo sysctl -w net.ipv4.tcp_max_syn_backlog=4096"),
    ),
    (
        "TCP timestamps",
        {f"{IPV4}/tcp_timestamps": "0"},
        {},
        ("advice", "0", "sudo sysctl -w net.ipv4.tcp_timestamps=1"),
    ),
    ("autocorking", {f"{IPV4}/tcp_autocorking": "1"}, {}, ("advice", "1", "sudo sysctl -w net.ipv4.tcp_autocorking=0")),
    (
        "slow start after idle",
        {f"{IPV4}/tcp_slow_start_after_idle": "1"},
        {},
        ("advice", "1", "sudo sysctl -w net.ipv4.tcp_slow_start_after_idle=0"),
    ),
    (
        "receive buffer",
        {f"{IPV4}/tcp_rmem": "4096 87380 212992"},
        {},
        ("advice", "208 KiB", 'sudo sysctl -w net.ipv4.tcp_rmem="4096 131072 6291456"'),
    ),
    (
        "send buffer",
        {f"{IPV4}/tcp_wmem": "4096 16384 65536"},
        {},
        ("advice", "64 KiB", 'sudo sysctl -w net.ipv4.tcp_wmem="4096 16384 4194304"'),
    ),
    ("loopback MTU", {"/sys/class/net/lo/mtu": "1500"}, {}, ("advice", "1,500 bytes", "sudo ip link set lo mtu 65536")),
]


@pytest.mark.parametrize(("name", "texts", "changes", "expected"), TROUBLES, ids=lambda value: str(value)[:40])
def test_what_is_not_well_comes_with_what_to_do(
    name: str, texts: dict[str, str], changes: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    finding = found(name, texts, **changes)
    assert said(finding) == expected
    assert finding.advice.endswith(":" if finding.command else ".")


def test_every_check_is_tested_for_its_trouble() -> None:
    assert {check.name for check in QUICK} == {name for name, *_ in TROUBLES}
    assert {check.name for check in watched.CHECKS} == {name for name, *_ in WATCHED_TROUBLES}


def test_the_tightest_limit_of_nested_groups_counts() -> None:
    root = {"/sys/fs/cgroup/work/bench.scope/cpu.max": "max 100000", "/sys/fs/cgroup/cpu.max": "50000 100000"}
    assert found("usable cores", root).seen == "4 cores, limited to 0.5 CPUs"
    enough = {"/sys/fs/cgroup/work/bench.scope/cpu.max": "300000 100000"}
    assert said(found("usable cores", enough)) == ("ok", "4 cores, limited to 3 CPUs", "")


def test_ports_are_enough_where_the_kernel_reuses_them() -> None:
    narrow = {f"{IPV4}/ip_local_port_range": "32768 60999", f"{IPV4}/tcp_tw_reuse": "2"}
    seen = "28,232 ports: 470 connections/s, more on loopback (tcp_tw_reuse)"
    assert said(found("ephemeral ports", narrow)) == ("ok", seen, "")
    assert found("ephemeral ports", narrow | {f"{IPV4}/tcp_timestamps": "0"}).status is Status.ADVICE


def test_a_small_syn_backlog_does_no_harm_with_cookies() -> None:
    files = {f"{IPV4}/tcp_max_syn_backlog": "512", f"{IPV4}/tcp_syncookies": "1"}
    assert said(found("SYN backlog", files)) == ("ok", "512, with SYN cookies", "")


def test_a_virtual_machine_that_hides_its_frequencies_is_not_blamed() -> None:
    bare = machine(read=lambda _path: None)
    invisible = [f for f in findings(processor.CHECKS, bare) if f.seen == "not visible (virtual machine?)"]
    assert [(f.name, f.status) for f in invisible] == [
        ("frequency governor", Status.UNKNOWN),
        ("turbo", Status.UNKNOWN),
    ]


@pytest.mark.parametrize("nonsense", [None, "", "what\nis : this", "1 2 3 4 5", "-,-"])
def test_what_cannot_be_read_is_no_fault(nonsense: str | None) -> None:
    mute = Machine(
        read=lambda _path: nonsense,
        linux=False,
        cores=[0, 1],
        all_cores=2,
        pins=False,
        files=(256, sys.maxsize),
        resolution_ns=1,
    )
    said_of = {f.name: f for f in findings(QUICK, mute)}
    assert said_of["usable cores"].seen == "2 cores, no pinning on this system"
    assert said_of["open files"].seen == "soft 256, hard no limit"
    assert not [f for f in said_of.values() if f.status is Status.PROBLEM]
    if nonsense is None:
        unread = {name for name, f in said_of.items() if f.seen == "not readable here"}
        assert unread == {check.name for check in QUICK} - {"usable cores", "open files", "clock resolution"}


STAT = "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 {0} 0 0 {1} 0 0 0 {2} 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\nintr 12 0"


def sample(**changes: Any) -> Sample:
    """A second on a quiet machine of two cores, with something changed."""
    quiet = Sample(
        cores=[0, 1],
        seconds=1.0,
        stat=("cpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0", STAT.format(10, 90, 0)),
        own_cpu_s=0.08,
        others={"editor": 0.02},
        call_ns=52.4,
        monotonic_ns=1_000_004_000,
        raw_ns=1_000_000_000,
        wakes=Wakes("timerfd", 60_000, 190_000, 170_000, 900_000),
    )
    return dataclasses.replace(quiet, **changes)


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("CPU in use now", "0.02 of 2 cores"),
        ("steal time", "0.0 %"),
        ("wake-up, late by", "p50 0.06, p99 0.19 ms"),
        ("event loop lag", "p99 0.17, max 0.90 ms"),
        ("cost of a stamp", "52 ns"),
        ("clock adjustment", "+4 ppm"),
    ],
)
def test_a_quiet_second_is_well(name: str, seen: str) -> None:
    assert {f.name: said(f) for f in findings(watched.CHECKS, sample())}[name] == ("ok", seen, "")


ZERO = "cpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0"
WATCHED_TROUBLES: list[tuple[str, dict[str, Any], tuple[str, str, str]]] = [
    (
        "CPU in use now",
        {"stat": (ZERO, STAT.format(98, 2, 0)), "others": {"cc1": 0.85, "editor": 0.05}},
        ("problem", "0.90 of 2 cores", "top -o %CPU"),
    ),
    (
        "CPU in use now",
        {"stat": (None, None), "others": {"cc1": 0.3, "editor": 0.05}},
        ("advice", "0.35 of 2 cores", "top -o %CPU"),
    ),
    ("steal time", {"stat": (ZERO, STAT.format(10, 86, 4))}, ("advice", "2.0 %", "")),
    ("steal time", {"stat": (ZERO, STAT.format(10, 60, 30))}, ("problem", "15.0 %", "")),
    (
        "wake-up, late by",
        {"wakes": Wakes("loop", 400_000, 1_300_000, 0, 0)},
        ("advice", "p50 0.40, p99 1.30 ms", ""),
    ),
    ("wake-up, late by", {"wakes": Wakes("loop", 400_000, 9_000_000, 0, 0)}, ("problem", "p50 0.40, p99 9.00 ms", "")),
    ("event loop lag", {"wakes": Wakes("loop", 0, 0, 1_300_000, 7_000_000)}, ("advice", "p99 1.30, max 7.00 ms", "")),
    ("cost of a stamp", {"call_ns": 912.3}, ("advice", "912 ns", "")),
    ("clock adjustment", {"monotonic_ns": 999_500_000}, ("advice", "-500 ppm", "chronyc tracking")),
]


@pytest.mark.parametrize(("name", "changes", "expected"), WATCHED_TROUBLES, ids=lambda value: str(value)[:40])
def test_a_second_with_trouble_in_it(name: str, changes: dict[str, Any], expected: tuple[str, str, str]) -> None:
    finding = next(f for f in findings(watched.CHECKS, sample(**changes)) if f.name == name)
    assert said(finding) == expected
    assert finding.advice.endswith(":" if finding.command else ".")


def test_the_busiest_process_is_named_when_it_explains_what_is_seen() -> None:
    def advice(others: dict[str, float]) -> str:
        busy = sample(stat=(ZERO, STAT.format(98, 2, 0)), others=others)
        return findings(watched.CHECKS, busy)[0].advice

    assert "Most of it by cc1." in advice({"editor": 0.1, "cc1": 0.8})
    assert "Most of it" not in advice({"editor": 0.1})
    assert "Most of it" not in advice({})


def test_one_busy_core_of_many_is_no_problem() -> None:
    many = "\n".join(f"cpu{core} {90 if core == 5 else 0} 0 0 {10 if core == 5 else 100} 0 0 0 0" for core in range(8))
    zero = "\n".join(f"cpu{core} 0 0 0 0 0 0 0 0" for core in range(8))
    busy = sample(cores=list(range(8)), stat=(zero, many), own_cpu_s=0.0)
    assert said(findings(watched.CHECKS, busy)[0]) == ("advice", "0.90 of 8 cores", "top -o %CPU")


def test_cores_of_others_do_not_count() -> None:
    busy = sample(cores=[1], stat=(ZERO, STAT.format(98, 2, 30)), own_cpu_s=0.0)
    assert [f.seen for f in findings(watched.CHECKS, busy)[:2]] == ["0.00 of 1 cores", "0.0 %"]


def test_what_cannot_be_watched_is_no_fault() -> None:
    blind = sample(stat=(None, None), others={}, raw_ns=None, wakes=None)
    assert {f.name: f.status.value for f in findings(watched.CHECKS, blind)} == {
        "CPU in use now": "unknown",
        "steal time": "unknown",
        "wake-up, late by": "unknown",
        "event loop lag": "unknown",
        "cost of a stamp": "ok",
        "clock adjustment": "unknown",
    }


def test_what_it_repeats_of_other_modules_is_what_they_say(tmp_path: Path) -> None:
    assert network.BACKLOG == BACKLOG
    cores, here = Cores.split(), Machine.here(tmp_path)
    assert here.pair == ((cores.server[0], cores.driver[0]) if cores else None)


def test_a_folder_is_judged_before_it_is_made(tmp_path: Path) -> None:
    assert Machine.here(tmp_path / "not" / "yet").results == Folder(True, Machine.here(tmp_path).results.free_bytes)  # type: ignore[union-attr]
    (tmp_path / "file").write_text("")
    in_the_way = Machine.here(tmp_path / "file" / "results").results
    assert in_the_way is not None
    assert not in_the_way.writable


def test_this_machine_is_watched_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "WATCH_S", 0.0)
    here = Machine.here(tmp_path)
    taken = sampling.take(here)
    assert taken.wakes is not None
    assert 0 <= taken.wakes.wake_p50_ns <= taken.wakes.wake_p99_ns
    assert 0 <= taken.wakes.lag_p99_ns <= taken.wakes.lag_max_ns
    assert taken.seconds >= 0.5
    assert taken.own_cpu_s > 0
    assert 0 < taken.call_ns < 1e6
    assert len(findings(watched.CHECKS, taken)) == len(watched.CHECKS)


def test_a_measurement_that_fails_is_said_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object, **_options: object) -> None:
        raise subprocess.CalledProcessError(1, "wakes")

    monkeypatch.setattr(sampling.subprocess, "run", fails)
    monkeypatch.setattr(sampling, "WATCH_S", 0.0)
    taken = sampling.take(machine())
    assert taken.wakes is None
    wake = findings(watched.CHECKS, taken)[2]
    assert (wake.status, wake.seen) == (Status.UNKNOWN, "not measured: its process failed")


def test_quick_reads_this_machine(tmp_path: Path) -> None:
    here = doctor.quick(tmp_path)
    assert [f.name for f in here] == [check.name for check in QUICK]
    assert next(f for f in here if f.name == "results folder").status in (Status.OK, Status.PROBLEM)


ILL = findings(QUICK, machine({f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}, cores=[0]))
ADVISED = findings(QUICK, machine({f"{IPV4}/ip_local_port_range": "32768 60999"}))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_cut_from_the_table(width: int) -> None:
    out = io.StringIO()
    show.print_findings(ADVISED, Console(file=out, width=width, highlight=False))
    text = out.getvalue()
    assert '    sudo sysctl -w net.ipv4.ip_local_port_range="10240 65535"\n' in text
    assert "…" not in text
    assert text.endswith("Fit for measuring, with 1 piece of advice.\n")
    table = text[: text.index("advice: ephemeral ports.")]
    assert max(map(len, table.splitlines())) <= width
    assert all(finding.name in table for finding in ADVISED)


def test_the_gravest_comes_first() -> None:
    out = io.StringIO()
    show.print_findings(ILL, Console(file=out, width=80, highlight=False))
    text = out.getvalue()
    assert 0 < text.index("problem: usable cores.") < text.index("advice: frequency governor.")
    assert text.endswith("Not fit: 1 problem would make results invalid.\n")
    assert show.verdict(findings(QUICK, machine())) == "Fit for measuring."


@pytest.mark.parametrize(("those", "code"), [(ILL, 3), (ADVISED, 0)])
def test_the_command_says_it_by_its_exit_code(those: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _results: those)
    table = CliRunner().invoke(app, ["doctor"])
    assert table.exit_code == code
    assert those[0].seen in table.stdout
    machine_readable = CliRunner().invoke(app, ["doctor", "--json"])
    assert machine_readable.exit_code == code
    document = json.loads(machine_readable.stdout)
    assert document["fit"] == (code == 0)
    assert document["checks"] == [dataclasses.asdict(f) for f in those]


def test_the_help_names_the_exit_code() -> None:
    shown = " ".join(CliRunner().invoke(app, ["doctor", "--help"]).stdout.split())
    assert "3 the machine would make results invalid" in shown
