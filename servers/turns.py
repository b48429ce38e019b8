"""The requests of one WebSocket connection, one at a time, whatever library owns the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic_ns

from servers.emission_log import EmissionLog, Ended
from servers.generation import GONE, MESSAGES, Generation, complete, emit
from servers.pacing import Pacer
from servers.payloads.chat_completions import DONE, ApiError, Unreadable, is_cancel, parse_request
from servers.service import Service, internal_error
from servers.stacks import PATIENCE_S
from servers.trouble import sever

# RFC 6455, 7.4.1
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
INVALID_DATA = 1007
INTERNAL_ERROR = 1011

Send = Callable[[bytes], Awaitable[None]]
Gone = tuple[type[BaseException], ...]
Emit = Callable[[Generation, Send, Pacer, EmissionLog, Gone], Awaitable[None]]
"""See `servers.generation.emit`."""

logger = logging.getLogger("servers")


class Turns:
    """Answers the messages of one connection.

    `send` writes one text message and waits while the library's buffer is full; `close` closes with a code;
    `transport` is what a fault resets; `gone` are the exceptions by which `send` says that the client left; `emit`
    sends a stream.
    """

    def __init__(
        self,
        service: Service,
        send: Send,
        close: Callable[[int], Awaitable[object]],
        transport: asyncio.Transport | None,
        gone: Gone = GONE,
        emit: Emit = emit,
    ) -> None:
        self._service = service
        self._send = send
        self._close = close
        self._transport = transport
        self._gone = gone
        self._emit = emit
        self._generation: Generation | None = None

    async def receive(self, message: str | bytes) -> int | None:
        """Take one text message up; return the code to close the connection with when it is unreadable.

        Returns before the answer is sent: that is done by a task of its own, so that a cancel can be read.
        """
        taken_up_ns = monotonic_ns()
        try:
            if is_cancel(message):
                await self._cancel()
            else:
                self._request(message, taken_up_ns)
        except Unreadable:
            return INVALID_DATA
        except ApiError as error:
            await self._send(error.body)
        except self._gone:
            raise
        except Exception:
            logger.exception("a request failed")
            await self._send(internal_error().body)
            return INTERNAL_ERROR
        return None

    def _request(self, message: str | bytes, taken_up_ns: int) -> None:
        if self._generation is not None:
            raise ApiError(400, "A stream is running on this connection; cancel it or wait.", code="stream_running")
        request = parse_request(message)
        generation = self._service.begin(request, taken_up_ns, MESSAGES, request.last_event_id)
        self._generation = generation
        generation.task = asyncio.create_task(self._answer(generation))
        # Not in a `finally` of the task: a task cancelled before its first step has none.
        generation.task.add_done_callback(lambda _task: self._over(generation))

    async def _answer(self, generation: Generation) -> None:
        service = self._service
        try:
            if generation.request.stream:
                if generation.trouble is not None:
                    await generation.trouble.hold(generation, service.pacer, self._sever)
                await self._emit(generation, self._send, service.pacer, service.log, self._gone)
            else:
                await self._send(await complete(generation, service.pacer, service.log))
        except self._gone:
            generation.ended = Ended.CLIENT_GONE
        except Exception:
            logger.exception("a stream failed")
            await self._close(INTERNAL_ERROR)
        finally:
            # Before the task is done, so that a client that has read the last message may ask again.
            self._over(generation)

    async def _sever(self, how: str) -> None:
        """End the connection as a fault wants it: "close", and then not wait for the client for long, or "reset"."""
        if how == "close":
            with suppress(TimeoutError):
                await asyncio.wait_for(self._close(GOING_AWAY), PATIENCE_S)
        await sever(self._transport, how)

    def _over(self, generation: Generation) -> None:
        self._service.end(generation)
        if self._generation is generation:
            self._generation = None

    async def _cancel(self) -> None:
        """Stop the running stream, if any, and say that nothing more of it comes."""
        if await self._stop(Ended.CANCELLED):
            await self._send(DONE)

    async def _stop(self, reason: Ended) -> bool:
        generation = self._generation
        if generation is None or generation.task is None:
            return False
        generation.stop(reason)
        await asyncio.wait([generation.task])
        return True

    async def leave(self) -> None:
        """The connection is over, or about to be: stop what runs."""
        await self._stop(Ended.SHUTDOWN if self._service.closing else Ended.CLIENT_GONE)
