"""What clients that read slowly do to the server and to the other streams."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bench.metrics.seen import Seen


class SlowReaders(msgspec.Struct, frozen=True):
    """Of one arm in one phase, over all trials."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]


class SlowReadings:
    """Collects it, trial by trial."""

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""

    def found(self) -> list[SlowReaders]:
        """One entry per phase and arm."""
        return []
