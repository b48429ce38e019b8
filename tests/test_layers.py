"""Imports run downwards only, and processes that measure load nothing that is not for measuring."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LEAVES = {
    "servers.emitter",
    "servers.emission_log",
    "servers.appendlog",
    "servers.faults",
    "servers.pacing",
    "servers.plant",
    "servers.profiles",
}
"""What bench may import of servers: what was due, how it is logged, how to wait, what was planted."""

HEAVY = {
    "pandas",
    "pyarrow",
    "scipy",
    "matplotlib",
    "numpy",
    "rich",
    "typer",
    "jinja2",
    "psutil",
    "trustme",
    "cryptography",
}
"""Never in a server. A driver may load psutil, and nothing else of these but what Locust brings."""

ABOVE = {
    "bench.wire": {"bench.session", "bench.rawlog", "bench.scenario", "bench.drivers"},
    "bench.session": {"bench.drivers", "bench.trial", "bench.record"},
    "bench.scenario": {"bench.drivers", "bench.session", "bench.trial", "bench.record"},
    "bench.network": {"bench.scenario", "bench.wire", "bench.session", "bench.drivers", "bench.trial"},
    "bench.arrivals": {"bench.scenario", "bench.wire", "bench.session", "bench.drivers"},
    "bench.drivers": {"bench.trial", "bench.experiment", "bench.record", "bench.metrics", "bench.report"},
    "bench.record": {"bench.metrics", "bench.report", "bench.trial", "bench.experiment", "bench.drivers"},
    "bench.metrics": {"bench.report", "bench.trial", "bench.experiment", "bench.drivers"},
    "bench.paired": {"bench.metrics", "bench.verdict"},
    "bench.verdict": {"bench.gate", "bench.report", "bench.trial", "bench.experiment", "bench.drivers"},
    "bench.trial": {"bench.experiment", "bench.report", "bench.metrics", "bench.verdict", "bench.cli"},
    "bench.experiment": {"bench.report", "bench.gate", "bench.cli"},
    "bench.stored": {"bench.experiment", "bench.trial", "bench.drivers", "bench.cli"},
    "bench.compare": {"bench.experiment", "bench.trial", "bench.drivers", "bench.cli"},
    "bench.history": {"bench.experiment", "bench.trial", "bench.drivers", "bench.cli"},
    "bench.netset": {"bench.report", "bench.experiment", "bench.cli"},
    "bench.netset_run": {"bench.report", "bench.cli"},
    "bench.retry": {"bench.session", "bench.drivers"},
    "bench.report": {"bench.gate", "bench.experiment", "bench.trial", "bench.drivers", "bench.cli"},
}
"""Module -> those that stand above it, which it must not import."""


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def below(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", below("servers"), ids=name_of)
def test_servers_know_nothing_of_bench(path: Path) -> None:
    assert not [name for name in imports_of(path) if name.split(".")[0] == "bench"]


@pytest.mark.parametrize("path", below("bench"), ids=name_of)
def test_bench_sees_only_the_leaves_of_servers(path: Path) -> None:
    if name_of(path) == "bench.cli":  # `serve` hands over to the servers' own command line
        return
    modules = {name for name in imports_of(path) if name.startswith("servers.")}
    assert not [name for name in modules if not any(name == leaf or name.startswith(f"{leaf}.") for leaf in LEAVES)]


@pytest.mark.parametrize("path", below("bench"), ids=name_of)
def test_imports_run_downwards(path: Path) -> None:
    me = name_of(path)
    for package, forbidden in ABOVE.items():
        if me == package or me.startswith(f"{package}."):
            wrong = [n for n in imports_of(path) if any(n == f or n.startswith(f"{f}.") for f in forbidden)]
            assert not wrong


def loaded_by(module: str) -> set[str]:
    """The packages that a process has loaded which imports that module."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split()
    )


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("bench.drivers.asyncio_", {"psutil"}),
        ("bench.drivers.locust_", {"psutil", "jinja2"}),
        ("servers.__main__", set()),
        ("servers.stacks.aiohttp", set()),
        ("servers.stacks.websockets", set()),
    ],
)
def test_measuring_processes_stay_light(module: str, allowed: set[str]) -> None:
    assert not loaded_by(module) & (HEAVY - allowed)


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("bench.drivers.asyncio_", {"gevent", "greenlet", "locust"}),
        ("bench.drivers.gevent_", {"locust", "uvloop"}),
        ("bench.drivers.locust_", {"uvloop"}),
        ("bench.trial", {"gevent", "locust"}),
    ],
)
def test_a_driver_loads_no_other_engine(module: str, other: set[str]) -> None:
    """What patches sockets and threads is in no process that does not run on it."""
    assert not loaded_by(module) & other


def test_the_command_line_is_light() -> None:
    assert not loaded_by("bench.cli") & ((HEAVY | {"gevent", "locust"}) - {"typer"})
