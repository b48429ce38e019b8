"""How it was measured: machine, versions, settings in force, and what tells whether the instrument can be trusted."""

from __future__ import annotations

from bench.metrics import Summary
from bench.report.describe import encryption, network, setting
from bench.report.estimates import factor_of, unit_of
from bench.report.numbers import count, listed, number

_GIB = 1 << 30


def facts(summary: Summary) -> list[tuple[str, str]]:
    """What holds for the whole run, as names and values."""
    machine, pinning = summary.machine, summary.pinning
    memory = machine.get("memory_bytes")
    found = [
        ("Run", f"{summary.run}, {summary.created}, {summary.state}"),
        ("tokenwire", summary.tokenwire),
        ("Machine", f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores"),
        ("Memory", f"{number(memory / _GIB, 1)} GiB" if memory else "unknown"),
        (
            "System",
            f"{machine.get('os', '?')}, kernel {machine.get('kernel', '?')}, Python {machine.get('python', '?')}",
        ),
        (
            "Pinning",
            "; ".join(f"{who} to CPU {setting(cpus)}" for who, cpus in pinning.items())
            if pinning
            else "none: the scheduler moved server and driver as it saw fit",
        ),
        ("Mode", summary.mode),
        ("Seed", str(summary.seed)),
        (
            "Order",
            f"{count(summary.blocks_planned, 'block')}, in each all arms side by side, taking turns in random order",
        ),
        ("Transport", f"HTTP/1.1 and WebSocket over TCP, {encryption(summary)}, {network(summary)}"),
        ("Clock", "CLOCK_MONOTONIC of one machine for driver and server; one stamp per socket read, before parsing"),
    ]
    if _floors(summary):
        found.append(
            ("Noise floor", f"{listed(_floors(summary))}: the smallest effects that this machine can work with")
        )
    drivers = {setting(a.driver) for a in summary.arms if a.driver}
    found += [("Driver", text) for text in sorted(drivers)]
    return found


def _floors(summary: Summary) -> list[str]:
    """What the noise leaves room for, by primary measure: `first-token 0.08 ms`."""
    primary = {c.primary: c for c in summary.conclusions.primary} if summary.conclusions else {}
    return [
        f"{name} {number(floor * factor_of(primary[name]), 2)} {unit_of(primary[name])}"
        for name, floor in summary.floors.items()
        if name in primary
    ]


def servers(summary: Summary) -> list[tuple[str, list[str]]]:
    """Settings and versions of the servers: a row per name, a cell per arm."""
    rows: list[tuple[str, list[str]]] = []
    for title, field in (("", "server_settings"), ("version of ", "server_versions")):
        keys = list(dict.fromkeys(k for a in summary.arms for k in getattr(a, field)))
        for key in keys:
            cells = [setting(getattr(a, field)[key]) if key in getattr(a, field) else "–" for a in summary.arms]
            rows.append((f"{title}{key.replace('_', ' ')}", cells))
    return rows


def checks(summary: Summary) -> list[tuple[str, str, list[str]]]:
    """Per phase and arm: streams, late and dropped starts, and the driver's longest loop lag (ms)."""
    rows = []
    for account in summary.accounts:
        label = next(a.label for a in summary.arms if a.name == account.arm)
        lag = summary.get(account.phase, account.arm, "all", "loop_lag_max")
        cells = [
            str(account.streams),
            str(account.failed),
            str(account.lost + account.repeated + account.reordered + account.corrupted),
            f"{account.starts_late} of {account.starts}",
            str(account.dropped),
            number(lag.max) if lag else "–",
        ]
        rows.append((account.phase, label, cells))
    return rows
