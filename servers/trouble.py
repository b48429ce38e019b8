"""A fault at work on one stream: what it does to the messages, and how the stream ends of it.

It changes what a stack is given to send, once for each stream; streams that meet no fault run the same instructions as
if this module did not exist.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from math import ceil
from time import monotonic_ns
from typing import TYPE_CHECKING

from servers.emission_log import EmissionLog, Ended
from servers.faults import Fault
from servers.pacing import Pacer
from servers.payloads.chat_completions import DONE, ApiError
from servers.plant import Message

if TYPE_CHECKING:
    from servers.generation import Generation

GARBAGE = b"garbage"
FILLER = b"x" * (1 << 20)
"""What makes an event or a message larger than 1 MiB."""
CONTENT = b'"content":"'

ENDS_BEFORE = ("error_event", "stall", "close", "reset")
"""Kinds of which a stream ends before the content chunk drawn."""

Sever = Callable[[str], Awaitable[object]]
"""Ends the connection of a stream: given a kind, "close" or "reset" on every stack."""


def refuse(fault: Fault) -> None:
    """Raise `ApiError` where `fault` is a refusal."""
    if fault.kind == "http_429":
        raise too_many(fault)
    if fault.kind == "http_500":
        raise ApiError(500, "The server had an error, on purpose.", kind="server_error")
    if fault.kind == "http_503":
        message = "The engine is overloaded, on purpose."
        raise ApiError(503, message, kind="server_error", code="overloaded", headers=_later(fault))


def too_many(fault: Fault) -> ApiError:
    """The refusal of a request, or of a handshake, with 429."""
    message = "Rate limit reached for requests, on purpose."
    return ApiError(429, message, kind="requests", code="rate_limit_exceeded", headers=_later(fault))


def _later(fault: Fault) -> dict[str, str]:
    return {"retry-after": str(ceil(fault.wait_s))}


MID_STREAM = ApiError(500, "The server had an error in mid-stream, on purpose.", kind="server_error")


class Trouble:
    """What goes wrong with one request for a stream."""

    def __init__(self, fault: Fault, seed: int, request: int) -> None:
        self.fault = fault
        self.cut_ns: int | None = None
        """When the stream ends before its end: the due time of what is sent no more. None: it does not."""
        self.sever: Sever
        self._seed = seed
        self._request = request

    def place(self, generation: Generation) -> int | None:
        """The ordinal of the content chunk before which it happens."""
        first = generation.first_ordinal
        ordinal = self.fault.ordinal(self._seed, generation.content_chunks - first, self._request)
        return None if ordinal < 0 else first + ordinal

    async def hold(self, generation: Generation, pacer: Pacer, sever: Sever) -> None:
        """Wait as long as the head of the stream, or its first message, is to be late."""
        self.sever = sever
        if self.fault.kind != "slow_head":
            return
        try:
            await pacer.until(generation.taken_up_ns + round(self.fault.wait_s * 1e9))
        except asyncio.CancelledError:
            if generation.ended is Ended.FAULT:
                generation.ended = Ended.CLIENT_GONE
            raise

    def alter(self, generation: Generation, messages: Iterator[Message]) -> Iterator[Message]:
        """Yield the messages up to the end that the fault makes of them, with what it puts between them."""
        kind = self.fault.kind
        place = self.place(generation)
        before, after, _ = generation.framing
        done = before + DONE + after
        for ordinal, due_ns, payload in messages:
            if ordinal == place:
                if kind in ENDS_BEFORE:
                    self.cut_ns = due_ns
                    return
                if kind == "invalid_json":
                    yield -1, due_ns, before + _half(payload.partition(before)[2] if before else payload) + after
                elif kind == "bad_utf8":
                    payload = payload.replace(CONTENT, CONTENT + b"\xff", 1)
                elif kind == "huge_event":
                    payload = payload.replace(CONTENT, CONTENT + FILLER, 1)
            elif kind == "no_done" and payload.endswith(done):
                self.cut_ns = due_ns
                return
            yield ordinal, due_ns, payload
        if kind == "garbage":
            yield -1, 0, before + GARBAGE + after

    async def ended_it(
        self, generation: Generation, send: Callable[[bytes], Awaitable[None]], pacer: Pacer, log: EmissionLog
    ) -> bool:
        """Return False if the stream went on to its end; else log that it did not, and do what the fault does then.

        After a cut, or falling silent, it only returns by being cancelled: when the client has left.
        """
        if self.cut_ns is None:
            return False
        if self.cut_ns:
            await pacer.until(self.cut_ns)
        generation.ended, generation.end_logged = Ended.CUT, True
        log.close_stream(generation.stream, monotonic_ns(), Ended.CUT)
        kind = self.fault.kind
        if kind == "error_event":
            before, after, _ = generation.framing
            await send(before + MID_STREAM.body + after)
        elif kind != "no_done":
            if kind != "stall":
                await self.sever(kind)
            await asyncio.get_running_loop().create_future()
        return True


def _half(json: bytes) -> bytes:
    """The first half of a JSON text, in whole characters."""
    return json[: len(json) // 2].decode(errors="ignore").encode()


async def sever(transport: asyncio.Transport | None, how: str) -> None:
    """End a connection below whatever is spoken on it: by FIN behind what was written, or for "reset" by RST."""
    if transport is None or transport.is_closing():
        return
    if how == "reset":
        # Closing then discards what is unsent, and resets: see SO_LINGER in socket(7).
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
