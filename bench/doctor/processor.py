"""Cores: how many there are to use, whether they are apart, and whether their clock rate keeps still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from bench.doctor.finding import UNREADABLE, Check, Seen, Status, ok
from bench.doctor.machine import Machine

CPU = "/sys/devices/system/cpu"
CGROUP = "/sys/fs/cgroup"
INVISIBLE = Seen(Status.UNKNOWN, "not visible (virtual machine?)")
LOAD = 0.5
"""Runnable processes per core over the last minute; a run that has just ended leaves about this."""
NO_TURBO = f"{CPU}/intel_pstate/no_turbo"
BOOST = f"{CPU}/cpufreq/boost"


def quotas(machine: Machine) -> Iterator[float]:
    """The CPU limits of the control groups this process is in, in cores, from its own outwards (cgroup v2: cpu.max)."""
    for line in (machine.read("/proc/self/cgroup") or "").splitlines():
        hierarchy, _, path = line.split(":", 2) if line.count(":") > 1 else ("", "", "")
        if hierarchy != "0":
            continue
        group = PurePosixPath(path)
        for level in (group, *group.parents):
            quota, _, period = (machine.read(f"{CGROUP}{str(level).rstrip('/')}/cpu.max") or "").partition(" ")
            if quota.isdigit() and period.isdigit() and int(period):
                yield int(quota) / int(period)


def siblings(machine: Machine, core: int) -> set[int] | None:
    """The cores that are threads of the physical core of `core`, itself among them; None where that is not told."""
    text = machine.read(f"{CPU}/cpu{core}/topology/thread_siblings_list")
    found: set[int] = set()
    try:
        for part in (text or "").split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return None
    return found


def _cores(machine: Machine) -> Seen:
    count = len(machine.cores)
    seen = f"{count} {'core' if count == 1 else 'cores'}"
    limit = min(quotas(machine), default=None)
    if limit is not None:
        seen += f", limited to {limit:g} CPUs"
    if limit is not None and limit < 2 and count > 1:
        advice = "Its container is stopped for part of every 0.1 s once the limit is used up. Give it 2 CPUs or more:"
        return Seen(Status.PROBLEM, seen, advice, "docker update --cpus 2 CONTAINER")
    if count < 2:
        advice = "Server and driver would take turns on one core. Use a machine, or a CPU set, of 2 cores or more."
        return Seen(Status.PROBLEM, seen, advice)
    return ok(seen if machine.pins else f"{seen}, no pinning on this system")


def _apart(machine: Machine) -> Seen:
    if machine.pair is None:
        return UNREADABLE
    server, driver = machine.pair
    threads = siblings(machine, server)
    if threads is None:
        return UNREADABLE
    if driver not in threads:
        return ok(f"cores {server} and {driver} are apart")
    seen = f"cores {server} and {driver} share one"
    other = next((core for core in machine.cores if core not in threads), None)
    if other is None:
        advice = (
            "Server and driver slow each other down, on every arm alike. Use a machine of 2 physical cores or more."
        )
        return Seen(Status.ADVICE, seen, advice)
    advice = "Server and driver slow each other down, on every arm alike. Run on two physical cores:"
    return Seen(Status.ADVICE, seen, advice, f"taskset -c {server},{other} tokenwire run")


def _load(machine: Machine) -> Seen:
    try:
        load = float((machine.read("/proc/loadavg") or "").split()[0]) / machine.all_cores
    except (ValueError, IndexError):
        return UNREADABLE
    seen = f"{load:.2f} per core over the last minute"
    if load < LOAD:
        return ok(seen)
    return Seen(Status.ADVICE, seen, "Something has kept the cores busy. Stop it, or wait until it has ended:", "top")


def _governor(machine: Machine) -> Seen:
    read = [machine.read(f"{CPU}/cpu{core}/cpufreq/scaling_governor") for core in machine.cores[:2]]
    found = sorted({name for name in read if name})
    if not found:
        return INVISIBLE if machine.linux else UNREADABLE
    if found == ["performance"]:
        return ok("performance")
    advice = "The clock rate follows the load, so that lighter work looks slower than it is. Keep it up:"
    return Seen(Status.ADVICE, ", ".join(found), advice, "sudo cpupower frequency-set -g performance")


def _turbo(machine: Machine) -> Seen:
    for path, off in ((NO_TURBO, "1"), (BOOST, "0")):
        value = machine.read(path)
        if value == off:
            return ok("off")
        if value is not None:
            advice = "The clock rate falls as the processor grows warm, so that later trials are slower. Keep it down:"
            return Seen(Status.ADVICE, "on", advice, f"echo {off} | sudo tee {path}")
    return INVISIBLE if machine.linux else UNREADABLE


def _power(machine: Machine) -> Seen:
    if machine.power is None:
        return UNREADABLE
    if machine.power == "battery":
        return Seen(Status.ADVICE, "battery", "A machine on battery saves power by clocking down. Plug it in.")
    return ok(machine.power)


CHECKS: tuple[Check[Machine], ...] = (
    Check("usable cores", "2 or more", _cores),
    Check("physical cores", "one each for server and driver", _apart),
    Check("load average", f"under {LOAD:g} per core", _load),
    Check("frequency governor", "performance", _governor),
    Check("turbo", "off", _turbo),
    Check("power", "mains", _power),
)
