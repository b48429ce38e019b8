"""Many runs over time: gathered in one Parquet, drawn, and searched for the places where a level changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.files import write_whole
from bench.history import page
from bench.history.series import Group, groups
from bench.history.store import FILE, gather

__all__ = ["History", "history"]

PAGE = "history.html"


class History(NamedTuple):
    """What a history comes to."""

    groups: list[Group]
    """Runs of one kind on one machine, with their primary measures and change points."""
    runs: int
    added: int
    known: int
    """Runs given that were in it before."""
    left_out: list[str]
    """Runs that do not count, and why, a line each."""
    written: list[Path]


def history(folders: Sequence[Path], output: Path) -> History:
    """Add the runs in `folders` to the history in `output`, and draw all of it.

    Raises `bench.record.RecordError` where a folder holds no run or the history there cannot be added to, and `OSError`
    where nothing can be written.
    """
    gathered = gather(folders, output)
    found = groups(gathered.table)
    drawn = write_whole(output / PAGE, page.render(found))
    written = [drawn] if not gathered.runs else [output / FILE, drawn]
    return History(found, gathered.runs, gathered.added, gathered.known, gathered.left_out, written)
