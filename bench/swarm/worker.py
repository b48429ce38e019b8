"""The half that has streams: in every worker, and in a Locust that runs alone. Its figures it sends to the master."""

from __future__ import annotations

import gc
import os
import socket
from array import array
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
import msgspec

from bench.arrivals import NS, derive_seed
from bench.drivers.client import API_KEY, Client
from bench.drivers.connection import Connection
from bench.drivers.gevent_ import Future, GeventEngine, carry_out
from bench.drivers.plan import Plan
from bench.rawlog import DROPPED, RawLog, StreamRecord
from bench.scenario import Arm, Closed
from bench.swarm.figures import title_of
from bench.swarm.histogram import Histogram
from bench.swarm.options import Options
from bench.swarm.taken import Taken
from bench.swarm.workers import FORMAT
from bench.usage import cpu_ns
from bench.wire.events import Outcome
from servers.emitter import prepare, schedule
from servers.pacing import set_timer_slack

REPORT, ARRIVALS, FINISH, CLEAR = (f"tokenwire_{name}" for name in ("report", "arrivals", "finish", "clear"))
"""Types of messages: the first to the master, the others from it."""
REPORT_S = 3.0
"""As often as Locust's own. Packing one takes ms, so that a shorter time would be what the 99th percentile shows."""
WARM_UP_STREAMS = 20
"""Of one token, in no figure: a fresh server takes up to 10 ms more for its first requests."""
ORDINALS = 10_000_000
"""Streams of one worker in a closed loop: the next worker's ordinals, and so its seeds, begin behind them."""
PROBE_NS = 20_000_000
"""The loop is probed this often; what it is late is its lag."""
CPU_WINDOW_NS = 5 * NS
"""A worker's share of its core is that of its busiest such time: a mean over all would hide the end of a ramp."""
APART_NS, APART_OPEN_NS = 2_000_000, 500_000
"""Users begin so far apart, in a closed and in an open loop. Locust makes all of a second at one moment, and what all
of them do at first would hold up every token for as long as that takes."""
REFUSED_PAUSE_NS = NS // 10
"""A user whose connection was refused waits this long, so that a dead server is not hammered."""
GC_THRESHOLD = 50_000
"""Collections are rare, but not off: a web page may be looked at for days."""


class Lane:
    """All streams of one protocol in this process: a driver's client, whose streams are counted."""

    def __init__(
        self, protocol: str, options: Options, engine: GeventEngine, folder: Path, events: Any, first: int, test: str
    ) -> None:
        self.protocol = protocol
        self.ordinals = count(first)
        """Of the streams of a closed loop: the same on every protocol, and so are seeds and texts, faults apart."""
        self.name = title_of(protocol)
        self.taken = Taken()
        self._options, self._events = options, events
        self._waiting: list[Slot] = []
        self._profile = options.scenario.profiles[options.load.profile]
        prepare(self._profile)  # else the first stream that ends would hold up all others for 70 ms
        folder.mkdir(parents=True, exist_ok=True)
        arms = {protocol: Arm(protocol=protocol, stack="aiohttp")}  # type: ignore[arg-type]
        seed = options.scenario.experiment.seed
        if options.load.fault is not None:
            # A server counts how often a stream was asked for: of several with the same seed, only the first would meet
            # the fault, and of several tests none but the first.
            seed = derive_seed(seed, protocol, test)
        plan = Plan(
            scenario=msgspec.structs.replace(options.scenario, arms=arms), arm=protocol, host=options.host,
            port=options.port, server_pid=0, seed=seed, folder=str(folder), warm_up=0,
            compression=False, ca_file=options.ca_file, server_name=options.host,
        )  # fmt: skip
        self.client = _CountedClient(plan, engine, _CountedLog(folder, self), self.taken)
        self.client.enter(options.phase, options.load)

    def ended(self, record: StreamRecord, stamps_ns: array[int], counts: array[int]) -> None:
        """An attempt to have a stream has ended."""
        if not record.window:
            self.taken.ended(record, stamps_ns, counts)
            return
        dropped = record.outcome == DROPPED
        due_ns = None if dropped else schedule(self._profile, record.seed).due_ns
        self.taken.ended(record, stamps_ns, counts, due_ns)
        failed = record.outcome != Outcome.COMPLETE and not record.left_ns
        self._events.request.fire(
            request_type=self.name,
            name=f"{self.name} stream",
            # What was not begun took no time, which is not 0 ms.
            response_time=None if dropped else (record.ended_ns - (record.started_ns or record.intended_ns)) / 1e6,
            response_length=record.received_bytes,
            exception=StreamFailed(record.outcome, record.reason) if failed else None,
            context={},
        )

    async def stream(self, ordinal: int, intended_ns: int) -> StreamRecord:
        """Have one stream, with its further attempts; return the last of them."""
        return await self.client.counted_stream(self.client.record(ordinal, intended_ns), self._options.load)

    async def keep_one(self) -> None:
        """Have one more connection ready, where connections are kept."""
        if self._options.load.connections == "warm":
            await self.client.prime(1)

    async def arrival(self) -> tuple[int, int] | None:
        """Wait for an arrival of an open loop; its ordinal and its time. None when no more come."""
        slot = Slot()
        self._waiting.append(slot)
        try:
            await slot.taken
        except BaseException:
            if slot.arrival is not None:  # the user is stopped in the very moment: somebody else takes it
                self.arrive(*slot.arrival)
            raise
        return slot.arrival

    def arrive(self, ordinal: int, due_ns: int) -> None:
        """Somebody arrives, and takes a user that is idle; where there is none, the start is dropped."""
        while self._waiting:
            slot = self._waiting.pop()
            if not slot.taken.done():  # else its user has been stopped
                slot.arrival = ordinal, due_ns
                slot.taken.set_result(None)
                return
        self.client.drop(self.client.record(ordinal, due_ns))

    def send_home(self) -> None:
        """No more arrive."""
        waiting, self._waiting = self._waiting, []
        for slot in waiting:
            if not slot.taken.done():
                slot.taken.set_result(None)

    def close(self) -> None:
        """Nothing more comes: close connections and records."""
        self.client.hang_up_pool()
        self.client.log.close()


class Slot:
    """A user that waits for an arrival."""

    def __init__(self) -> None:
        self.taken = Future()
        self.arrival: tuple[int, int] | None = None


def short(client_id: str) -> str:
    """A worker's name for people: of what Locust calls it, its host and as much as tells two apart."""
    host, _, number = client_id.rpartition("_")
    return f"{host}_{number[:6]}"


class StreamFailed(Exception):
    """A stream that did not come to its end, as Locust counts failures: its outcome, and the kind of it."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}" if reason else outcome)


class _CountedLog(RawLog):
    def __init__(self, folder: Path, lane: Lane) -> None:
        super().__init__(folder, API_KEY)
        self._lane = lane

    def ended(self, record: StreamRecord, stamps_ns: array[int], counts: array[int]) -> None:
        if self._streams.closed:
            return  # a connection was being made ready for a user who came when the test was over
        super().ended(record, stamps_ns, counts)
        self._lane.ended(record, stamps_ns, counts)


class _CountedClient(Client):
    def __init__(self, plan: Plan, engine: GeventEngine, log: RawLog, taken: Taken) -> None:
        super().__init__(plan, engine, log)
        self._taken = taken

    async def stream(
        self, record: StreamRecord, profile: str, connection: Connection | None, last_event_id: str = ""
    ) -> Connection:
        if record.window:
            self._taken.begun()
        return await super().stream(record, profile, connection, last_event_id)


class Worker:
    """One test in this process. `environment` and `runner` are Locust's."""

    def __init__(self, environment: Any, options: Options, folder: Path) -> None:
        self._environment, self._options = environment, options
        self._runner = environment.runner
        self.finishing = self._leaving = self._hurried = False
        self.fault = ""
        """What this machine could not do, where there is such a thing: the figures are then worth nothing."""
        self._turns = 0
        """Streams under way, also those that wait to be asked for again."""
        set_timer_slack()
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._engine = GeventEngine()
        self.name = short(self._runner.client_id)
        self._test = folder.name
        self.folder = folder / self.name
        first = max(0, self._runner.worker_index) * ORDINALS
        self._lanes = {
            protocol: Lane(
                protocol, options, self._engine, self.folder / protocol, environment.events, first, self._test
            )
            for protocol in options.protocols
        }
        self._seq = 0
        self._users = 0
        """When it began to finish."""
        self._cleared_ns = monotonic_ns()
        self._epoch_ns = 0
        self._door_ns = 0
        """When the last user began."""
        self._lags = Histogram()
        self._cpu_share = -1.0
        self._cpu_from = self._cleared_ns, cpu_ns(os.getpid())
        self._over = gevent.event.Event()
        for lane in self._lanes.values():
            carry_out(lane.client.warm_up(WARM_UP_STREAMS))
            lane.taken.clear()
        self._work = [self._engine.start(self._probe()), self._engine.start(self._go_on())]

    # What users do.

    async def next_start(self, protocol: str) -> tuple[int, int] | None:
        """Ordinal and time of a user's next stream: now in a closed loop, else when somebody arrives; None: no more."""
        if self._options.rate:
            return await self._lanes[protocol].arrival()
        return next(self._lanes[protocol].ordinals), monotonic_ns()

    async def stream(self, protocol: str, ordinal: int, intended_ns: int) -> None:
        """Have that stream."""
        self._turns += 1
        try:
            record = await self._lanes[protocol].stream(ordinal, intended_ns)
            if record.outcome == Outcome.REFUSED and not self._options.rate:
                await self._engine.pacer.until(monotonic_ns() + REFUSED_PAUSE_NS)
        finally:
            self._turns -= 1

    async def come(self, protocol: str) -> None:
        """Be a user before its first stream."""
        now_ns = monotonic_ns()
        self._door_ns = max(now_ns, self._door_ns + (APART_OPEN_NS if self._options.rate else APART_NS))
        if self._door_ns > now_ns:
            await self._engine.pacer.until(self._door_ns)
        if not self.finishing:
            await self._lanes[protocol].keep_one()

    @property
    def protocols(self) -> Sequence[str]:
        """What clients speak in this test."""
        return self._options.protocols

    @property
    def think_s(self) -> float:
        """How long a user waits after a stream, in seconds."""
        load = self._options.load
        return load.think_s if isinstance(load, Closed) and not self._options.rate else 0.0

    # What the master says.

    def take_arrivals(self, told: Mapping[str, Any]) -> None:
        """Take this worker's share of the next arrivals: ordinals and times since the test's start, in order.

        Times are of the clock that began when the first of these messages came: no clock of another machine is read.
        """
        if not self._epoch_ns:
            self._epoch_ns = monotonic_ns() - told["elapsed_ns"]
        if told["arrivals"]:
            self._engine.start(self._let_arrive(told["arrivals"]))

    async def _let_arrive(self, arrivals: Sequence[tuple[int, int]]) -> None:
        for ordinal, offset_ns in arrivals:
            due_ns = self._epoch_ns + offset_ns
            if not self.finishing:
                await self._engine.pacer.until(due_ns)
            if self.finishing and not self._leaving:
                break
            for lane in sorted(self._lanes.values(), key=lambda lane: lane.name, reverse=bool(ordinal % 2)):
                lane.arrive(ordinal, due_ns)  # neither protocol is always the one behind

    def clear(self) -> None:
        """Forget what has been measured; streams that are open count when they end."""
        self._cleared_ns = monotonic_ns()
        self._lags = Histogram()
        self._cpu_share = -1.0
        self._cpu_from = self._cleared_ns, cpu_ns(os.getpid())
        for lane in self._lanes.values():
            lane.taken.clear()

    def finish(self, *, leaving: bool = False) -> None:
        """Start nothing more, let every open stream come to its end, and send the last report. Blocks until then.

        `leaving`: the test goes on elsewhere, so that who still was to arrive here is a start that is dropped.
        """
        if self.finishing:
            self._over.wait()
            return
        self.finishing, self._leaving = True, leaving
        self._users = self._runner.user_count
        for lane in self._lanes.values():
            lane.send_home()
        # Locust's --stop-timeout, where one is given; else no stream is cut that is within its own time.
        patience_s = self._environment.stop_timeout or self._options.scenario.timeouts.total_s
        patience_ns = monotonic_ns() + int(patience_s * NS)
        while self._turns and not self._hurried and monotonic_ns() < patience_ns:
            gevent.sleep(0.05)
        for lane in self._lanes.values():
            lane.client.stop()
        self._weigh(monotonic_ns())
        for one in self._work:
            one.cancel()
        self._engine.pacer.hurry()  # who waits to ask again would wait for ever, and Locust for that user
        gevent.sleep(0.01)
        while self._turns:
            gevent.sleep(0.01)
        self.report(final=True)
        for lane in self._lanes.values():
            lane.close()
        self._engine.pacer.close()
        self._over.set()

    def hurry(self) -> None:
        """Once it finishes, cut the streams that are open."""
        self._hurried = True

    # What the master hears.

    def report(self, *, final: bool = False) -> None:
        """Send all that has been measured since the test began, or was cleared."""
        self._seq += 1
        protocols = {}
        for protocol, lane in self._lanes.items():
            protocols[protocol] = lane.taken.report()
            if not final:
                gevent.sleep(0)  # packing histograms takes ms, and tokens come meanwhile
        lags = self._lags
        self._runner.send_message(
            REPORT,
            {
                "format": FORMAT,
                "worker": self.name,
                "test": self._test,
                "host": socket.gethostname(),
                "seq": self._seq,
                "elapsed_ns": monotonic_ns() - self._cleared_ns,
                "final": final,
                "fault": self.fault,
                "users": self._users or self._runner.user_count,
                "cpu_share": self._cpu_share,
                "cpu_ns": cpu_ns(os.getpid()),
                "loop_lag_p99_ns": _ns(lags.percentile(99)),
                "loop_lag_max_ns": _ns(lags.max_us),
                "protocols": protocols,
            },
        )

    async def _go_on(self) -> None:
        """Report for as long as the test goes."""
        while True:
            await self._engine.pacer.until(monotonic_ns() + int(REPORT_S * NS))
            now_ns = monotonic_ns()
            if now_ns - self._cpu_from[0] >= CPU_WINDOW_NS:
                self._weigh(now_ns)
            for lane in self._lanes.values():
                lane.client.log.flush()
            self.report()

    def _weigh(self, now_ns: int) -> None:
        """Take the share of a core that was used since the last time into account."""
        (since_ns, before_ns), used_ns = self._cpu_from, cpu_ns(os.getpid())
        if now_ns - since_ns >= CPU_WINDOW_NS or self._cpu_share < 0:
            self._cpu_share = max(self._cpu_share, (used_ns - before_ns) / max(1, now_ns - since_ns))
            self._cpu_from = now_ns, used_ns

    async def _probe(self) -> None:
        due_ns = monotonic_ns()
        while True:
            due_ns += PROBE_NS
            await self._engine.pacer.until(due_ns)
            now_ns = monotonic_ns()
            self._lags.add_ns((now_ns - due_ns,))
            due_ns = max(due_ns, now_ns - PROBE_NS)


def _ns(value_us: float | None) -> int:
    return -1 if value_us is None else int(value_us * 1000)
