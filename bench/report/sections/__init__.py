"""Parts of a report that only some runs have: what a connection costs, how streams came back, what open ones cost."""

from __future__ import annotations

from bench.metrics import Summary
from bench.report.sections import crowd, leaving, opening, recovery, slow
from bench.report.sections.section import Section

__all__ = ["Section", "sections"]

_KINDS = (opening, recovery, leaving, slow, crowd)


def sections(summary: Summary) -> list[Section]:
    """The sections of a run, in reading order; none where there is nothing to say."""
    return [section for kind in _KINDS if (section := kind.make(summary)) is not None]
