"""CPU time and memory of a process, and what the machine did to it, cheap enough for a window's edges."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

_LINUX = sys.platform == "linux"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if _LINUX else 0
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK") if _LINUX else 0
_STEAL = 8
"""The field of a core's line in /proc/stat, proc_stat(5): cpuN user nice system idle iowait irq softirq steal."""
_CUTIME = 13
"""The field of /proc/<pid>/stat, counted from 0 behind the name, proc_pid_stat(5): cutime, and cstime follows."""
_HAS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_CLOCKS = [getattr(time, name, None) for name in ("CLOCK_MONOTONIC_RAW", "CLOCK_BOOTTIME")]
_TOGETHER_NS = 10_000
"""Readings this close count as one moment; a thread that is put aside between two clocks reads them again."""
_TRIES = 5


def cpu_ns(pid: int) -> int:
    """CPU time that the threads of process `pid` have used so far, user and system, in ns.

    On Linux from the scheduler's own account (`/proc/<pid>/task/*/schedstat`), which counts ns where `stat` counts
    ticks of 10 ms. Raises `psutil.NoSuchProcess` or `OSError` when the process is gone.
    """
    if _LINUX:
        return _scheduled(pid, 0)
    times = psutil.Process(pid).cpu_times()
    return int((times.user + times.system) * 1e9)


def wait_ns(pid: int) -> int:
    """How long the threads of process `pid` were ready to run and waited for a core so far, in ns; -1 where unknown.

    The second field of `/proc/<pid>/task/*/schedstat`, which Linux keeps where it was built to. Unknown is also the
    wait of a process that is gone.
    """
    if not _LINUX:
        return -1
    try:
        return _scheduled(pid, 1)
    except OSError:
        return -1


def _scheduled(pid: int, field: int) -> int:
    """One field of schedstat, summed over the threads of process `pid`. Raises `OSError` when it is gone."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", "rb") as file:
            total += int(file.read().split()[field])
    return total


def descent(pid: int) -> list[int]:
    """Process `pid` and those that it, or one of them, has started, as far as they live.

    Raises `OSError` when the process itself is gone.
    """
    found = [pid]
    for one in found:  # grows meanwhile
        try:
            found += _children(one)
        except OSError:
            if one == pid:
                raise
    return found


def _children(pid: int) -> list[int]:
    """Raises like `descent`."""
    if not _HAS_CHILDREN:
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(str(error)) from error
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def tree_cpu_ns(pid: int) -> int:
    """CPU time of process `pid` and all that it has started, so far, in ns. Raises like `cpu_ns`.

    Of one that has ended what its parent was told when it waited for it, on Linux in ticks of 10 ms; nothing where the
    parent did not wait.
    """
    return sum(_of_each(pid, lambda one: cpu_ns(one) + _ended_ns(one)))


def tree_wait_ns(pid: int) -> int:
    """How long the processes that `tree_cpu_ns` counts, and that live, have waited for a core; -1 where unknown."""
    try:
        waits = [wait_ns(one) for one in descent(pid)]
    except OSError:
        return -1
    return sum(wait for wait in waits if wait >= 0) if waits[0] >= 0 else -1


def tree_memory_bytes(pid: int) -> int:
    """Resident memory of process `pid` and all that it has started, each as by `memory_bytes`. Raises like it."""
    return sum(_of_each(pid, memory_bytes))


def _of_each(pid: int, figure: Callable[[int], int]) -> Iterator[int]:
    """A figure of each process that lives. Raises like `cpu_ns`."""
    for one in descent(pid):
        try:
            yield figure(one)
        except (OSError, psutil.NoSuchProcess):
            if one == pid:
                raise


def _ended_ns(pid: int) -> int:
    """CPU time of the children of process `pid` that have ended and that it has waited for."""
    if not _LINUX:
        times = psutil.Process(pid).cpu_times()
        return int((times.children_user + times.children_system) * 1e9)
    # The name of a process, in brackets, may have any bytes.
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[_CUTIME]) + int(fields[_CUTIME + 1])) * _TICK_NS


def steal_ns(cpus: Sequence[int] | None, stat: str = "/proc/stat") -> tuple[int, int]:
    """Time in ns that a hypervisor gave to others while cores had work, since boot, and how many cores that sums over.

    Of the cores `cpus`, or of all that this process may use. Kept in ticks, mostly of 10 ms. (-1, 0) where unknown.
    """
    if not _LINUX:
        return -1, 0
    wanted = {b"cpu%d" % cpu for cpu in (os.sched_getaffinity(0) if cpus is None else cpus)}
    total = cores = 0
    try:
        with open(stat, "rb") as file:
            for line in file:
                name, *fields = line.split(maxsplit=_STEAL + 1)
                if not name.startswith(b"cpu"):
                    break  # the cores come first; what follows is long
                if name in wanted:
                    total += int(fields[_STEAL - 1]) * _TICK_NS
                    cores += 1
    except (OSError, ValueError, IndexError):
        return -1, 0
    return (total, cores) if cores == len(wanted) else (-1, 0)


def clocks() -> tuple[int, int, int]:
    """CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW and CLOCK_BOOTTIME read together, in ns; -1 for one the system has not.

    The first is slewed by NTP, the second is not, and the third goes on while the machine is suspended: how far they
    move apart over a window tells what happened to its clock.
    """
    best, closest = (0, 0, 0), sys.maxsize
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        raw, boot = (-1 if clock is None else time.clock_gettime_ns(clock) for clock in _CLOCKS)
        apart = time.monotonic_ns() - before
        if apart < closest:
            best, closest = (before + apart // 2, raw, boot), apart
        if apart <= _TOGETHER_NS:
            break
    return best


def memory_bytes(pid: int) -> int:
    """Resident memory of process `pid` that is its own, in bytes: on Linux without pages of files it has mapped.

    So a log that is written through a map does not count as memory of the streams it is about. Raises like `cpu_ns`.
    """
    if _LINUX:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_bytes().split())
        return (resident - shared) * _PAGE_BYTES
    return int(psutil.Process(pid).memory_info().rss)


_DATA_SEGS_IN = struct.Struct("152xI")
"""Where `struct tcp_info` of linux/tcp.h has `tcpi_data_segs_in`, since Linux 4.6 (RFC 4898, PerfDataSegsIn)."""


def data_segments(connection: socket.socket) -> int:
    """How many TCP segments with data a connection has received so far, as the kernel counts them; -1 where unknown.

    On loopback a segment is what one write left behind, if nothing was waiting to be sent before it.
    """
    if not _LINUX:
        return -1
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _DATA_SEGS_IN.size)
    except OSError:
        return -1
    return int(_DATA_SEGS_IN.unpack(info)[0]) if len(info) == _DATA_SEGS_IN.size else -1
