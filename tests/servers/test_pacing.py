"""The pacer: never early, in order, fair, and not in the way of the loop."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
from collections.abc import Awaitable, Callable
from time import monotonic_ns

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.pacing import BATCH, LoopTimer, Pacer, TimerFd, set_timer_slack

TIMERS = [LoopTimer, pytest.param(TimerFd, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"))]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class HandTimer(LoopTimer):
    """A timer that fires when told to."""

    armed_ns: int | None = None

    def arm(self, due_ns: int) -> None:
        self.armed_ns = due_ns

    def disarm(self) -> None:
        self.armed_ns = None


class HandClock:
    """A clock that stands still."""

    now_ns = 1000

    def __call__(self) -> int:
        return self.now_ns


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], Awaitable[None]]) -> None:
    async def guarded() -> None:
        async with asyncio.timeout(20):
            await main()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(guarded())


@pytest.mark.parametrize("loop_factory", LOOPS)
@pytest.mark.parametrize("timer", TIMERS)
def test_never_early_and_in_order(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], timer: type[TimerFd | LoopTimer]
) -> None:
    async def main() -> None:
        pacer = Pacer(asyncio.get_running_loop(), timer)
        base = monotonic_ns()
        dice = random.Random(2)
        # Far enough off for all to wait before the first is due, also on a machine that is busy elsewhere.
        dues = [base + dice.randrange(500_000_000, 550_000_000) for _ in range(400)]
        woken: list[tuple[int, int]] = []

        async def wait(due: int) -> None:
            await pacer.until(due)
            woken.append((monotonic_ns(), due))

        await asyncio.gather(*map(wait, dues))
        assert all(now >= due for now, due in woken)
        assert [due for _, due in woken] == sorted(dues)
        pacer.close()

    run(loop_factory, main)


@given(st.lists(st.integers(1001, 1100), min_size=1, max_size=200), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_release_by_a_clock_of_our_own(dues: list[int], dice: random.Random) -> None:
    """Whatever the deadlines: exactly the due are released, those cancelled are passed over, the timer is armed."""

    async def main() -> None:
        clock = HandClock()
        timers: list[HandTimer] = []

        def timer(loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> HandTimer:
            timers.append(HandTimer(loop, fire))
            return timers[0]

        pacer = Pacer(asyncio.get_running_loop(), timer, clock)
        waiters = [(due, pacer.until(due)) for due in dues]
        for _, waiter in waiters:
            if dice.random() < 0.2:
                waiter.cancel()
        while any(not waiter.done() for _, waiter in waiters):
            assert timers[0].armed_ns is not None
            clock.now_ns = timers[0].armed_ns + dice.randrange(20)
            timers[0]._fire()
            for _ in range(len(dues) // BATCH + 2):
                await asyncio.sleep(0)
            assert all(waiter.done() == (due <= clock.now_ns) for due, waiter in waiters if not waiter.cancelled())
        assert timers[0].armed_ns is None or any(waiter.cancelled() for _, waiter in waiters)

    asyncio.run(main())


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_the_late_take_turns_and_the_loop_turns_too(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        pacer = Pacer(asyncio.get_running_loop())
        counts = [0] * (3 * BATCH)
        turns = 0
        stop = False

        async def unpaced(index: int) -> None:
            while not stop:
                waiter = pacer.until(0)
                assert not waiter.done(), "even the late give the loop back"
                await waiter
                counts[index] += 1

        tasks = [asyncio.create_task(unpaced(index)) for index in range(len(counts))]
        while min(counts) < 50:
            turns += 1
            before = sum(counts)
            await asyncio.sleep(0)
            assert sum(counts) - before <= 2 * BATCH, "between two turns of the loop runs a batch, not everyone"
        assert max(counts) - min(counts) <= 1, "first come, first served"
        assert turns > 50
        stop = True
        await asyncio.gather(*tasks)
        pacer.close()

    run(loop_factory, main)


def test_a_deadline_is_met_among_the_late() -> None:
    async def main() -> None:
        pacer = Pacer(asyncio.get_running_loop())
        stop = False

        async def unpaced() -> None:
            while not stop:
                await pacer.until(0)

        tasks = [asyncio.create_task(unpaced()) for _ in range(200)]
        due = monotonic_ns() + 20_000_000
        await pacer.until(due)
        assert monotonic_ns() >= due
        stop = True
        await asyncio.gather(*tasks)
        pacer.close()

    asyncio.run(main())


def test_nothing_is_left_behind() -> None:
    async def main() -> None:
        pacer = Pacer(asyncio.get_running_loop())
        tasks = [asyncio.create_task(asyncio.wait_for(pacer.until(monotonic_ns() + 10**6), None)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pacer.until(monotonic_ns() + 2_000_000)
        pacer.close()
        gc.collect()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_timer_slack_is_told() -> None:
    assert set_timer_slack() is (sys.platform == "linux")
