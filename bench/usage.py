"""CPU time and memory of a process, read cheaply enough to be read while the clock runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

_LINUX = sys.platform == "linux"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if _LINUX else 0


def cpu_ns(pid: int) -> int:
    """CPU time that the threads of process `pid` have used so far, user and system, in ns.

    On Linux from the scheduler's own account (`/proc/<pid>/task/*/schedstat`), which counts ns where `stat` counts
    ticks of 10 ms. Raises `psutil.NoSuchProcess` or `OSError` when the process is gone.
    """
    if _LINUX:
        total = 0
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", "rb") as file:
                total += int(file.read().split()[0])
        return total
    times = psutil.Process(pid).cpu_times()
    return int((times.user + times.system) * 1e9)


def memory_bytes(pid: int) -> int:
    """Resident memory of process `pid` that is its own, in bytes: on Linux without pages of files it has mapped.

    So a log that is written through a map does not count as memory of the streams it is about. Raises like `cpu_ns`.
    """
    if _LINUX:
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_bytes().split())
        return (resident - shared) * _PAGE_BYTES
    return int(psutil.Process(pid).memory_info().rss)
