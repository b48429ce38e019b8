"""A relay for packets: two network namespaces, an interface in each, and a line each way between them.

Handshakes, slow start and retransmission are the kernel's own. The relay wakes when a packet comes or is due; none is
passed on early.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from collections import deque
from time import monotonic_ns, process_time_ns
from typing import Any

from bench.network import namespaces
from bench.network.control import Orders, say
from bench.network.lateness import Lateness
from bench.network.line import Line
from bench.network.profiles import Network
from bench.network.scheduling import come_first
from bench.network.tun import MTU, Tun
from servers.pacing import NEVER_NS

DRIVER_ADDRESS = "10.99.0.1"
SERVER_ADDRESS = "10.99.0.2"

READ_AT_ONCE = 64
"""Packets taken in before those that are due go out: about half a millisecond of work."""


class _Way:
    """One direction: packets from one interface to the other, in order."""

    def __init__(self, source: Tun, sink: Tun, line: Line, late: Lateness) -> None:
        self.source, self.line = source, line
        self._from, self._to = source.fd, sink.fd
        self._late = late
        self._packets: deque[tuple[int, bytes]] = deque()
        self.largest = 0

    def read(self) -> None:
        """Take in what has come, up to a bound."""
        packets, take, source = self._packets, self.line.take, self._from
        for _ in range(READ_AT_ONCE):
            try:
                packet = os.read(source, 2 * MTU)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:  # IPv6 looks for routers and neighbours on every new interface
                continue
            size = len(packet)
            if size > self.largest:
                self.largest = size
            due_ns = take(monotonic_ns(), size)
            if due_ns is not None:
                packets.append((due_ns, packet))

    def write(self) -> int:
        """Pass on what is due, and return when the next packet will be."""
        packets, sink, late = self._packets, self._to, self._late.add
        while packets:
            due_ns, packet = packets[0]
            late_ns = monotonic_ns() - due_ns
            if late_ns < 0:
                return due_ns
            os.write(sink, packet)
            packets.popleft()
            late(late_ns)
        return NEVER_NS

    def counts(self) -> dict[str, int]:
        return {**self.line.counts(), "unread": self.source.unread(), "largest": self.largest}


class Relay:
    """Both interfaces, both ways, and the loop."""

    def __init__(self, network: Network, seed: int) -> None:
        """Make the namespaces. Raises `OSError` where this process may not."""
        self._user: int | None = None
        try:
            self._driver = Tun(DRIVER_ADDRESS, SERVER_ADDRESS)
        except PermissionError:
            namespaces.own_user_namespace()
            self._user = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            self._driver = Tun(DRIVER_ADDRESS, SERVER_ADDRESS)
        self._server = Tun(SERVER_ADDRESS, DRIVER_ADDRESS)
        self._start_ns = monotonic_ns()
        self._cpu_ns = process_time_ns()
        self._late = Lateness()
        self._up = _Way(self._driver, self._server, Line(network, "up", seed, self._start_ns), self._late)
        self._down = _Way(self._server, self._driver, Line(network, "down", seed, self._start_ns), self._late)

    def ready(self) -> dict[str, Any]:
        """Where it is and what it found: addresses, namespaces as paths, TCP settings."""
        files = f"/proc/{os.getpid()}/fd"
        return {
            "kind": "packets",
            "pid": os.getpid(),
            "driver": {"address": DRIVER_ADDRESS, "namespace": f"{files}/{self._driver.namespace}"},
            "server": {"address": SERVER_ADDRESS, "namespace": f"{files}/{self._server.namespace}"},
            "user_namespace": None if self._user is None else f"{files}/{self._user}",
            "mtu": MTU,
            "start_ns": self._start_ns,
            "tcp": {"driver": self._driver.sysctls(), "server": self._server.sysctls()},
        }

    def report(self) -> dict[str, Any]:
        """What went through, how late it was passed on, and what that cost."""
        cpu_ns, up, down = process_time_ns() - self._cpu_ns, self._up.counts(), self._down.counts()
        return {
            "up": up,
            "down": down,
            "late_us": self._late.summary(),
            "cpu_us": cpu_ns // 1000,
        }

    def run(self, orders: Orders, stop: int) -> None:
        """Pass packets on until stdin is closed or something can be read from `stop`."""
        up, down = self._up, self._down
        by_fd = {up.source.fd: up, down.source.fd: down}
        watched = [*by_fd, orders.fd, stop]
        while True:
            wake_ns = min(up.write(), down.write())
            # In seconds, rounded up to a microsecond by select().
            timeout_s = None if wake_ns == NEVER_NS else max(0, wake_ns - monotonic_ns()) / 1e9
            for fd in select.select(watched, (), (), timeout_s)[0]:
                if fd in by_fd:
                    by_fd[fd].read()
                elif fd == stop:
                    return
                else:
                    told = orders.read()
                    if told is None:
                        return
                    for _ in told:
                        say("report", **self.report())


def run(network: Network, seed: int) -> None:
    """Be the relay until told to stop."""
    relay = Relay(network, seed)
    # After the user namespace, which undoes it.
    namespaces.die_with_parent(signal.SIGTERM)
    awake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    gc.collect()
    gc.disable()  # packets and their times make no cycles
    say("ready", **relay.ready(), scheduling=come_first())
    relay.run(Orders(), awake.fileno())
    say("report", **relay.report())
