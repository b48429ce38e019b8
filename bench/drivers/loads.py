"""Loads as coroutines: which stream starts when. What a stream is, the client knows; what it took, the meter."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic_ns
from typing import TypeAlias

import msgspec

from bench.arrivals import LATE_NS, NS, derive_seed, open_offsets, ramp_offsets
from bench.drivers.client import Client
from bench.drivers.engine import Engine
from bench.drivers.parent import Parent, say
from bench.drivers.plan import Back, Held, PhaseFacts, Plan, Signalled, Step, merged
from bench.drivers.tally import p99_gap_excess_ns
from bench.drivers.window import Meter
from bench.rawlog import StreamRecord
from bench.scenario import AnyPhase, Closed, Crowd, Open, Restart, Steps
from bench.session import NEVER, LeavingSession
from bench.wire.events import Outcome

REFUSED_PAUSE_S = 0.1
"""A closed-load user whose connection was refused waits this long, so that a dead server is not hammered."""
EMPTY_S = 2.0
"""How long at most it is looked what is used before a crowd comes."""
Ended: TypeAlias = Callable[[StreamRecord], object]

LOOK_NS = 50_000_000
"""How often it is looked whether all streams of a crowd have begun."""


class Loads:
    """Runs phases. `turn` gives the turn away and waits until it is back."""

    def __init__(
        self,
        plan: Plan,
        client: Client,
        meter: Meter,
        engine: Engine,
        parent: Parent,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._plan, self._client, self._meter, self._engine, self._parent = plan, client, meter, engine, parent
        self._turn = turn

    async def run(self, phase: AnyPhase) -> PhaseFacts:
        """Run a phase and return its facts."""
        match phase:
            case Closed():
                return await self._sliced(phase.slices, self._closed_slices(phase))
            case Open():
                return await self._sliced(phase.slices, self._open_slices(phase))
            case Steps():
                return await self._steps(phase)
            case Crowd():
                return await self._crowd(phase)

    async def _sliced(self, slices: int, work: AsyncIterator[None]) -> PhaseFacts:
        """Have one slice of a phase a turn, each in a window of its own, and return their facts together."""
        total = PhaseFacts()
        for _ in range(slices):
            await self._turn()
            self._client.facts = PhaseFacts()
            await anext(work)
            total = merged(total, self._client.facts)
            if self._client.stopped:
                break
        return total

    @contextlib.asynccontextmanager
    async def _window(self, load: AnyPhase) -> AsyncIterator[int]:
        """Measure what happens inside, while the server dies if it is to; yields the start, in ns."""
        facts = self._client.facts
        async with self._meter.window(facts) as start_ns, self._engine.group() as beside:
            if load.restart is not None:
                beside.create_task(self._restart(load.restart, facts, start_ns))
            yield start_ns

    async def _restart(self, restart: Restart, facts: PhaseFacts, start_ns: int) -> None:
        """Tell the server to die when the time has come, and wait until the next one listens."""
        await self._engine.pacer.until(start_ns + int(restart.after_s * NS))
        if self._client.stopped:
            return
        self._meter.server_cpu_ns()  # the last that is known of it
        facts.signalled_ns = monotonic_ns()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._meter.server_pid, signal.SIGKILL if restart.signal == "kill" else signal.SIGTERM)
        say(Signalled(facts.signalled_ns + int(restart.down_s * NS)))
        if line := await self._parent.line():
            back = msgspec.json.decode(line, type=Back)
            facts.back_ns = back.at_ns
            self._meter.adopt(back)

    # Closed loads.

    async def _closed_slices(self, load: Closed) -> AsyncIterator[None]:
        had = [0] * load.users
        turns = None if load.turns is None else load.turns // load.slices
        duration_s = None if load.duration_s is None else load.duration_s / load.slices
        slice_ = msgspec.structs.replace(load, turns=turns, duration_s=duration_s, slices=1)
        if load.connections == "warm":
            await self._client.prime(load.users)
        while True:
            await self._closed(slice_, had, _forget)
            yield

    async def _closed(self, load: Closed, had: list[int], ended: Ended, step: int = 0) -> None:
        """Run a closed load whose users have had so many turns before; `ended` is told of every stream."""
        offsets = ramp_offsets(load.users, load.ramp_s)
        async with self._engine.users(load.users) as users, self._window(load) as start_ns:
            await users(lambda user: self._user(user, start_ns, offsets[user], load, step, had, ended))

    async def _user(
        self, user: int, start_ns: int, offset: int, load: Closed, step: int, had: list[int], ended: Ended
    ) -> None:
        end_ns = NEVER if load.duration_s is None else start_ns + int(load.duration_s * NS)
        intended = start_ns + offset
        turns = itertools.count() if load.turns is None else range(load.turns)
        await self._engine.pacer.until(intended)
        for _ in turns:
            if intended >= end_ns or self._client.stopped:
                break
            record = self._client.record(had[user] * load.users + user, intended, step)
            had[user] += 1
            record = await self._client.counted_stream(record, load)
            ended(record)
            pause_s = max(load.think_s, REFUSED_PAUSE_S if record.outcome == Outcome.REFUSED else 0.0)
            intended = monotonic_ns() + int(pause_s * NS)
            if pause_s:
                await self._engine.pacer.until(intended)

    # Open loads.

    async def _open_slices(self, load: Open) -> AsyncIterator[None]:
        seed = derive_seed(self._plan.seed, self._client.phase, "arrivals")
        arrivals = deque(enumerate(open_offsets(load.arrivals, load.rate, load.duration_s, seed)))
        width_ns = int(load.duration_s / load.slices * NS)
        await self._client.prime(load.pool)
        for end_ns in itertools.count(width_ns, width_ns):
            own = []
            while arrivals and (arrivals[0][1] < end_ns or end_ns >= width_ns * load.slices):
                ordinal, offset = arrivals.popleft()
                own.append((ordinal, offset - end_ns + width_ns))
            await self._open(load, own)
            yield

    async def _open(self, load: Open, arrivals: list[tuple[int, int]]) -> None:
        client = self._client
        async with self._window(load) as start_ns, self._engine.group() as streams:
            for ordinal, offset in arrivals:
                await self._engine.pacer.until(start_ns + offset)
                if client.stopped:
                    break
                record = client.record(ordinal, start_ns + offset)
                if len(client.busy) < load.max_open:
                    streams.create_task(client.counted_stream(record, load))
                else:
                    client.drop(record)

    # Growing loads.

    async def _steps(self, load: Steps) -> PhaseFacts:
        """Grow the load step by step, one a turn, until one does not keep within the limit."""
        total = PhaseFacts()
        client = self._client
        for users in load.users:
            await self._turn()
            closed = Closed(
                profile=load.profile, connections=load.connections, users=users, turns=load.turns, ramp_s=load.ramp_s
            )
            client.facts = PhaseFacts()
            if load.connections == "warm":
                await client.prime(users)
            ended: list[StreamRecord] = []
            await self._closed(closed, [0] * users, ended.append, step=users)
            client.hang_up_pool()
            client.log.flush()
            p99 = p99_gap_excess_ns(Path(self._plan.folder), ended, self._plan.scenario.profiles[load.profile])
            within = 0 <= p99 <= load.limit_ms * 1e6 and all(record.outcome == Outcome.COMPLETE for record in ended)
            total = merged(total, client.facts)
            total.steps.append(Step(users, p99, within))
            if not within or client.stopped:
                break
        return total

    async def _crowd(self, load: Crowd) -> PhaseFacts:
        """Open more and more streams and hold them; at the end each leaves when nothing of it is on its way."""
        await self._turn()
        client = self._client
        facts = client.facts = PhaseFacts()
        held: list[Held] = []
        ended: list[StreamRecord] = []
        async with self._window(load), self._engine.group() as streams:
            for size in (0, *load.sizes):
                start_ns, opened = monotonic_ns(), facts.starts
                for ordinal in range(opened, size):
                    intended_ns = start_ns + int((ordinal - opened) * NS / load.rate)
                    await self._engine.pacer.until(intended_ns)
                    if client.stopped:
                        break
                    record = client.record(ordinal, intended_ns, step=size)
                    facts.starts += 1
                    streams.create_task(self._held_stream(record, load.profile, ended))
                while not client.stopped and len(ended) + client.flowing() < facts.starts:
                    await self._engine.pacer.until(monotonic_ns() + LOOK_NS)
                facts.peak_open = client.flowing()
                if client.stopped:
                    break
                held.append(await self._meter.hold(size, load.hold_s if size else min(load.hold_s, EMPTY_S)))
            for connection in client.busy:
                if isinstance(connection.session, LeavingSession):
                    connection.session.leave_with_next()
        facts.held = held
        return facts

    async def _held_stream(self, record: StreamRecord, profile: str, ended: list[StreamRecord]) -> None:
        client = self._client
        client.facts.starts_late += monotonic_ns() - record.intended_ns > LATE_NS
        connection = await client.stream(record, profile, None)
        ended.append(record)
        connection.hang_up()


def _forget(_record: StreamRecord) -> None:
    """Keep nothing of a stream that ended: what a phase takes in memory must not depend on how long it is."""
