"""What a reduction is shown of a run: one phase of one trial at a time, so that memory stays that of one trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import pandas as pd

Found = TypeVar("Found", covariant=True)


class Seen(NamedTuple):
    """One phase of one trial."""

    phase: str
    arm: str
    block: int
    scenario: Mapping[str, Any]
    """That of run.json."""
    facts: Mapping[str, Any]
    """Of the phase."""
    streams: pd.DataFrame
    """`streams_of`: a row per attempt."""
    chunks: pd.DataFrame
    """`chunks_of`, of all attempts: what was received."""
    rows: pd.DataFrame
    """Every row of the window, with the chunks that were written and not received."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """The phase as the scenario has it."""
        settings: Mapping[str, Any] = self.scenario["phases"][self.phase]
        return settings


class Aspect(Protocol[Found]):
    """One thing to know of a run that is more than a percentile."""

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""

    def found(self) -> Sequence[Found]:
        """What all of it comes to."""
