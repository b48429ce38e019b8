"""What people read of a set of runs over several networks: them side by side, and effect against round-trip time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.report.overview.data import Overview

__all__ = ["build"]


def build(folder: Path) -> tuple[Overview, dict[str, Path]]:
    """Write every output of a set and of its runs; return the overview, and where each of its outputs went, by name.

    Raises `bench.metrics.Unfinished` when no trial has finished, and `bench.record.RecordError` when there is no set.
    """
    from bench.report.overview.data import gather
    from bench.report.overview.write import write_all

    overview = gather(folder)
    return overview, write_all(overview, folder)
