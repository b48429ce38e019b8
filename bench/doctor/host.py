"""Clock source, open files, memory and disk."""

from __future__ import annotations

import sys

from bench.doctor.finding import UNREADABLE, Check, Seen, Status, ok
from bench.doctor.machine import Folder, Machine

CLOCKS = "/sys/devices/system/clocksource/clocksource0"
SLOW_CLOCKS = {"hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies"}
"""Clock sources that are read by a system call, not in user space (vdso(7))."""
FINE_NS, COARSE_NS = 1_000, 1_000_000
STREAMS = 10_000
FILES = STREAMS + 64
"""Files one side has open with that many streams: a socket each, and its logs, event loop and libraries."""
GIB, MIB = 1 << 30, 1 << 20


def _resolution(machine: Machine) -> Seen:
    seen = f"{machine.resolution_ns:,} ns"
    if machine.resolution_ns <= FINE_NS:
        return ok(seen)
    coarse = machine.resolution_ns >= COARSE_NS
    advice = "Stamps and timers are this coarse. Boot a kernel with high-resolution timers (no highres=off)."
    return Seen(Status.PROBLEM if coarse else Status.ADVICE, seen, advice)


def _clocksource(machine: Machine) -> Seen:
    source = machine.read(f"{CLOCKS}/current_clocksource")
    if not source:
        return UNREADABLE
    if source not in SLOW_CLOCKS:
        return ok(source)
    offered = (machine.read(f"{CLOCKS}/available_clocksource") or "").split()
    better = next((name for name in offered if name not in SLOW_CLOCKS), None)
    advice = "A stamp costs a system call with this source."
    if better is None:
        return Seen(Status.ADVICE, source, f"{advice} The kernel offers no better one: use another machine.")
    advice += " Take a better one:"
    return Seen(Status.ADVICE, source, advice, f"echo {better} | sudo tee {CLOCKS}/current_clocksource")


def _files(machine: Machine) -> Seen:
    soft, hard = ("no limit" if limit == sys.maxsize else f"{limit:,}" for limit in machine.files)
    seen = f"soft {soft}, hard {hard}"
    if machine.files[1] >= FILES:
        return ok(seen)
    advice = "A run raises soft to hard by itself, and no further. For this shell:"
    return Seen(Status.ADVICE, seen, advice, "sudo prlimit --pid $$ --nofile=65536:65536")


def _meminfo(machine: Machine) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found: dict[str, int] = {}
    for line in (machine.read("/proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        amount = value.split()
        if amount and amount[0].isdigit():
            found[key] = int(amount[0]) * 1024
    return found


def _memory(machine: Machine) -> Seen:
    free = _meminfo(machine).get("MemAvailable")
    if free is None:
        return UNREADABLE
    seen = f"{free / GIB:.1f} GiB"
    if free >= GIB:
        return ok(seen)
    advice = "Processes would be swapped out, or killed, while they are measured. Close what holds memory:"
    return Seen(Status.PROBLEM if free < GIB // 4 else Status.ADVICE, seen, advice, "top -o %MEM")


def _swap(machine: Machine) -> Seen:
    memory = _meminfo(machine)
    if "SwapTotal" not in memory or "SwapFree" not in memory:
        return UNREADABLE
    used = memory["SwapTotal"] - memory["SwapFree"]
    seen = f"{used / MIB:,.0f} MiB"
    if used < 64 * MIB:
        return ok(seen)
    advice = "What was swapped out comes back when it is touched, in the middle of a trial. Bring it back now:"
    return Seen(Status.ADVICE, seen, advice, "sudo swapoff -a && sudo swapon -a")


def _space(folder: Folder | None, trouble: Status, advice: str) -> Seen:
    if folder is None:
        return UNREADABLE
    seen = f"{folder.free_bytes / GIB:.1f} GiB free" if folder.writable else "not writable"
    return ok(seen) if folder.writable and folder.free_bytes > GIB else Seen(trouble, seen, advice)


def _results(machine: Machine) -> Seen:
    advice = "A trial ends where its logs find no room. Free some, or name another folder with --results."
    return _space(machine.results, Status.PROBLEM, advice)


def _temporary(machine: Machine) -> Seen:
    advice = "Libraries keep scratch files there. Free some, or name another folder in TMPDIR."
    return _space(machine.temporary, Status.ADVICE, advice)


CHECKS: tuple[Check[Machine], ...] = (
    Check("clock resolution", f"{FINE_NS:,} ns or finer", _resolution),
    Check("clock source", "one read without a system call", _clocksource),
    Check("open files", f"{FILES:,} for {STREAMS:,} streams", _files),
    Check("memory available", "1 GiB or more", _memory),
    Check("swap in use", "under 64 MiB", _swap),
    Check("results folder", "writable, 1 GiB free", _results),
    Check("temporary folder", "writable, 1 GiB free", _temporary),
)
