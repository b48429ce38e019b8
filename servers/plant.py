"""Slow-downs and faults planted on purpose, to see whether the harness finds what is known to be there.

A plant changes what a stack is given to send and the function it sends with, once for each stream. Streams without one
run the same instructions as if this module did not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import perf_counter_ns
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

NOTHING = b""
"""A payload that is waited for, and logged if it has an ordinal, but not sent."""

PAST_NS = 1
"""A due time long gone: the wait for it is one turn of the event loop."""

Message = tuple[int, int, bytes]
"""(content ordinal or -1, due in ns, payload), as `Generation.messages` yields them."""

T = TypeVar("T")


class Plant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is planted in a server process; concerns streamed replies only.

    A plant with all values at zero changes nothing that is sent, and costs what any plant costs by its mere presence,
    some 0.3 us of CPU a token: the control for a plant of few microseconds.
    """

    cpu_us: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    """Microseconds of CPU burnt for each content token, after its `written` stamp and before its write."""
    first_delay_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    """Idle wait before the first content token of a stream; the emission log keeps the due time of the schedule."""
    split_writes: bool = False
    """SSE only: each content token in two writes, a turn of the event loop apart, hence in two HTTP chunks. A WebSocket
    message is one frame whatever is written, so there this does nothing; scenarios refuse it."""
    drop_every: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Of the content tokens of the whole process, in the order in which they are made, every so-many-th is logged as
    written and not sent. 0: none."""


class Planted:
    """A plant at work in one process."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self._cpu_ns = round(plant.cpu_us * 1000)
        self._delay_ns = round(plant.first_delay_ms * 1_000_000)
        self._tokens = 0

    def alter(self, messages: Iterable[Message], split: bool) -> Iterator[Message]:
        """Yield the messages of one stream with delay, drops and, where `split` allows them, splits worked in."""
        delay_ns = self._delay_ns
        drop_every = self.plant.drop_every
        split = split and self.plant.split_writes
        for ordinal, due_ns, payload in messages:
            if ordinal < 0:
                yield ordinal, due_ns, payload
                continue
            if delay_ns:
                yield -1, due_ns + delay_ns, NOTHING
                delay_ns = 0
            self._tokens += 1
            if drop_every and self._tokens % drop_every == 0:
                yield ordinal, due_ns, NOTHING
            elif split:
                middle = len(payload) // 2
                yield ordinal, due_ns, payload[:middle]
                yield -1, PAST_NS, payload[middle:]
            else:
                yield ordinal, due_ns, payload

    def slow(
        self, messages: Iterable[Message], send: Callable[[bytes], T], skip: Callable[[], T]
    ) -> tuple[Iterator[Message], Callable[[bytes], T]]:
        """Return the messages of one stream, and a `send` that burns CPU first when it is given a content token.

        The messages must be asked for one by one, each after the one before was sent. `skip` stands in for `send` where
        there is `NOTHING` to send.
        """
        cpu_ns = self._cpu_ns
        token: bytes | None = None

        def watched() -> Iterator[Message]:
            nonlocal token
            for message in messages:
                token = message[2] if message[0] >= 0 else None
                yield message

        def slowed(payload: bytes) -> T:
            if not payload:
                return skip()
            if payload is token:  # and no heartbeat
                end_ns = perf_counter_ns() + cpu_ns
                while perf_counter_ns() < end_ns:
                    pass
            return send(payload)

        return watched(), slowed
