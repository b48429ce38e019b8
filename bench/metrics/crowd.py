"""What open streams cost: memory and CPU against their number."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bench.metrics.seen import Seen


class Holding(msgspec.Struct, frozen=True):
    """Of one arm in one phase, over all trials."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]


class Holdings:
    """Collects it, trial by trial."""

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""

    def found(self) -> list[Holding]:
        """One entry per phase and arm."""
        return []
