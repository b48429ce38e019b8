"""What every driver process does, whatever loop it runs on: the phases of one trial, in turn."""

from __future__ import annotations

import gc
import os
import platform
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec

from bench.drivers.client import Client
from bench.drivers.engine import Engine
from bench.drivers.loads import Loads
from bench.drivers.parent import Parent, say
from bench.drivers.plan import Done, Hello, PhaseDone, Plan, Waits
from bench.drivers.window import Meter
from servers.pacing import set_timer_slack

GC_POLICY = "frozen at start, off during phases, one full collection between them"
LIBRARIES = ("httptools", "websockets", "msgspec")


class Driver:
    """Runs the phases of one trial."""

    def __init__(self, plan: Plan, engine: Engine) -> None:
        self._plan = plan
        self._engine = engine
        self._parent = Parent(engine)
        self._client = Client(plan, engine)
        self._meter = Meter(plan, self._client)
        self._loads = Loads(plan, self._client, self._meter, engine, self._parent, self._turn)

    @property
    def stopped(self) -> bool:
        """Whether the trial was ended before it was over."""
        return self._client.stopped

    async def run(self, libraries: tuple[str, ...]) -> None:
        """Run all phases in order, or as far as a signal lets them; `libraries` is what the engine is made of."""
        client = self._client
        versions = {"python": platform.python_version()} | {name: version(name) for name in (*libraries, *LIBRARIES)}
        say(Hello(os.getpid(), versions, self._engine.name, GC_POLICY, self._engine.pacer.timer))
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
        self._engine.pacer.close()
        client.log.close()
        say(Done(client.streams, client.stopped))

    def stop(self) -> None:
        """Start nothing more and end what is open as cancelled."""
        self._parent.give_up()
        self._client.stop()
        self._meter.rest()
        self._engine.pacer.hurry()

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


def give_up(message: str, error: BaseException | None) -> None:
    """A fault in a callback is the instrument's: end the process at once, so that the trial counts as failed."""
    print(f"{message}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def main(path: str, run: Callable[[Plan], Driver]) -> int:
    """Have `run` carry out the plan in the file `path`. Returns the exit code: 0 done, 1 failed, 130 stopped."""
    plan = msgspec.json.decode(Path(path).read_bytes(), type=Plan)
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)
    set_timer_slack()
    # A collection stops the loop while tens of thousands of live objects are walked, and every stamp behind it is
    # late. Streams leave no cycles behind, so memory does not grow; what is left goes between phases, off the clock.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        driver = run(plan)
    except BaseException as error:
        # The parent shows the last line of what is written here.
        traceback.print_exception(error)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 130 if driver.stopped else 0
