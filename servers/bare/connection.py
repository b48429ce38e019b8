"""What a TCP connection has whatever is spoken on it: back-pressure, and the sending of a stream of prebuilt bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import cast

from servers.emission_log import EmissionLog, Ended
from servers.generation import Generation
from servers.pacing import Pacer
from servers.plant import Message
from servers.service import Service
from servers.stacks import PATIENCE_S

MAX_WAITING = 16
"""Requests or messages that may wait for their turn on one connection before it is read no more."""


class Connection(asyncio.Protocol):
    """One TCP connection; `known` holds the connections of the process that are open."""

    transport: asyncio.Transport

    def __init__(self, service: Service, known: set[Connection], write_limit: int) -> None:
        self.service = service
        self.known = known
        self.write_limit = write_limit
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self.full = False
        """Whether a write has to wait for `writable`."""
        self.writable = asyncio.Event()
        self.deaf = False
        """Whether the rest of what comes is discarded, until the client closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(self.write_limit)
        self.known.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.known.discard(self)
        self.lost.set_result(None)

    def pause_writing(self) -> None:
        self.full = True
        self.writable.clear()

    def resume_writing(self) -> None:
        self.full = False
        self.writable.set()

    async def leave(self) -> None:
        """End the connection, as the server shuts down; returns when it is gone, or after `PATIENCE_S`."""
        self.transport.close()
        await asyncio.wait([self.lost], timeout=PATIENCE_S)

    def wire(self, generation: Generation, framed: Callable[[bytes], bytes]) -> list[Message]:
        """The messages of a stream, as bytes on the wire."""
        messages = generation.messages()
        if generation.trouble is not None:
            messages = generation.trouble.alter(generation, messages)
        if generation.planted is not None:
            messages = generation.planted.alter(messages, split=bool(generation.framing.before))
        return [(ordinal, due_ns, framed(payload) if payload else b"") for ordinal, due_ns, payload in messages]

    async def emit(
        self, generation: Generation, framed: Callable[[bytes], bytes], pacer: Pacer, log: EmissionLog
    ) -> None:
        """Do what `servers.generation.emit` does, with all that can be done beforehand done beforehand.

        `framed` makes the bytes on the wire of a message. Heartbeats are left out. Raises `ConnectionResetError` when
        the client left.
        """
        until = pacer.until
        log_token = log.token
        stream = generation.stream
        write: Callable[[bytes], None] = self.transport.write
        trouble = generation.trouble
        planted = generation.planted
        made = iter(self.wire(generation, framed))
        if planted is not None:
            made, write = planted.slow(made, write, _nothing)
        try:
            for ordinal, due_ns, data in made:
                if due_ns:
                    await until(due_ns)
                    if ordinal >= 0:
                        log_token(stream, ordinal, due_ns, monotonic_ns())
                write(data)
                if self.full:
                    await self.writable.wait()
            if trouble is None or not await trouble.ended_it(generation, partial(_send, write, framed), pacer, log):
                generation.ended = Ended.COMPLETE
        except asyncio.CancelledError:
            if generation.ended is Ended.FAULT:
                generation.ended = Ended.CLIENT_GONE
            raise
        except RuntimeError as error:
            # What uvloop makes of a write between the loss of a connection and the cancelling that follows from it.
            if not self.lost.done():
                raise
            generation.ended = Ended.CLIENT_GONE
            raise ConnectionResetError from error


async def _send(write: Callable[[bytes], None], framed: Callable[[bytes], bytes], payload: bytes) -> None:
    write(framed(payload))


def _nothing() -> None:
    """Stand in for a write that is not done."""
