"""Locust's users: each has one stream after the other over its protocol, or waits for arrivals."""

from __future__ import annotations

import logging
from typing import Any

import gevent
from locust import User, tag, task
from locust.exception import StopUser

from bench.drivers.client import InstrumentFault
from bench.drivers.gevent_ import carry_out
from bench.swarm.worker import Worker


class StreamUser(User):
    """A client of one protocol. Its streams are those of the test that is under way in this process."""

    abstract = True
    protocol = ""
    worker: Worker | None = None
    """Of the test under way; set when one starts."""
    ready = gevent.event.Event()
    """Whether one has been set. Who joins a test under way is given users before it hears of the test."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._leaving = False
        self._idle = gevent.event.Event()
        self._idle.set()

    def on_start(self) -> None:
        """Have a connection ready, where connections are kept."""
        self.ready.wait()
        worker = self.worker
        if worker is not None and not worker.finishing and self.protocol in worker.protocols:
            carry_out(worker.come(self.protocol))

    def wait_time(self) -> float:
        """Seconds between streams, as the scenario says."""
        return self.worker.think_s if self.worker is not None else 0.0

    def turn(self) -> None:
        """Have one stream; be done when the test ends or this user is to stop."""
        worker = self.worker
        if self._leaving or worker is None or worker.finishing or self.protocol not in worker.protocols:
            raise StopUser
        start: tuple[int, int] | None = carry_out(worker.next_start(self.protocol))
        if start is None:
            raise StopUser
        self._idle.clear()
        try:
            carry_out(worker.stream(self.protocol, *start))
        except InstrumentFault as fault:
            if not worker.fault:
                logging.getLogger(__name__).error("tokenwire: %s", fault)
                worker.fault = str(fault)
            raise StopUser from fault
        finally:
            self._idle.set()

    def stop(self, force: bool = False) -> bool:
        """Stop when the stream under way, if any, is over: none is cut because there are to be fewer users."""
        self._leaving = True
        if force:
            self._idle.wait()
        # Who waits for somebody to arrive has nothing to finish, however long that takes.
        return bool(super().stop(force or self._idle.is_set()))


class SSEUser(StreamUser):
    """Streams over Server-Sent Events."""

    protocol = "sse"

    @tag("sse")
    @task
    def stream(self) -> None:
        """One stream."""
        self.turn()


class WebSocketUser(StreamUser):
    """Streams over WebSocket."""

    protocol = "websocket"

    @tag("websocket", "ws")
    @task
    def stream(self) -> None:
        """One stream."""
        self.turn()
