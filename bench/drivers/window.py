"""What is measured around streams: CPU time, memory, clocks and the driver's own lag."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
from collections.abc import AsyncIterator
from time import monotonic_ns

from bench.arrivals import NS
from bench.drivers.client import Client
from bench.drivers.engine import Handle
from bench.drivers.parent import say
from bench.drivers.plan import Back, Held, PhaseFacts, Plan, Slice, Tick
from bench.usage import (
    clocks,
    cpu_ns,
    memory_bytes,
    steal_ns,
    tree_cpu_ns,
    tree_memory_bytes,
    tree_wait_ns,
    wait_ns,
)

PROBE_NS = 20_000_000
"""The driver's own loop is probed this often; what it is late is its lag."""
QUIET_NS, QUIET_PAUSE_NS, QUIET_TRIES = 100_000, 5_000_000, 40
"""Before the turn is given away the server has used less CPU than this in one such pause, or in the last of the tries:
what it still does for closed connections would weigh on whoever comes next."""


class Meter:
    """Watches a server, its driver and the machine while streams run."""

    def __init__(self, plan: Plan, client: Client) -> None:
        self._pinned = plan.pinned
        self._client = client
        self._pacer = client.engine.pacer
        self.server_pid = plan.server_pid
        tree = plan.server_tree
        self._cpu_ns = tree_cpu_ns if tree else cpu_ns
        self._wait_ns = tree_wait_ns if tree else wait_ns
        self._memory_bytes = tree_memory_bytes if tree else memory_bytes
        self._server_cpu_last_ns = self._server_used_ns = 0
        """The latter: CPU time of servers that have died, less what the one there now had used when it took over."""
        self._facts = PhaseFacts()
        self._lags: list[int] = []
        self._probing: Handle | None = None
        self._measuring = False

    def watch(self) -> None:
        """Begin to probe the loop."""
        self._probing = self._client.engine.start(self._probe())

    def rest(self) -> None:
        """Stop probing."""
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None

    def take_lags(self, facts: PhaseFacts) -> None:
        """Put the lags of a phase, which is over, into its facts."""
        lags = sorted(self._lags)
        self._lags.clear()
        if lags:
            facts.loop_lag_p99_ns = lags[min(len(lags) - 1, int(len(lags) * 0.99))]
            facts.loop_lag_max_ns = lags[-1]

    def adopt(self, back: Back) -> None:
        """The server has died, and this one took over."""
        self._server_used_ns += self._server_cpu_last_ns
        self.server_pid = back.server_pid
        self._server_cpu_last_ns = self._cpu_ns(back.server_pid)
        self._server_used_ns -= self._server_cpu_last_ns

    @contextlib.asynccontextmanager
    async def window(self, facts: PhaseFacts) -> AsyncIterator[int]:
        """Measure what happens inside, into `facts`; yields the start, in ns."""
        self._facts, pid = facts, self.server_pid
        with contextlib.suppress(OSError):  # a dead server shows in the outcomes
            facts.server_rss_start = self._memory_bytes(pid)
        facts.driver_rss_start = memory_bytes(os.getpid())
        self._measuring = True
        before, clocks_before, chunks = self._used(), clocks(), self._client.counters.chunks
        facts.window_start_ns = monotonic_ns()
        try:
            yield facts.window_start_ns
        except BaseException:
            self._measuring = False  # of a window that failed nothing is asked: looking might fail for the same reason
            raise
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
                self._client.counters.chunks - chunks,
                facts.server_cpu_ns,
                facts.driver_cpu_ns,
            )
        ]
        _, facts.steal_cores = steal_ns(self._pinned)
        self._sample_memory()

    def _used(self) -> tuple[int, int, int, int, int]:
        """CPU time of server and driver, their waits for a core, and the time stolen from both, so far (ns)."""
        me, server = os.getpid(), self.server_pid
        stolen, _ = steal_ns(self._pinned)
        return self.server_cpu_ns(), cpu_ns(me), self._wait_ns(server), wait_ns(me), stolen

    def server_cpu_ns(self) -> int:
        """CPU time of the servers of this trial, so far."""
        with contextlib.suppress(OSError):  # one that is dead used what it had used
            self._server_cpu_last_ns = self._cpu_ns(self.server_pid)
        return self._server_used_ns + self._server_cpu_last_ns

    async def server_quiet(self) -> None:
        """Wait until the server has nothing left to do, but not for long."""
        used = self.server_cpu_ns()
        for _ in range(QUIET_TRIES):
            await self._pacer.until(monotonic_ns() + QUIET_PAUSE_NS)
            before, used = used, self.server_cpu_ns()
            if used - before < QUIET_NS:
                break

    def _sample_memory(self) -> tuple[int, int]:
        """Memory of server and driver now, in bytes; 0 for a server that is dead, and where it cannot be read."""
        facts = self._facts
        driver = server = 0
        with contextlib.suppress(OSError):
            driver = memory_bytes(os.getpid())
            server = self._memory_bytes(self.server_pid)
        facts.driver_rss_peak = max(facts.driver_rss_peak, driver)
        facts.server_rss_peak = max(facts.server_rss_peak, server)
        return server, driver

    async def hold(self, size: int, hold_s: float) -> Held:
        """Let the streams that are open go on for a while, and say what that took."""
        flowing, chunks = self._client.flowing(), self._client.counters.chunks
        server_ns, driver_ns, start_ns = self.server_cpu_ns(), cpu_ns(os.getpid()), monotonic_ns()
        await self._pacer.until(start_ns + int(hold_s * NS))
        hold_ns = monotonic_ns() - start_ns
        server_ns, driver_ns = self.server_cpu_ns() - server_ns, cpu_ns(os.getpid()) - driver_ns
        server_memory = 0
        with contextlib.suppress(OSError):
            server_memory = self._memory_bytes(self.server_pid)
        return Held(
            size=size,
            open=min(flowing, self._client.flowing()),
            hold_ns=hold_ns,
            chunks=self._client.counters.chunks - chunks,
            server_cpu_ns=server_ns,
            driver_cpu_ns=driver_ns,
            server_memory=server_memory,
            driver_memory=memory_bytes(os.getpid()),
        )

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
                client = self._client
                recent = client.recent_ttft_ns
                ttft_ms = statistics.median(recent) / 1e6 if recent else None
                memory = self._sample_memory() if self._measuring else (0, 0)
                say(Tick(client.phase, len(client.busy), client.counters.chunks, ttft_ms, client.streams, *memory))


def _since(before: int, after: int) -> int:
    """What has come since, nothing where a server has died meanwhile; -1 where it is not known."""
    return -1 if min(before, after) < 0 else max(0, after - before)
