"""What the system says of processes and cores: right in kind, and unknown where it is not known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.usage import (
    clocks,
    cpu_ns,
    descent,
    memory_bytes,
    steal_ns,
    tree_cpu_ns,
    tree_memory_bytes,
    tree_wait_ns,
    wait_ns,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

STAT = """\
cpu  100 0 50 9000 10 0 5 70 0 0
cpu0 60 0 30 4500 5 0 3 40 0 0
cpu1 40 0 20 4500 5 0 2 30 0 0
intr 1 2 3
cpu0 0 0 0 0 0 0 0 999 0 0
"""


@linux
def test_wait_grows_where_two_processes_share_a_core() -> None:
    core = min(os.sched_getaffinity(0))
    busy = f"import os, time; os.sched_setaffinity(0, [{core}])\nprint(flush=True)\nwhile True: pass"
    pair = [subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in pair:
            assert process.stdout is not None
            process.stdout.readline()
        before = [(wait_ns(p.pid), cpu_ns(p.pid)) for p in pair]
        deadline = time.monotonic() + 20
        # Until both have waited as long as they ran a slice, however busy the machine is.
        while time.monotonic() < deadline:
            waited = [wait_ns(p.pid) - wait for p, (wait, _) in zip(pair, before, strict=True)]
            if min(waited) > 5_000_000:
                break
            time.sleep(0.01)
        assert min(waited) > 5_000_000
        assert all(cpu_ns(p.pid) > cpu for p, (_, cpu) in zip(pair, before, strict=True))
    finally:
        for process in pair:
            process.kill()
            process.communicate()


def test_wait_of_no_process_is_unknown() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert wait_ns(ended.pid) == -1


@linux
@pytest.mark.parametrize(
    ("cpus", "ticks", "cores"), [([0], 40, 1), ([1], 30, 1), ([0, 1], 70, 2)], ids=["one", "other", "both"]
)
def test_steal_is_of_the_cores_asked_for(tmp_path: Path, cpus: list[int], ticks: int, cores: int) -> None:
    (tmp_path / "stat").write_text(STAT)
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert steal_ns(cpus, str(tmp_path / "stat")) == (ticks * tick_ns, cores)


@linux
@pytest.mark.parametrize(
    "text", [STAT.replace("cpu1", "gone"), "cpu0 1 2 3\n", "cpu0 1 2 3 4 5 6 7 many\n", None],
    ids=["no-such-core", "old-kernel", "no-number", "no-file"],
)  # fmt: skip
def test_steal_is_unknown_where_it_is_not_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert steal_ns([0, 1], str(tmp_path / "stat")) == (-1, 0)


@linux
def test_steal_of_all_usable_cores() -> None:
    total, cores = steal_ns(None)
    assert total >= 0
    assert cores == len(os.sched_getaffinity(0))


def test_clocks_are_of_one_moment() -> None:
    before = time.monotonic_ns()
    monotonic, raw, boot = clocks()
    assert before <= monotonic <= time.monotonic_ns()
    later = clocks()
    assert later[0] > monotonic
    assert raw == later[1] == -1 or later[1] > raw
    assert boot == later[2] == -1 or boot >= monotonic - 10_000  # it counts what monotonic counts, and sleep


TREE = r"""
import subprocess, sys
again = "import subprocess, sys; print(flush=True); p = subprocess.Popen([sys.executable, '-c', {!r}]); p.wait()"
burn = "print(flush=True)\nwhile True: pass"
ended = subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"])
child = subprocess.Popen([sys.executable, "-c", again.format(burn)], stdout=subprocess.PIPE)
child.stdout.readline(), child.stdout.readline()
print(flush=True)
sys.stdin.readline()
child.kill()
"""


@linux
def test_a_tree_is_a_process_and_all_below_it_those_that_have_ended_too() -> None:
    root = subprocess.Popen([sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert root.stdout is not None
    everyone: list[int] = []
    try:
        root.stdout.readline()
        everyone = descent(root.pid)
        assert len(everyone) == 3
        assert tree_cpu_ns(root.pid) >= 180_000_000
        assert tree_memory_bytes(root.pid) > 2 * memory_bytes(root.pid)
        assert tree_wait_ns(root.pid) >= wait_ns(root.pid) >= 0
        before, own = tree_cpu_ns(root.pid), cpu_ns(root.pid)
        deadline = time.monotonic() + 20
        while tree_cpu_ns(root.pid) - before < 50_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert tree_cpu_ns(root.pid) - before >= 50_000_000 > cpu_ns(root.pid) - own  # by the grandchild
    finally:
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGKILL)
        root.kill()
        root.communicate()
    with pytest.raises(OSError, match="No such"):
        tree_cpu_ns(root.pid)
    assert tree_wait_ns(root.pid) == -1
