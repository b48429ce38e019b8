"""The Locust driver: `python -m bench.drivers.locust_ PLAN.json` runs one trial's phases through Locust as a library.

The users of closed loads are Locust's, started and stopped by its runner; arrivals of open loads are greenlets, because
Locust has users and no arrivals. What a stream is, and its stamps, are those of every driver.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import gevent
from gevent.hub import get_hub
from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

from bench.drivers.driver import Driver, give_up, main
from bench.drivers.engine import Users, Work
from bench.drivers.gevent_ import Future, GeventEngine, carry_out
from bench.drivers.plan import Plan


class Cast:
    """The users of one load: they come to their places, begin together, and are over when all are."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._places: list[Future] = []
        self._work: Callable[[int], Work] | None = None
        self._left = size
        self._error: BaseException | None = None
        self.complete, self._over = Future(), Future()

    def play(self) -> None:
        """Be one of the users, from coming to leaving."""
        number, turn = len(self._places), Future()
        self._places.append(turn)
        if len(self._places) == self._size:
            self.complete.set_result(None)
        try:
            carry_out(_wait(turn))
            if self._work is not None:
                carry_out(self._work(number))
        except gevent.GreenletExit:
            raise
        except BaseException as error:
            self._error = self._error or error
            self._over.set_result(None)
        self._left -= 1
        if not self._left:
            self._over.set_result(None)

    async def run(self, work: Callable[[int], Work]) -> None:
        """Have every user do its work, and wait until all have."""
        self._work = work
        for place in self._places:
            place.set_result(None)
        await self._over
        if self._error is not None:
            raise self._error


async def _wait(future: Future) -> None:
    await future


class LocustEngine(GeventEngine):
    """gevent's hub, with users that Locust's runner starts."""

    name = "gevent, by Locust"

    def __init__(self) -> None:
        super().__init__()
        engine = self

        class StreamUser(User):
            """A user that does what the load says, and is done."""

            @task
            def play(self) -> None:
                """All of its streams, one after another."""
                engine.cast.play()
                raise StopUser

        self.cast = Cast(0)
        self._environment = Environment(user_classes=[StreamUser], catch_exceptions=False)
        self._runner = self._environment.create_local_runner()

    @asynccontextmanager
    async def users(self, count: int) -> AsyncIterator[Users]:
        """So many users, ready to begin inside and gone behind it."""
        self.cast = Cast(count)
        self._runner.start(count, spawn_rate=count)  # when each begins is the load's to say
        try:
            await self.cast.complete
            yield self.cast.run
        finally:
            self._runner.stop()


def run(plan: Plan) -> Driver:
    """Carry out a plan."""
    logging.getLogger("locust").setLevel(logging.ERROR)  # it would warn of the rate at which users are made

    def fault(context: object, _kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        traceback.print_exception(error)
        give_up(f"in {context!r}", error)

    get_hub().handle_error = fault
    driver = Driver(plan, LocustEngine())
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, driver.stop)
    carry_out(driver.run(("locust", "gevent")))
    return driver


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], run))
