"""What people read of a run: HTML, Markdown, JSON, charts and the terminal, all rebuilt from the records alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["build"]


def build(run_dir: Path) -> dict[str, Path]:
    """Write every output into the run folder and return where each went, by name.

    Files appear whole or not at all. Raises `bench.metrics.Unfinished` when no trial has finished, and
    `bench.record.RecordError` when there is no run: both are one line for the user.
    """
    # pandas and matplotlib take a second to import: only who builds a report pays.
    from bench.metrics import summarize
    from bench.record import read_run
    from bench.report.write import write_all

    return write_all(summarize(read_run(run_dir)), run_dir)
