"""The asyncio driver: `python -m bench.drivers.asyncio_ PLAN.json` runs one trial's phases and leaves raw logs.

One event loop (uvloop) serves every wire protocol; loads are coroutines, streams are sessions on connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import platform
import signal
import socket
import statistics
import sys
import traceback
from array import array
from collections import deque
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from bench.arrivals import NS, derive_seed, draw, open_offsets, ramp_offsets
from bench.drivers.connection import Connection, SlowConnection
from bench.drivers.plan import (
    Back,
    Done,
    Held,
    Hello,
    PhaseDone,
    PhaseFacts,
    Plan,
    Said,
    Signalled,
    Slice,
    Step,
    Tick,
    Waits,
    request_body,
)
from bench.drivers.tally import p99_gap_excess_ns
from bench.rawlog import DROPPED, RawLog, StreamRecord
from bench.retry import Retrying
from bench.scenario import PRIME_PROFILE, AnyPhase, Closed, Crowd, Open, Restart, Steps
from bench.session import NEVER, Counters, LeavingSession, Session
from bench.usage import clocks, cpu_ns, memory_bytes, steal_ns, wait_ns
from bench.wire import make_wire
from bench.wire.events import Outcome
from servers.pacing import Pacer, set_timer_slack

if TYPE_CHECKING:
    from bench.wire.tls import ClientTLS

API_KEY = os.environ.get("TOKENWIRE_API_KEY") or "sk-tokenwire-benchmark"
"""Real requests carry a key, over SSE once per request: it belongs to the bytes of a request. A key that is given comes
by the environment alone, so that no file and no list of processes has it."""
SLOW_BUFFER = 4096
"""Receive buffer of a slow client, in bytes, which Linux doubles: what is not read must soon be felt by the server."""
SLOW_SEGMENT = 1448
"""The largest segment that a slow client takes, in bytes, as over Ethernet: for the 64 KiB of loopback Linux lets a
server's send buffer grow to 4 MiB, which hides a slow client from it for 20,000 tokens."""
REFUSED_PAUSE_S = 0.1
"""A closed-load user whose connection was refused waits this long, so that a dead server is not hammered."""
LATE_NS = 1_000_000
"""A start this much after its intended time counts as late."""
PROBE_NS = 20_000_000
"""The driver's own loop is probed this often; what it is late is its lag."""
GC_POLICY = "frozen at start, off during phases, one full collection between them"
OPENING_AT_ONCE = 64
"""Kept connections are opened this many at a time: half of the smallest common listen backlog."""
LOOK_NS = 50_000_000
"""How often it is looked whether all streams of a crowd have begun."""
QUIET_NS, QUIET_S, QUIET_TRIES = 100_000, 0.005, 40
"""Before the turn is given away the server has used less CPU than this in one such pause, or in the last of the tries:
what it still does for closed connections would weigh on whoever comes next."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""Errors of connect() that are no answer of the server."""
VERSIONS = {
    "python": platform.python_version(),
    **{name: version(name) for name in ("uvloop", "httptools", "websockets", "msgspec")},
}


class InstrumentFault(Exception):
    """The driver cannot do what was asked of it: the trial says nothing about a server."""


class Driver:
    """Runs the phases of one trial."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._plan = plan
        self._timeouts = plan.scenario.timeouts
        self._log = RawLog(Path(plan.folder), API_KEY)
        self._tls = _client_tls(plan) if plan.ca_file else None
        self._server_pid = plan.server_pid
        self._server_cpu_last_ns = self._server_used_ns = 0
        """CPU time of servers that have died, less what the one there now had used when it took over."""
        self._pacer = Pacer(loop)
        self._counters = Counters()
        self._busy: set[Connection] = set()
        self._pool: list[Connection] = []
        self._streams = 0
        self._facts = PhaseFacts()
        self._phase = ""
        self._load: AnyPhase | None = None
        self._lags: list[int] = []
        self._probing: asyncio.Task[None] | None = None
        self._measuring = False
        self._told = asyncio.Event()
        self._recent_ttft_ns: deque[int] = deque(maxlen=200)
        self.stopped = False

    async def run(self) -> None:
        """Run all phases in order, or as far as a signal lets them."""
        say(Hello(os.getpid(), VERSIONS, "uvloop", GC_POLICY, self._pacer.timer))
        await self._turn()
        await self._warm_up(self._plan.warm_up)
        for name, phase in self._plan.scenario.phases.items():
            if self.stopped:
                break
            self._phase = name
            self._load = phase
            self._lags.clear()
            facts = await self._run_phase(phase)
            self._hang_up_pool()
            if self._lags:
                lags = sorted(self._lags)
                facts.loop_lag_p99_ns = lags[min(len(lags) - 1, int(len(lags) * 0.99))]
                facts.loop_lag_max_ns = lags[-1]
            say(PhaseDone(name, facts))
        # The end of a process takes CPU, too.
        await self._turn()
        self._rest()
        self._pacer.close()
        self._log.close()
        say(Done(self._streams, self.stopped))

    def stop(self) -> None:
        """Start nothing more and end what is open as cancelled."""
        self.stopped = True
        self._told.set()
        for connection in list(self._busy):
            connection.session.cancel(monotonic_ns(), "the run was stopped")
            connection.act()

    async def _turn(self) -> None:
        """Put everything away, say so, and do nothing until told to go on, so that others can use the cores."""
        self._rest()
        self._log.flush()
        gc.collect()
        await self._server_quiet()
        self._told.clear()
        self.loop.add_reader(0, self._told.set)
        say(Waits())
        try:
            if not self.stopped:
                await self._told.wait()
        finally:
            self.loop.remove_reader(0)
        if not self.stopped and not os.read(0, 64):
            self.stop()  # there is no parent to write for
        self._probing = self.loop.create_task(self._probe())

    def _rest(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    async def _server_quiet(self) -> None:
        used = self._server_cpu_ns()
        for _ in range(QUIET_TRIES):
            await asyncio.sleep(QUIET_S)
            before, used = used, self._server_cpu_ns()
            if used - before < QUIET_NS:
                break

    async def _run_phase(self, phase: AnyPhase) -> PhaseFacts:
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
            self._facts = PhaseFacts()
            await anext(work)
            total = merged(total, self._facts)
            if self.stopped:
                break
        return total

    # One stream.

    def _record(self, ordinal: int, intended_ns: int, step: int = 0, attempt: int = 0) -> StreamRecord:
        self._streams += 1
        return StreamRecord(
            stream=self._streams,
            phase=self._phase,
            step=step,
            window=True,
            ordinal=ordinal,
            seed=derive_seed(self._plan.seed, self._phase, step, ordinal),
            attempt=attempt,
            cold=False,
            intended_ns=intended_ns,
        )

    async def _stream(
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
        settled = connection.settled = self.loop.create_future()
        self._busy.add(connection)
        connection.session.ask(record, body, last_event_id)
        if record.cold:
            await self._connect(connection)
        else:
            connection.act()
        await settled
        self._busy.discard(connection)
        return connection

    async def _counted_stream(self, record: StreamRecord, load: Closed | Open) -> StreamRecord:
        """Have one stream of a window, on a kept connection when one is idle; return its last attempt."""
        facts = self._facts
        facts.starts += 1
        facts.starts_late += monotonic_ns() - record.intended_ns > LATE_NS
        facts.peak_open = max(facts.peak_open, len(self._busy) + 1)
        record.slow = load.slow is not None and draw(record.seed, "slow") < load.slow.share
        connection = await self._stream(record, load.profile, None if record.slow else self._idle_connection())
        if record.first_content_ns:
            self._recent_ttft_ns.append(record.first_content_ns - record.started_ns)
        if load.retry is not None:
            record, connection = await self._go_on(record, connection, load, Retrying(load.retry, record.seed))
        if load.connections == "warm" and connection.session.idle and not self.stopped:
            self._pool.append(connection)
        else:
            connection.hang_up()
        return record

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
            await self._pacer.until(intended_ns)
            if self.stopped:
                return record, connection
            slow = record.slow
            record = self._record(record.ordinal, intended_ns, record.step, record.attempt + 1)
            record.slow = slow
            kept = connection if session.idle else None
            connection = await self._stream(record, load.profile, kept, again.last_event_id)

    def _leave_after(self, record: StreamRecord) -> int:
        """After how many chunks the client of a stream leaves. Its seed decides, on every arm alike."""
        leave = self._load.leave if self._load is not None else None
        if leave is None or not record.window or draw(record.seed, "leave") >= leave.share:
            return NEVER
        low, high = leave.at
        return low + int(draw(record.seed, "leave after") * (high - low + 1))

    def _connection(self, *, slow: bool) -> Connection:
        """A connection to be made, and its session."""
        plan, load = self._plan, self._load
        protocol = plan.scenario.arms[plan.arm].protocol
        wire = make_wire(protocol, f"{plan.host}:{plan.port}", API_KEY, plan.compression)
        if self._tls is not None:
            wire = self._tls.wire(wire, resume=load is not None and load.resume_tls)
        leaves = isinstance(load, Crowd) or (load is not None and load.leave is not None)
        made = LeavingSession if leaves else Session
        session = made(wire, self._timeouts, self._log, self._counters, tls=self._tls is not None)
        if slow and load is not None and load.slow is not None:
            return SlowConnection(self.loop, session, load.slow.bytes_per_s)
        connection = Connection(self.loop, session)
        connection.by_message = load is not None and load.leave is not None and load.leave.by == "cancel"
        return connection

    async def _connect(self, connection: Connection) -> None:
        connection.session.connecting(monotonic_ns())
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                await self._open_socket(connection)
        except TimeoutError:
            connection.expire()
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise InstrumentFault(f"this machine has no more for the driver: {error}") from error
            connection.failed(error)

    async def _open_socket(self, connection: Connection) -> None:
        host, port = self._plan.host, self._plan.port
        if not isinstance(connection, SlowConnection):
            await self.loop.create_connection(lambda: connection, host, port)
            return
        # The buffer has to be set before the handshake, which tells its size.
        one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        if sys.platform == "linux":
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SLOW_SEGMENT)
        try:
            await self.loop.sock_connect(one, (host, port))
        except BaseException:
            one.close()
            raise
        await self.loop.create_connection(lambda: connection, sock=one)

    def _idle_connection(self) -> Connection | None:
        while self._pool:
            connection = self._pool.pop()
            if connection.session.idle:
                return connection
        return None

    def _hang_up_pool(self) -> None:
        for connection in self._pool:
            connection.hang_up()
        self._pool.clear()

    # Loads.

    async def _closed_slices(self, load: Closed) -> AsyncIterator[None]:
        had = [0] * load.users
        turns = None if load.turns is None else load.turns // load.slices
        duration_s = None if load.duration_s is None else load.duration_s / load.slices
        slice_ = msgspec.structs.replace(load, turns=turns, duration_s=duration_s, slices=1)
        if load.connections == "warm":
            await self._prime(load.users)
        while True:
            await self._closed(slice_, had)
            yield

    async def _closed(self, load: Closed, had: list[int], step: int = 0) -> list[StreamRecord]:
        """Run a closed load whose users have had so many turns before; return the streams that ended."""
        ended: list[StreamRecord] = []
        async with self._window() as start_ns, asyncio.TaskGroup() as users:
            for user, offset in enumerate(ramp_offsets(load.users, load.ramp_s)):
                users.create_task(self._user(user, start_ns, offset, load, step, had, ended))
        return ended

    async def _user(
        self, user: int, start_ns: int, offset: int, load: Closed, step: int, had: list[int], ended: list[StreamRecord]
    ) -> None:
        end_ns = NEVER if load.duration_s is None else start_ns + int(load.duration_s * NS)
        intended = start_ns + offset
        turns = itertools.count() if load.turns is None else range(load.turns)
        await self._pacer.until(intended)
        for _ in turns:
            if intended >= end_ns or self.stopped:
                break
            record = self._record(had[user] * load.users + user, intended, step)
            had[user] += 1
            record = await self._counted_stream(record, load)
            ended.append(record)
            pause_s = max(load.think_s, REFUSED_PAUSE_S if record.outcome == Outcome.REFUSED else 0.0)
            intended = monotonic_ns() + int(pause_s * NS)
            if pause_s:
                await self._pacer.until(intended)

    async def _open_slices(self, load: Open) -> AsyncIterator[None]:
        seed = derive_seed(self._plan.seed, self._phase, "arrivals")
        arrivals = deque(enumerate(open_offsets(load.arrivals, load.rate, load.duration_s, seed)))
        width_ns = int(load.duration_s / load.slices * NS)
        await self._prime(load.pool)
        for end_ns in itertools.count(width_ns, width_ns):
            own = []
            while arrivals and (arrivals[0][1] < end_ns or end_ns >= width_ns * load.slices):
                ordinal, offset = arrivals.popleft()
                own.append((ordinal, offset - end_ns + width_ns))
            await self._open(load, own)
            yield

    async def _open(self, load: Open, arrivals: list[tuple[int, int]]) -> None:
        async with self._window() as start_ns, asyncio.TaskGroup() as streams:
            for ordinal, offset in arrivals:
                await self._pacer.until(start_ns + offset)
                if self.stopped:
                    break
                record = self._record(ordinal, start_ns + offset)
                if len(self._busy) < load.max_open:
                    streams.create_task(self._counted_stream(record, load))
                else:
                    self._drop(record)

    def _drop(self, record: StreamRecord) -> None:
        self._facts.dropped += 1
        record.outcome = DROPPED
        record.detail = f"{len(self._busy)} streams were open"
        record.ended_ns = monotonic_ns()
        self._log.ended(record, array("q"), array("I"))

    async def _steps(self, load: Steps) -> PhaseFacts:
        """Grow the load step by step, one a turn, until one does not keep within the limit."""
        total = PhaseFacts()
        for users in load.users:
            await self._turn()
            closed = Closed(
                profile=load.profile, connections=load.connections, users=users, turns=load.turns, ramp_s=load.ramp_s
            )
            self._facts = PhaseFacts()
            if load.connections == "warm":
                await self._prime(users)
            ended = await self._closed(closed, [0] * users, step=users)
            self._hang_up_pool()
            self._log.flush()
            p99 = p99_gap_excess_ns(Path(self._plan.folder), ended, self._plan.scenario.profiles[load.profile])
            within = 0 <= p99 <= load.limit_ms * 1e6 and all(record.outcome == Outcome.COMPLETE for record in ended)
            total = merged(total, self._facts)
            total.steps.append(Step(users, p99, within))
            if not within or self.stopped:
                break
        return total

    async def _crowd(self, load: Crowd) -> PhaseFacts:
        """Open more and more streams and hold them; at the end each leaves when nothing of it is on its way."""
        await self._turn()
        facts = self._facts = PhaseFacts()
        held: list[Held] = []
        ended: list[StreamRecord] = []
        async with self._window(), asyncio.TaskGroup() as streams:
            for size in (0, *load.sizes):
                start_ns, opened = monotonic_ns(), facts.starts
                for ordinal in range(opened, size):
                    intended_ns = start_ns + int((ordinal - opened) * NS / load.rate)
                    await self._pacer.until(intended_ns)
                    if self.stopped:
                        break
                    record = self._record(ordinal, intended_ns, step=size)
                    facts.starts += 1
                    streams.create_task(self._held_stream(record, load.profile, ended))
                while not self.stopped and len(ended) + self._flowing() < facts.starts:
                    await self._pacer.until(monotonic_ns() + LOOK_NS)
                facts.peak_open = self._flowing()
                if self.stopped:
                    break
                held.append(await self._hold(size, load.hold_s))
            for connection in self._busy:
                if isinstance(connection.session, LeavingSession):
                    connection.session.leave_with_next()
        facts.held = held
        return facts

    async def _held_stream(self, record: StreamRecord, profile: str, ended: list[StreamRecord]) -> None:
        self._facts.starts_late += monotonic_ns() - record.intended_ns > LATE_NS
        connection = await self._stream(record, profile, None)
        ended.append(record)
        connection.hang_up()

    def _flowing(self) -> int:
        """Streams under way that have their first content."""
        return sum(connection.session.flowing for connection in self._busy)

    async def _hold(self, size: int, hold_s: float) -> Held:
        """Let the streams that are open go on for a while, and say what that took."""
        flowing, chunks = self._flowing(), self._counters.chunks
        server_ns, driver_ns, start_ns = self._server_cpu_ns(), cpu_ns(os.getpid()), monotonic_ns()
        await self._pacer.until(start_ns + int(hold_s * NS))
        hold_ns = monotonic_ns() - start_ns
        server_ns, driver_ns = self._server_cpu_ns() - server_ns, cpu_ns(os.getpid()) - driver_ns
        server_memory = 0
        with contextlib.suppress(OSError):
            server_memory = memory_bytes(self._server_pid)
        return Held(
            size=size,
            open=min(flowing, self._flowing()),
            hold_ns=hold_ns,
            chunks=self._counters.chunks - chunks,
            server_cpu_ns=server_ns,
            driver_cpu_ns=driver_ns,
            server_memory=server_memory,
            driver_memory=memory_bytes(os.getpid()),
        )

    async def _prime(self, connections: int) -> None:
        """Open connections to keep, and have one token over each, so that both protocols start from a used one."""
        for first in range(0, connections, OPENING_AT_ONCE):
            numbers = range(first, min(first + OPENING_AT_ONCE, connections))
            primed = await asyncio.gather(*(self._prime_one(number) for number in numbers))
            idle = [connection for connection in primed if connection.session.idle]
            self._pool.extend(idle)
            if not idle:
                break

    async def _warm_up(self, streams: int) -> None:
        """Have the server's first requests outside any figure: they fill what every later one finds ready."""
        self._phase = next(iter(self._plan.scenario.phases))
        for number in range(streams):
            connection = await self._prime_one(number)
            useful = connection.session.idle
            connection.hang_up()
            if not useful:
                break  # a server that answers none of them is for the phases to show

    async def _prime_one(self, number: int) -> Connection:
        record = self._record(number, monotonic_ns())
        record.window = False
        record.seed = derive_seed(self._plan.seed, self._phase, "prime", number)
        return await self._stream(record, PRIME_PROFILE, None)

    # The window, and what the driver watches while it is open.

    @contextlib.asynccontextmanager
    async def _window(self) -> AsyncIterator[int]:
        """Measure what happens inside; yields the start, in ns."""
        facts, pid = self._facts, self._server_pid
        with contextlib.suppress(OSError):  # a dead server shows in the outcomes
            facts.server_rss_start = memory_bytes(pid)
        facts.driver_rss_start = memory_bytes(os.getpid())
        self._measuring = True
        before, clocks_before, chunks = self._used(), clocks(), self._counters.chunks
        facts.window_start_ns = monotonic_ns()
        load = self._load
        dying = None
        if load is not None and load.restart is not None:
            dying = self.loop.create_task(self._restart(load.restart, facts.window_start_ns))
        try:
            yield facts.window_start_ns
        finally:
            if dying is not None:
                await dying
            facts.window_end_ns = monotonic_ns()
            facts.window_ns = facts.window_end_ns - facts.window_start_ns
            self._measuring = False
            _, facts.clock_raw_ns, facts.clock_boot_ns = map(_since, clocks_before, clocks())
            used = map(_since, before, self._used())
            facts.server_cpu_ns, facts.driver_cpu_ns, facts.server_wait_ns, facts.driver_wait_ns, facts.steal_ns = used
            facts.slices = [
                Slice(
                    facts.window_start_ns,
                    facts.window_end_ns,
                    self._counters.chunks - chunks,
                    facts.server_cpu_ns,
                    facts.driver_cpu_ns,
                )
            ]
            _, facts.steal_cores = steal_ns(self._plan.pinned)
            self._sample_memory()

    async def _restart(self, restart: Restart, start_ns: int) -> None:
        """Tell the server to die when the time has come, and wait until the next one listens."""
        await self._pacer.until(start_ns + int(restart.after_s * NS))
        if self.stopped:
            return
        self._server_used_ns = self._server_cpu_ns()
        self._told.clear()
        self.loop.add_reader(0, self._told.set)
        self._facts.signalled_ns = monotonic_ns()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server_pid, signal.SIGKILL if restart.signal == "kill" else signal.SIGTERM)
        say(Signalled(self._facts.signalled_ns + int(restart.down_s * NS)))
        try:
            await self._told.wait()
        finally:
            self.loop.remove_reader(0)
        if not self.stopped and (line := os.read(0, 1024)):
            back = msgspec.json.decode(line, type=Back)
            self._facts.back_ns = back.at_ns
            self._server_pid = back.server_pid
            self._server_cpu_last_ns = cpu_ns(back.server_pid)
            self._server_used_ns -= self._server_cpu_last_ns

    def _used(self) -> tuple[int, int, int, int, int]:
        """CPU time of server and driver, their waits for a core, and the time stolen from both, so far (ns)."""
        me, server = os.getpid(), self._server_pid
        stolen, _ = steal_ns(self._plan.pinned)
        return self._server_cpu_ns(), cpu_ns(me), wait_ns(server), wait_ns(me), stolen

    def _server_cpu_ns(self) -> int:
        """CPU time of the servers of this trial, so far."""
        with contextlib.suppress(OSError):  # one that is dead used what it had used
            self._server_cpu_last_ns = cpu_ns(self._server_pid)
        return self._server_used_ns + self._server_cpu_last_ns

    def _sample_memory(self) -> None:
        facts = self._facts
        facts.driver_rss_peak = max(facts.driver_rss_peak, memory_bytes(os.getpid()))
        with contextlib.suppress(OSError):
            facts.server_rss_peak = max(facts.server_rss_peak, memory_bytes(self._server_pid))

    async def _probe(self) -> None:
        """Probe the loop's lag in windows, sample memory there, and say how things go."""
        due = monotonic_ns()
        for count in itertools.count():
            due += PROBE_NS
            await self._pacer.until(due)
            now = monotonic_ns()
            if self._measuring:
                self._lags.append(now - due)
            due = max(due, now - PROBE_NS)
            if count % 10 == 0 and self._measuring:
                self._sample_memory()
            if count % 25 == 0:
                recent = self._recent_ttft_ns
                ttft_ms = statistics.median(recent) / 1e6 if recent else None
                say(Tick(self._phase, len(self._busy), self._counters.chunks, ttft_ms))


def _client_tls(plan: Plan) -> ClientTLS:
    from bench.wire.tls import ClientTLS  # OpenSSL takes its time to load

    return ClientTLS(plan.ca_file, plan.server_name)


def _since(before: int, after: int) -> int:
    """What has come since, nothing where a server has died meanwhile; -1 where it is not known."""
    return -1 if min(before, after) < 0 else max(0, after - before)


def merged(a: PhaseFacts, b: PhaseFacts) -> PhaseFacts:
    """The facts of two windows of one phase, `b` after `a`: sums of what adds up, and memory of the fuller one.

    Of windows as full, memory is from the start of the first to the peak of either.
    """
    if not a.window_ns:
        return b
    fuller = b if b.peak_open > a.peak_open else a
    same = a.peak_open == b.peak_open
    return PhaseFacts(
        window_start_ns=a.window_start_ns,
        window_end_ns=b.window_end_ns,
        server_rss_start=fuller.server_rss_start,
        server_rss_peak=max(a.server_rss_peak, b.server_rss_peak) if same else fuller.server_rss_peak,
        driver_rss_start=fuller.driver_rss_start,
        driver_rss_peak=max(a.driver_rss_peak, b.driver_rss_peak) if same else fuller.driver_rss_peak,
        peak_open=fuller.peak_open,
        steal_cores=b.steal_cores,
        steps=a.steps,
        held=a.held,
        signalled_ns=a.signalled_ns or b.signalled_ns,
        back_ns=a.back_ns or b.back_ns,
        slices=a.slices + b.slices,
        **{name: _sum(getattr(a, name), getattr(b, name)) for name in ADD_UP},
    )


ADD_UP = (
    *("window_ns", "clock_raw_ns", "clock_boot_ns", "server_cpu_ns", "driver_cpu_ns", "server_wait_ns"),
    *("driver_wait_ns", "steal_ns", "starts", "starts_late", "dropped"),
)


def _sum(a: int, b: int) -> int:
    return -1 if min(a, b) < 0 else a + b


def say(said: Said) -> None:
    """One line to the parent. A parent that is gone is no reason to lose the trial."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, msgspec.json.encode(said) + b"\n")


def give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A fault in a callback is the instrument's: end the process at once, so that the trial counts as failed."""
    loop.default_exception_handler(context)
    error = context.get("exception")
    print(f"{context['message']}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def main(path: str) -> int:
    """Run the plan in the file `path`. Returns the exit code: 0 done, 130 stopped by a signal."""
    plan = msgspec.json.decode(Path(path).read_bytes(), type=Plan)
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)
    set_timer_slack()
    # A collection stops the loop while tens of thousands of live objects are walked, and every stamp behind it is
    # late. Streams leave no cycles behind, so memory does not grow; what is left goes between phases, off the clock.
    gc.collect()
    gc.freeze()
    gc.disable()
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(give_up)
    driver = Driver(plan, loop)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, driver.stop)
    try:
        loop.run_until_complete(driver.run())
    except BaseException as error:
        # The parent shows the last line of what is written here.
        traceback.print_exception(error)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 130 if driver.stopped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
