"""Absolute deadlines for thousands of streams: one heap and one timer per event loop.

Event-loop timers round to a millisecond, and a timer per token costs more than the token. Here every stream waits on a
future in one heap; a timerfd armed for the earliest deadline wakes the loop, which releases what is due. A deadline is
never released early.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from time import monotonic_ns
from typing import Any, Protocol

BATCH = 32
"""Streams released per iteration of the loop. Between batches the loop polls its sockets, so accepts, cancels and
departures are seen, and uvloop flushes what was written: at 10 us a token it holds writes back for 0.3 ms at most."""

NEVER_NS = 2**63 - 1

_PR_SET_TIMERSLACK = 29
_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME = 1


def set_timer_slack(slack_ns: int = 1) -> bool:
    """Ask the kernel not to round this thread's sleeps (50 us by default); return whether it agreed (Linux only)."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(slack_ns), 0, 0, 0) == 0)


class Waiter(Protocol):
    """What an event loop makes for who waits: `asyncio.Future`, or the like of it."""

    def done(self) -> bool: ...

    def set_result(self, result: None, /) -> None: ...

    def __await__(self) -> Generator[Any, None, None]: ...


class Loop(Protocol):
    """What is asked of an event loop: each as asyncio's does it."""

    def create_future(self) -> Waiter: ...

    def call_soon(self, callback: Callable[[], object], /) -> object: ...

    def call_later(self, delay_s: float, callback: Callable[[], object], /) -> Any: ...

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class TimerFd:
    """A Linux timer that is read like a socket: see timerfd_create(2). Raises `OSError` where there is none.

    It is never read. Arming or disarming it anew takes back an expiry that has not been read, which is all that is
    needed and saves a system call per wake-up.
    """

    name = "timerfd"

    def __init__(self, loop: Loop, fire: Callable[[], None]) -> None:
        if sys.platform != "linux":
            raise OSError("timerfd is a Linux call")
        # PyDLL keeps the GIL: letting go of it costs more than the call, and there is no other thread.
        library = ctypes.PyDLL(None, use_errno=True)
        self._fd = library.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._settime = library.timerfd_settime
        self._spec = _Itimerspec()
        self._value = self._spec.value
        self._address = ctypes.byref(self._spec)
        self._loop = loop
        loop.add_reader(self._fd, fire)

    def arm(self, due_ns: int) -> None:
        """Fire at `due_ns` of CLOCK_MONOTONIC, at once when that has passed."""
        self._value.seconds, self._value.nanoseconds = divmod(due_ns, 1_000_000_000)
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._address, None)

    def disarm(self) -> None:
        """Do not fire, and forget an expiry that nobody has seen."""
        self._value.seconds = self._value.nanoseconds = 0
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._address, None)

    def close(self) -> None:
        """Give the descriptor back."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class LoopTimer:
    """The event loop's own timers, for systems without timerfd. May fire early; the pacer then arms it again."""

    name = "loop"

    def __init__(self, loop: Loop, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: Any = None

    def arm(self, due_ns: int) -> None:
        """Fire at about `due_ns`."""
        self.disarm()
        self._handle = self._loop.call_later(max(0, due_ns - monotonic_ns()) / 1e9, self._fire)

    def disarm(self) -> None:
        """Do not fire."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    close = disarm


def _timer(loop: Loop, fire: Callable[[], None]) -> TimerFd | LoopTimer:
    try:
        return TimerFd(loop, fire)
    except OSError:
        return LoopTimer(loop, fire)


class Pacer:
    """Wakes whoever waits for a deadline, in the order of the deadlines. One per event loop, on its thread."""

    def __init__(
        self,
        loop: Loop,
        timer: Callable[[Loop, Callable[[], None]], TimerFd | LoopTimer] = _timer,
        clock_ns: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._loop = loop
        self._create_future = loop.create_future
        self._clock_ns = clock_ns
        self._timer = timer(loop, self._release)
        self._heap: list[tuple[int, int, Waiter]] = []
        self._calls = 0
        # When `_release` will run: 0 when it is already queued in the loop.
        self._wake_ns = NEVER_NS
        self._armed = False

    @property
    def timer(self) -> str:
        """What wakes it: "timerfd" or "loop"."""
        return self._timer.name

    def until(self, due_ns: int) -> Waiter:
        """Return a future that is done at `due_ns` of CLOCK_MONOTONIC or a little later, never earlier.

        It is never done on return, even when the deadline has passed: whoever is late goes to the end of the queue of
        the late, and the loop turns. So each token is a write of its own, and a stream without pauses starves nobody.
        """
        waiter = self._create_future()
        now_ns = self._clock_ns()
        if due_ns < now_ns:
            due_ns = now_ns
        self._calls += 1
        heappush(self._heap, (due_ns, self._calls, waiter))
        if due_ns < self._wake_ns:
            if due_ns == now_ns:
                self._wake_ns = 0
                self._loop.call_soon(self._release)
            else:
                self._wake_ns = due_ns
                self._armed = True
                self._timer.arm(due_ns)
        return waiter

    def _release(self) -> None:
        """Wake a batch of those whose deadline has passed, and see to it that the next are woken in time."""
        heap = self._heap
        now_ns = self._clock_ns()
        left = BATCH
        while heap and heap[0][0] <= now_ns:
            waiter = heap[0][2]
            # A waiter that is done was cancelled: its stream ended before the deadline.
            if not waiter.done():
                if not left:
                    self._wake_ns = 0
                    self._loop.call_soon(self._release)
                    break
                left -= 1
                waiter.set_result(None)
            heappop(heap)
        else:
            self._wake_ns = heap[0][0] if heap else NEVER_NS
            if heap:
                self._armed = True
                self._timer.arm(self._wake_ns)
                return
        # An expired timer that is not armed anew would go on firing.
        if self._armed:
            self._armed = False
            self._timer.disarm()

    def hurry(self) -> None:
        """Wake all who wait, and let nobody wait from now on: what is being stopped need not be punctual."""
        self._clock_ns = lambda: NEVER_NS - 1
        self._loop.call_soon(self._release)

    def close(self) -> None:
        """Release the timer. Those still waiting are left to whoever cancels their tasks."""
        self._timer.close()
