"""Section of a report; see `bench.metrics.crowd`."""

from __future__ import annotations

from bench.metrics import Summary
from bench.report.sections.section import Section


def make(summary: Summary) -> Section | None:
    """The section, or None where a run has nothing of it."""
    return None
