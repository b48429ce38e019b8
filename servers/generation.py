"""A request becomes a generation: what will be sent, in order and when, whatever stack or protocol sends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import repeat
from operator import itemgetter
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from servers.emission_log import EmissionLog, Ended
from servers.emitter import Profile, natural_length, schedule
from servers.pacing import Pacer
from servers.payloads.chat_completions import DONE, ChatRequest, Chunks, completion_body, escaped
from servers.plant import Planted

if TYPE_CHECKING:
    from servers.trouble import Trouble

AT_ONCE = 0
"""The due time of a message that waits for nothing."""

GONE: tuple[type[BaseException], ...] = (ConnectionError,)


class Framing(NamedTuple):
    """What a protocol puts around each message's JSON."""

    before: bytes
    after: bytes
    ids: bool = False
    """Whether an `id:` line comes first."""


SSE = Framing(b"data: ", b"\n\n")
SSE_WITH_IDS = Framing(b"data: ", b"\n\n", ids=True)
MESSAGES = Framing(b"", b"")
"""Protocols that frame messages themselves."""

KEEP_ALIVE = b": keep-alive\n\n"


class Generation:
    """One completion, being sent once. `start_ns` and all due times are CLOCK_MONOTONIC."""

    def __init__(self, completion: str, request: ChatRequest, profile: Profile, seed: int, taken_up_ns: int) -> None:
        self.completion_id = completion
        self.request = request
        self.taken_up_ns = taken_up_ns
        self.start_ns = taken_up_ns
        self.created = int(time.time())
        self.first_event = 0
        self.framing = MESSAGES
        self.heartbeat_ns = 0
        self.planted: Planted | None = None
        self.trouble: Trouble | None = None
        self.stream = -1
        self.task: asyncio.Task[object] | None = None
        self.ended = Ended.FAULT
        self.end_logged = False
        self.choices = request.n or 1
        self._schedules = [schedule(profile, seed, choice, request.limit) for choice in range(self.choices)]
        self._finish = [
            "length" if request.limit and natural_length(profile, seed, choice) > request.limit else "stop"
            for choice in range(self.choices)
        ]
        # In parallel, for each content chunk and, with None for a text, each stop chunk: due offset, choice, text.
        # Lists and not objects, because with thousands of streams open it is cache misses that a token costs.
        self._dues, self._texts = self._schedules[0].due_ns, [*self._schedules[0].texts, None]
        self._dues = [*self._dues, self._dues[-1]]
        self._owners: list[int] | None = None
        if self.choices > 1:
            self._merge()

    def _merge(self) -> None:
        """Bring the chunks of several choices into the order of their due times.

        Sorting is stable: at equal times choices keep their order, and a stop chunk follows its last content chunk.
        """
        steps = [
            (due_ns, choice, text)
            for choice, (dues, texts, _) in enumerate(self._schedules)
            for due_ns, text in (*zip(dues, texts, strict=True), (dues[-1], None))
        ]
        steps.sort(key=itemgetter(0))
        self._dues = [due_ns for due_ns, _, _ in steps]
        self._owners = [choice for _, choice, _ in steps]
        self._texts = [text for _, _, text in steps]

    @property
    def last_due_ns(self) -> int:
        """When everything has been said."""
        return self.start_ns + self._dues[-1]

    @property
    def content_chunks(self) -> int:
        """Content chunks of all choices."""
        return len(self._texts) - self.choices

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(sum(chunks.tokens) for chunks in self._schedules)

    @property
    def events(self) -> int:
        """Events of the whole stream: role chunks, content and stop chunks, usage, [DONE]."""
        return self.choices + len(self._texts) + self.request.include_usage + 1

    @property
    def first_ordinal(self) -> int:
        """The ordinal, among content chunks, of the first that will be sent."""
        return sum(text is not None for text in self._texts[: max(0, self.first_event - self.choices)])

    def reached_ns(self) -> int:
        """The due offset of the last event the client has, 0 when that is a role chunk."""
        last = min(self.first_event - 1 - self.choices, len(self._dues) - 1)
        return self._dues[last] if last >= 0 else 0

    def messages(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (content ordinal or -1, due, framed bytes) from the first event on.

        `due` is `AT_ONCE` for what follows the message before without a wait. The bytes are made when the message is
        asked for, so before its wait and not after it.
        """
        before, after, ids = self.framing
        request = self.request
        chunks = Chunks(self.completion_id, self.created, request.model, request.include_usage)
        event = self.first_event
        label = self.completion_id.encode()

        def framed(json: bytes) -> bytes:
            if ids:
                return b"id: %b:%d\n%b%b%b" % (label, event, before, json, after)
            return before + json + after

        while event < self.choices:
            yield -1, AT_ONCE, framed(chunks.role(event))
            event += 1
        ordinal = self.first_ordinal
        start_ns = self.start_ns
        around = [chunks.around_content(choice) for choice in range(self.choices)]
        if not ids:
            around = [(before + head, tail + after) for head, tail in around]
        skip = event - self.choices
        owners = repeat(0) if self._owners is None else self._owners[skip:]
        for due_ns, choice, text in zip(self._dues[skip:], owners, self._texts[skip:], strict=False):
            if text is None:
                yield -1, start_ns + due_ns, framed(chunks.stop(choice, self._finish[choice]))
            else:
                head, tail = around[choice]
                json = head + escaped(text) + tail
                yield ordinal, start_ns + due_ns, framed(json) if ids else json
                ordinal += 1
            event += 1
        if request.include_usage and event == self.events - 2:
            yield -1, AT_ONCE, framed(chunks.usage(request.prompt_tokens, self.completion_tokens))
            event += 1
        yield -1, AT_ONCE, framed(DONE)

    def body(self) -> bytes:
        """The reply to a request that does not stream."""
        texts = ["".join(chunks.texts) for chunks in self._schedules]
        return completion_body(
            self.completion_id,
            self.created,
            self.request.model,
            list(zip(texts, self._finish, strict=True)),
            self.request.prompt_tokens,
            self.completion_tokens,
        )

    def forget(self) -> None:
        """Let go of what was to be said: tracebacks keep an ended generation until the collector comes by."""
        self._schedules, self._dues, self._texts, self._owners = [], [], [], None

    def stop(self, reason: Ended) -> None:
        """End it now, for `reason`. What has been handed to the library is still sent."""
        self.ended = reason
        if self.task is not None:
            self.task.cancel()


async def _nothing() -> None:
    """Stand in for a write that is not done."""


async def emit(
    generation: Generation,
    send: Callable[[bytes], Awaitable[None]],
    pacer: Pacer,
    log: EmissionLog,
    gone: tuple[type[BaseException], ...] = GONE,
) -> None:
    """Send all messages of `generation`, each content chunk when it is due, and set `generation.ended`.

    `send` is the library's write and waits while its buffer is full. Raises what `send` raises; `gone` says which of
    that means that the client left. Being cancelled means so too, unless `Generation.stop` gave another reason.
    """
    until = pacer.until
    log_token = log.token
    stream = generation.stream
    heartbeat_ns = generation.heartbeat_ns
    messages = generation.messages()
    if (trouble := generation.trouble) is not None:
        messages = trouble.alter(generation, messages)
    if (planted := generation.planted) is not None:
        altered = planted.alter(messages, split=bool(generation.framing.before))
        messages, send = planted.slow(altered, send, _nothing)
    try:
        for ordinal, due_ns, payload in messages:
            if due_ns:
                if heartbeat_ns:
                    while (beat_ns := monotonic_ns() + heartbeat_ns) < due_ns:
                        await until(beat_ns)
                        await send(KEEP_ALIVE)
                await until(due_ns)
                if ordinal >= 0:
                    # Before the write: a token that reached a client has its record, whatever happens next.
                    log_token(stream, ordinal, due_ns, monotonic_ns())
            await send(payload)
        if trouble is None or not await trouble.ended_it(generation, send, pacer, log):
            generation.ended = Ended.COMPLETE
    except asyncio.CancelledError:
        if generation.ended is Ended.FAULT:
            generation.ended = Ended.CLIENT_GONE
        raise
    except gone:
        generation.ended = Ended.CLIENT_GONE
        raise


async def complete(generation: Generation, pacer: Pacer, log: EmissionLog) -> bytes:
    """Wait for the whole generation time and return the body of a reply that does not stream.

    The log gets one record, that of the last content chunk, because everything is written at its due time.
    """
    due_ns = generation.last_due_ns
    try:
        await pacer.until(due_ns)
    except asyncio.CancelledError:
        if generation.ended is Ended.FAULT:
            generation.ended = Ended.CLIENT_GONE
        raise
    body = generation.body()
    log.token(generation.stream, generation.content_chunks - 1, due_ns, monotonic_ns())
    generation.ended = Ended.COMPLETE
    return body
