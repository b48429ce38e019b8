"""Streams on connections: opening, keeping, asking, asking again, leaving. Knows nothing of loads and windows."""

from __future__ import annotations

import errno
import os
from array import array
from collections import deque
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

from bench.arrivals import LATE_NS, derive_seed, draw
from bench.drivers.connection import Connection, SlowConnection
from bench.drivers.engine import Engine
from bench.drivers.plan import PhaseFacts, Plan, request_body
from bench.rawlog import DROPPED, RawLog, StreamRecord
from bench.retry import Retrying
from bench.scenario import PRIME_PROFILE, AnyPhase, Closed, Crowd, Open
from bench.session import NEVER, Counters, LeavingSession, Session
from bench.wire import make_wire

if TYPE_CHECKING:
    from bench.wire.tls import ClientTLS

API_KEY = os.environ.get("TOKENWIRE_API_KEY") or "sk-tokenwire-benchmark"
"""Real requests carry a key, over SSE once per request: it belongs to the bytes of a request. A key that is given comes
by the environment alone, so that no file and no list of processes has it."""
OPENING_AT_ONCE = 64
"""Kept connections are opened this many at a time: half of the smallest common listen backlog."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""Errors of connect() that are no answer of the server."""


class InstrumentFault(Exception):
    """The driver cannot do what was asked of it: the trial says nothing about a server."""


class Client:
    """All clients of one trial."""

    def __init__(self, plan: Plan, engine: Engine, log: RawLog | None = None) -> None:
        self.engine = engine
        self._plan = plan
        self._timeouts = plan.scenario.timeouts
        self.log = log or RawLog(Path(plan.folder), API_KEY)
        self._tls = _client_tls(plan) if plan.ca_file else None
        self.counters = Counters()
        self.busy: set[Connection] = set()
        """Connections with a stream under way."""
        self._pool: list[Connection] = []
        self.streams = 0
        """Records begun, attempts and priming included."""
        self.facts = PhaseFacts()
        """Of the window under way: starts are counted there."""
        self.phase = next(iter(plan.scenario.phases))
        self._load: AnyPhase | None = None
        self.recent_ttft_ns: deque[int] = deque(maxlen=200)
        self.stopped = False

    def enter(self, phase: str, load: AnyPhase) -> None:
        """What follows belongs to this phase."""
        self.phase, self._load = phase, load

    def stop(self) -> None:
        """Start nothing more and end what is open as cancelled."""
        self.stopped = True
        for connection in list(self.busy):
            connection.session.cancel(monotonic_ns(), "the run was stopped")
            connection.act()

    # Streams.

    def record(self, ordinal: int, intended_ns: int, step: int = 0, attempt: int = 0) -> StreamRecord:
        """A stream that is about to start. Its seed derives from where it stands in the run, the same on every arm."""
        self.streams += 1
        return StreamRecord(
            stream=self.streams,
            phase=self.phase,
            step=step,
            window=True,
            ordinal=ordinal,
            seed=derive_seed(self._plan.seed, self.phase, step, ordinal),
            attempt=attempt,
            cold=False,
            intended_ns=intended_ns,
        )

    async def counted_stream(self, record: StreamRecord, load: Closed | Open) -> StreamRecord:
        """Have one stream of a window, on a kept connection when one is idle; return its last attempt."""
        facts = self.facts
        facts.starts += 1
        facts.starts_late += monotonic_ns() - record.intended_ns > LATE_NS
        facts.peak_open = max(facts.peak_open, len(self.busy) + 1)
        record.slow = load.slow is not None and draw(record.seed, "slow") < load.slow.share
        connection = await self.stream(record, load.profile, None if record.slow else self._idle_connection())
        if record.first_content_ns:
            self.recent_ttft_ns.append(record.first_content_ns - record.started_ns)
        if load.retry is not None:
            record, connection = await self._go_on(record, connection, load, Retrying(load.retry, record.seed))
        if load.connections == "warm" and connection.session.idle and not self.stopped:
            self._pool.append(connection)
        else:
            connection.hang_up()
        return record

    async def stream(
        self,
        record: StreamRecord,
        profile: str,
        connection: Connection | None,
        last_event_id: str = "",
    ) -> Connection:
        """Have one stream on `connection`, or on a new one; return its connection when it has settled."""
        body = request_body(profile, record.seed)
        record.cold = connection is None
        if connection is None:
            connection = self._connection(slow=record.slow)
        if isinstance(connection.session, LeavingSession):
            connection.session.leave_after = self._leave_after(record)
        settled = connection.settled = self.engine.create_future()
        self.busy.add(connection)
        connection.session.ask(record, body, last_event_id)
        try:
            if record.cold:
                await self._connect(connection)
            else:
                connection.act()
            await settled
        except BaseException:
            connection.session.cancel(monotonic_ns(), "the client was stopped")
            connection.act()
            raise
        finally:
            self.busy.discard(connection)
        return connection

    async def _go_on(
        self, record: StreamRecord, connection: Connection, load: Closed | Open, retrying: Retrying
    ) -> tuple[StreamRecord, Connection]:
        """Ask again for a stream for as long as it breaks off; return its last attempt."""
        while True:
            session = connection.session
            again = retrying.after(record, session.last_event_id, session.retry_after_s)
            if again is None or self.stopped:
                return record, connection
            if not session.idle:
                connection.hang_up()
            intended_ns = record.ended_ns + again.wait_ns
            await self.engine.pacer.until(intended_ns)
            if self.stopped:
                return record, connection
            slow = record.slow
            record = self.record(record.ordinal, intended_ns, record.step, record.attempt + 1)
            record.slow = slow
            kept = connection if session.idle else None
            connection = await self.stream(record, load.profile, kept, again.last_event_id)

    def drop(self, record: StreamRecord) -> None:
        """Record a start that is not carried out."""
        self.facts.dropped += 1
        record.outcome = DROPPED
        record.detail = f"{len(self.busy)} streams were open"
        record.ended_ns = monotonic_ns()
        self.log.ended(record, array("q"), array("I"))

    def _leave_after(self, record: StreamRecord) -> int:
        """After how many chunks the client of a stream leaves. Its seed decides, on every arm alike."""
        leave = self._load.leave if self._load is not None else None
        if leave is None or not record.window or draw(record.seed, "leave") >= leave.share:
            return NEVER
        low, high = leave.at
        return low + int(draw(record.seed, "leave after") * (high - low + 1))

    def flowing(self) -> int:
        """Streams under way that have their first content."""
        return sum(connection.session.flowing for connection in self.busy)

    # Connections.

    def _connection(self, *, slow: bool) -> Connection:
        """A connection to be made, and its session."""
        plan, load = self._plan, self._load
        protocol = plan.scenario.arms[plan.arm].protocol
        wire = make_wire(protocol, f"{plan.host}:{plan.port}", API_KEY, plan.compression)
        if self._tls is not None:
            wire = self._tls.wire(wire, resume=load is not None and load.resume_tls)
        leaves = isinstance(load, Crowd) or (load is not None and load.leave is not None)
        made = LeavingSession if leaves else Session
        session = made(wire, self._timeouts, self.log, self.counters, tls=self._tls is not None)
        if slow and load is not None and load.slow is not None:
            return SlowConnection(self.engine, session, load.slow.bytes_per_s)
        connection = Connection(self.engine, session)
        connection.by_message = load is not None and load.leave is not None and load.leave.by == "cancel"
        return connection

    async def _connect(self, connection: Connection) -> None:
        connection.session.connecting(monotonic_ns())
        try:
            await self.engine.connect(connection, self._plan.host, self._plan.port, self._timeouts.connect_s)
        except TimeoutError:
            connection.expire()
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise InstrumentFault(f"this machine has no more for the driver: {error}") from error
            connection.failed(error)

    def _idle_connection(self) -> Connection | None:
        while self._pool:
            connection = self._pool.pop()
            if connection.session.idle:
                return connection
        return None

    def hang_up_pool(self) -> None:
        """Close the connections that were kept."""
        for connection in self._pool:
            connection.hang_up()
        self._pool.clear()

    async def prime(self, connections: int) -> None:
        """Open connections to keep, and have one token over each, so that both protocols start from a used one."""
        for first in range(0, connections, OPENING_AT_ONCE):
            before = len(self._pool)
            async with self.engine.group() as opening:
                for number in range(first, min(first + OPENING_AT_ONCE, connections)):
                    opening.create_task(self._prime_for_pool(number))
            if len(self._pool) == before:
                break

    async def _prime_for_pool(self, number: int) -> None:
        connection = await self._prime_one(number)
        if connection.session.idle:
            self._pool.append(connection)

    async def warm_up(self, streams: int) -> None:
        """Have the server's first requests outside any figure: they fill what every later one finds ready."""
        for number in range(streams):
            connection = await self._prime_one(number)
            useful = connection.session.idle
            connection.hang_up()
            if not useful:
                break  # a server that answers none of them is for the phases to show

    async def _prime_one(self, number: int) -> Connection:
        record = self.record(number, monotonic_ns())
        record.window = False
        record.seed = derive_seed(self._plan.seed, self.phase, "prime", number)
        return await self.stream(record, PRIME_PROFILE, None)


def _client_tls(plan: Plan) -> ClientTLS:
    from bench.wire.tls import ClientTLS  # OpenSSL takes its time to load

    return ClientTLS(plan.ca_file, plan.server_name)
