"""Whether this system lets as many connections be open as a scenario opens at once: its files and its ports."""

from __future__ import annotations

import math
from pathlib import Path

from bench.scenario import AnyPhase, Closed, Crowd, Open, Scenario, Steps
from servers.emitter import Profile, schedule

RESERVE = 100
"""Files that a process has open besides its connections: logs, pipes, libraries, the event loop's own."""
_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SAMPLES = 20


def check(scenario: Scenario) -> str:
    """Why a phase cannot open as many connections as it wants, in one line; "" where all can.

    A connection takes a file in the server's process and one in the driver's, and a port of the driver's.
    """
    files, ports = open_files(), local_ports()
    for name, phase in scenario.phases.items():
        key, value, wanted = at_once(phase, scenario.profiles[phase.profile])
        at = f"phases.{name}.{key} = {value}: {wanted} connections at once"
        if files is not None and wanted + RESERVE > files:
            return (
                f"{at}, and this system allows a process {files} open files, of which {RESERVE} are for other things; "
                f"raise that limit (`ulimit -Hn {wanted + RESERVE}` as root), or use at most {max(0, files - RESERVE)}"
            )
        if ports is not None and wanted > ports:
            return (
                f"{at}, and this system has {ports} ports for connections to one server; widen "
                f"net.ipv4.ip_local_port_range (sysctl), or use at most {ports}"
            )
    return ""


def at_once(phase: AnyPhase, profile: Profile) -> tuple[str, str, int]:
    """The key that says how many connections a phase has open at once, its value, and their number.

    For an open load that number follows from how long streams last: the rate times their mean duration, by the
    schedules of some of them, and `max_open` at most.
    """
    match phase:
        case Closed():
            return "users", str(phase.users), phase.users
        case Steps():
            return "users", f"[..., {phase.users[-1]}]", phase.users[-1]
        case Crowd():
            return "sizes", f"[..., {phase.sizes[-1]}]", phase.sizes[-1]
        case Open():
            lasting = sum(schedule(profile, seed).due_ns[-1] for seed in range(_SAMPLES)) / _SAMPLES / 1e9
            open_ = min(phase.max_open, math.ceil(phase.rate * min(lasting, phase.duration_s)))
            return ("pool", str(phase.pool), phase.pool) if phase.pool >= open_ else ("rate", f"{phase.rate:g}", open_)


def open_files() -> int | None:
    """How many files a process may be allowed to open; None for no limit, or where that cannot be known."""
    try:
        import resource
    except ImportError:
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def local_ports() -> int | None:
    """How many ports the system gives to connections to one address; None where that cannot be known."""
    try:
        low, high = map(int, _PORTS.read_text().split())
    except (OSError, ValueError):
        return None
    return high - low + 1
