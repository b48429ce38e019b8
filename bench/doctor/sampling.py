"""Watch the machine for a second: what its cores do, how its clocks run, and how late it wakes a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

import msgspec

from bench.doctor.machine import Machine, read

WATCH_S = 1.0
PATIENCE_S = 5.0
"""For a measurement of half a second. It takes longer only where nothing can be measured."""


class Wakes(msgspec.Struct, frozen=True):
    """What `bench.doctor.wakes` prints: how late deadlines were seen, in ns."""

    timer: str
    wake_p50_ns: int
    wake_p99_ns: int
    lag_p99_ns: int
    lag_max_ns: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen in `seconds`."""

    cores: list[int]
    """The cores that this process may use."""
    seconds: float
    stat: tuple[str | None, str | None]
    """/proc/stat before and after."""
    own_cpu_s: float
    """CPU time that watching took itself, with its child."""
    others: dict[str, float]
    """CPU time of other processes by their names, in s."""
    call_ns: float
    """What one call of `time.monotonic_ns` takes."""
    monotonic_ns: int
    """How far CLOCK_MONOTONIC went."""
    raw_ns: int | None
    """How far CLOCK_MONOTONIC_RAW, which nobody adjusts, went meanwhile; None where there is none."""
    wakes: Wakes | None
    """None when it could not be measured."""


def take(machine: Machine) -> Sample:
    """Watch this machine for a second."""
    processes, stat, cpu, clocks, began = _processes(), read("/proc/stat"), _own_cpu_s(), _clocks(), time.monotonic()
    wakes = _wakes(machine.pair[1] if machine.pair else None)
    time.sleep(max(0.0, began + WATCH_S - time.monotonic()))
    seconds, later, stat_later = time.monotonic() - began, _clocks(), read("/proc/stat")
    own_cpu_s = _own_cpu_s() - cpu
    others: dict[str, float] = {}
    for pid, (name, used_s) in _processes().items():
        before = processes.get(pid)
        # One that has begun since counts from its start; another one under an old number, from nothing.
        gained = used_s - (before[1] if before and before[0] == name and before[1] <= used_s else 0.0)
        others[name] = others.get(name, 0.0) + gained
    return Sample(
        cores=machine.cores,
        seconds=seconds,
        stat=(stat, stat_later),
        own_cpu_s=own_cpu_s,
        others=others,
        call_ns=_call_ns(),
        monotonic_ns=later[0] - clocks[0],
        raw_ns=later[1] - clocks[1] if later[1] is not None and clocks[1] is not None else None,
        wakes=wakes,
    )


def _processes() -> dict[int, tuple[str, float]]:
    """The name and the CPU time in s of every other process that can be seen."""
    import psutil

    found: dict[int, tuple[str, float]] = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None and process.pid != os.getpid():
            found[process.pid] = (process.info["name"] or "?", times.user + times.system)
    return found


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _clocks() -> tuple[int, int | None]:
    """CLOCK_MONOTONIC and CLOCK_MONOTONIC_RAW at one moment, in ns: of some readings, the pair taken fastest."""
    raw_clock = getattr(time, "CLOCK_MONOTONIC_RAW", None)
    if raw_clock is None:
        return time.monotonic_ns(), None
    readings = []
    for _ in range(20):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        raw = time.clock_gettime_ns(raw_clock)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        readings.append((after - before, (before + after) // 2, raw))
    _, monotonic, raw = min(readings)
    return monotonic, raw


def _call_ns() -> float:
    """What one call of `time.monotonic_ns` takes, in ns: the fastest of some rounds."""
    clock = time.monotonic_ns
    rounds = []
    for _ in range(10):
        before = clock()
        for _ in range(1000):
            clock()
        rounds.append((clock() - before) / 1000)
    return min(rounds)


def _wakes(core: int | None) -> Wakes | None:
    """Measure wake-ups in a process on `core`."""
    command = [sys.executable, "-m", "bench.doctor.wakes", *([] if core is None else [str(core)])]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=True)
        return msgspec.json.decode(done.stdout, type=Wakes)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return None
