"""What people read of a run: HTML, Markdown, JSON, charts and the terminal, all rebuilt from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.metrics import Summary

__all__ = ["build"]


def build(run_dir: Path) -> tuple[Summary, dict[str, Path]]:
    """Write every output into the run folder; return what the run comes to, and where each output went, by name.

    Files appear whole or not at all. Raises `bench.metrics.Unfinished` when no trial has finished, and
    `bench.record.RecordError` when there is no run: both are one line for the user.
    """
    # pandas and matplotlib take a second to import: only who builds a report pays.
    from bench.metrics import summarize
    from bench.record import read_run
    from bench.report.write import write_all
    from bench.verdict import conclude_run

    run = read_run(run_dir)
    summary = summarize(run)
    summary.conclusions = conclude_run(summary, run.info["scenario"])
    return summary, write_all(summary, run_dir)
