"""What machine this is, for run.json: what a reader needs to judge a figure; nothing that names a person or host."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil


def describe() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, kernel, system and Python."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": _processor(),
        "cores": usable,
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "os": platform.system(),
        "arch": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def revision() -> dict[str, Any] | None:
    """Commit of the checkout that this package runs from, and whether it was changed; None where it is in none."""
    top = Path(__file__).parents[1]
    try:
        done = [
            subprocess.run(
                ["git", "-C", str(top), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (
                ("rev-parse", "--show-toplevel", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    (where, commit), changed = done[0].splitlines(), bool(done[1])
    # Installed somewhere inside a checkout of something else, it is not of that commit.
    return {"commit": commit, "changed": changed} if Path(where) == top else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
