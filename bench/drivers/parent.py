"""Talking to the process that started the driver: lines of JSON out, and lines in that are waited for."""

from __future__ import annotations

import contextlib
import os

import msgspec

from bench.drivers.engine import Engine
from bench.drivers.plan import Said
from servers.pacing import Waiter


def say(said: Said) -> None:
    """One line to the parent. A parent that is gone is no reason to lose the trial."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(said) + b"\n")


class Parent:
    """What the parent says on standard input."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._told: Waiter | None = None
        self._over = False

    def give_up(self) -> None:
        """Wait for nothing any more."""
        self._over = True
        self._wake()

    async def line(self) -> bytes | None:
        """Wait for the next line; b"" when there is no parent any more, None after `give_up`."""
        if self._over:
            return None
        self._told = self._engine.create_future()
        self._engine.add_reader(0, self._wake)
        try:
            await self._told
        finally:
            self._engine.remove_reader(0)
        return None if self._over else os.read(0, 1024)

    def _wake(self) -> None:
        if self._told is not None and not self._told.done():
            self._told.set_result(None)
