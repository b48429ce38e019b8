"""What a finding is: a sentence of the report, and what it is about."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """A sentence or two, and what they are about. `grave` ones concern the trust in all else.

    What has no `lead` is about the run as a whole and comes first.
    """

    text: str
    grave: bool = False
    lead: str = ""


class Grid(NamedTuple):
    """A table of plain text: a head, and rows whose first cell names them."""

    caption: str
    head: list[str]
    rows: list[list[str]]
