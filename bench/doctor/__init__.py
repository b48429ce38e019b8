"""What to change on this machine before figures are taken on it: `tokenwire doctor`.

`quick` reads files only; `examine` also watches the machine for a second. Both return a finding per check, in the order
of the tables in `processor`, `host`, `network` and `watched`. A check is one row there: a name, what is wanted, and a
function from what was read to what is said.
"""

from __future__ import annotations

from pathlib import Path

from bench.doctor import host, network, processor, sampling, watched
from bench.doctor.finding import Finding, Status, findings
from bench.doctor.machine import Machine

__all__ = ["Finding", "Status", "examine", "quick"]


def quick(results: Path = Path("results")) -> list[Finding]:
    """Judge what can be read at once, in a few ms: settings of the system, cores, limits, the folder of the results."""
    return _quick(Machine.here(results))


def examine(results: Path = Path("results")) -> list[Finding]:
    """Judge everything, in about two seconds: what `quick` does, then clocks, wake-ups and what else uses the cores."""
    machine = Machine.here(results)
    return _quick(machine) + findings(watched.CHECKS, sampling.take(machine))


def _quick(machine: Machine) -> list[Finding]:
    return findings(processor.CHECKS + host.CHECKS + network.CHECKS, machine)
