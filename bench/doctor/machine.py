"""What the quick checks read of a machine, in one place, so that tests can give them another one."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is written to, or will be made."""

    writable: bool
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known without waiting. `read` returns the text of a file without its last newline, or None."""

    read: Callable[[str], str | None]
    linux: bool = True
    cores: list[int] = field(default_factory=list)
    """The cores that this process may use."""
    all_cores: int = 1
    pins: bool = True
    """Whether a process can be kept to a core here."""
    files: tuple[int, int] = (0, 0)
    """Soft and hard limit of open files; `sys.maxsize` where there is none."""
    power: str | None = None
    """"mains", "battery" or "no battery"; None where it cannot be read."""
    resolution_ns: int = 1
    """Of CLOCK_MONOTONIC."""
    results: Folder | None = None
    """None where the system does not say."""
    temporary: Folder | None = None

    @classmethod
    def here(cls, results: Path) -> Machine:
        """This machine, with results to be kept in `results`."""
        pins = hasattr(os, "sched_getaffinity")
        total = os.cpu_count() or 1
        return cls(
            read=read,
            linux=sys.platform == "linux",
            cores=sorted(os.sched_getaffinity(0)) if pins else list(range(total)),
            all_cores=total,
            pins=pins,
            files=_files(),
            power=_power(),
            resolution_ns=round(time.get_clock_info("monotonic").resolution * 1e9),
            results=_folder(results),
            temporary=_temporary(),
        )

    @property
    def pair(self) -> tuple[int, int] | None:
        """The cores that a trial keeps server and driver to: the first two (`bench.trial.Cores`)."""
        return (self.cores[0], self.cores[1]) if self.pins and len(self.cores) > 1 else None

    def numbers(self, path: str) -> list[int] | None:
        """The whole numbers in a file, or None when there is no such file or something else in it."""
        text = self.read(path)
        try:
            return [int(word) for word in text.split()] or None if text is not None else None
        except ValueError:
            return None

    def number(self, path: str) -> int | None:
        """The first number in a file, or None."""
        found = self.numbers(path)
        return found[0] if found else None


def read(path: str) -> str | None:
    """The text of a file of this machine, or None when it cannot be read."""
    try:
        return Path(path).read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return None


def _files() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _limit(soft), _limit(hard)


def _limit(value: int) -> int:
    return sys.maxsize if value == resource.RLIM_INFINITY else value


def _power() -> str | None:
    import psutil

    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, ValueError):  # not on this system, or a battery that says something odd
        return None
    if battery is None or battery.power_plugged is None:
        return "no battery"
    return "mains" if battery.power_plugged else "battery"


def _folder(path: Path) -> Folder | None:
    """About `path`, or about the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return Folder(path.is_dir() and os.access(path, os.W_OK | os.X_OK), shutil.disk_usage(path).free)
    except OSError:
        return None


def _temporary() -> Folder | None:
    try:
        return _folder(Path(tempfile.gettempdir()))
    except FileNotFoundError:  # Python found none it can write to
        return Folder(writable=False, free_bytes=0)
