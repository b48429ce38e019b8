"""Talking to the process that started the driver: lines of JSON out, and lines in that are waited for."""

from __future__ import annotations

import asyncio
import contextlib
import os

import msgspec

from bench.drivers.plan import Said


def say(said: Said) -> None:
    """One line to the parent. A parent that is gone is no reason to lose the trial."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(said) + b"\n")


class Parent:
    """What the parent says on standard input."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._told = asyncio.Event()
        self._over = False

    def give_up(self) -> None:
        """Wait for nothing any more."""
        self._over = True
        self._told.set()

    async def line(self) -> bytes | None:
        """Wait for the next line; b"" when there is no parent any more, None after `give_up`."""
        self._told.clear()
        self._loop.add_reader(0, self._told.set)
        try:
            if not self._over:
                await self._told.wait()
        finally:
            self._loop.remove_reader(0)
        return None if self._over else os.read(0, 1024)
