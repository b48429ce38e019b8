"""The asyncio driver: `python -m bench.drivers.asyncio_ PLAN.json` runs one trial's phases and leaves raw logs.

One event loop (uvloop) serves every wire protocol; loads are coroutines, streams are sessions on connections.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import signal
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench.drivers.client import Client
from bench.drivers.loads import Loads
from bench.drivers.parent import Parent, say
from bench.drivers.plan import Done, Hello, PhaseDone, Plan, Waits
from bench.drivers.window import Meter
from servers.pacing import Pacer, set_timer_slack

GC_POLICY = "frozen at start, off during phases, one full collection between them"
VERSIONS = {
    "python": platform.python_version(),
    **{name: version(name) for name in ("uvloop", "httptools", "websockets", "msgspec")},
}


class Driver:
    """Runs the phases of one trial."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self._plan = plan
        self._pacer = Pacer(loop)
        self._parent = Parent(loop)
        self._client = Client(plan, loop, self._pacer)
        self._meter = Meter(plan, self._pacer, self._client)
        self._loads = Loads(plan, self._client, self._meter, self._pacer, self._parent, self._turn)

    @property
    def stopped(self) -> bool:
        """Whether the trial was ended before it was over."""
        return self._client.stopped

    async def run(self) -> None:
        """Run all phases in order, or as far as a signal lets them."""
        client = self._client
        say(Hello(os.getpid(), VERSIONS, "uvloop", GC_POLICY, self._pacer.timer))
        await self._turn()
        await client.warm_up(self._plan.warm_up)
        for name, phase in self._plan.scenario.phases.items():
            if client.stopped:
                break
            client.enter(name, phase)
            facts = await self._loads.run(phase)
            client.hang_up_pool()
            self._meter.take_lags(facts)
            say(PhaseDone(name, facts))
        # The end of a process takes CPU, too.
        await self._turn()
        self._meter.rest()
        self._pacer.close()
        client.log.close()
        say(Done(client.streams, client.stopped))

    def stop(self) -> None:
        """Start nothing more and end what is open as cancelled."""
        self._parent.give_up()
        self._client.stop()
        self._meter.rest()
        self._pacer.hurry()

    async def _turn(self) -> None:
        """Put everything away, say so, and do nothing until told to go on, so that others can use the cores."""
        self._meter.rest()
        self._client.log.flush()
        gc.collect()
        await self._meter.server_quiet()
        say(Waits())
        if await self._parent.line() == b"":
            self.stop()  # there is no parent to write for
        if not self.stopped:
            self._meter.watch()


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
