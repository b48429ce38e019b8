"""One direction of a path as arithmetic: when does a packet that goes in now come out?"""

from __future__ import annotations

from math import ceil
from random import Random
from typing import Literal, TypeAlias

from bench.network.profiles import Network

Direction: TypeAlias = Literal["down", "up"]
"""As in `Network`: down is to the client, up to the server."""


class Line:
    """A packet waits for those before it, is sent at the line's rate, and flies for half a round trip and the jitter.

    Reads no clock and holds no packet. Whoever asks does so in the order of time, and counts in ns of any clock.
    """

    def __init__(self, network: Network, direction: Direction, seed: int, start_ns: int = 0) -> None:
        """`start_ns` is where cuts are counted from; `seed` fixes which packets are lost and how long each flies."""
        mbps = network.down_mbps if direction == "down" else network.up_mbps
        self._ns_per_byte = 8_000 / mbps if mbps else 0.0
        self._queue_ns = round(network.queue_ms * 1e6)
        self._half_ns = round(network.rtt_ms * 1e6 / 2)
        self._jitter_ns = network.jitter_ms * 1e6
        self._loss = network.loss
        self._start_ns = start_ns
        self._cut_every_ns = round(network.cut_every_s * 1e9)
        self._cut_ns = round(network.cut_ms * 1e6)
        # Two sources, so that the fate of the n-th packet does not depend on the jitter of those before it.
        self._draw_loss = Random(f"{seed} {direction} loss").random
        self._draw_jitter = Random(f"{seed} {direction} jitter").random
        self._free_ns = start_ns
        self._last_due_ns = start_ns
        self.packets = 0
        """Packets that went in, with those dropped."""
        self.bytes = 0
        self.lost = 0
        self.overflowed = 0
        """Dropped because they would have waited too long for bandwidth."""
        self.cut = 0
        """Dropped because the line was cut."""

    def take(self, now_ns: int, size: int) -> int | None:
        """Take a packet of `size` bytes; return when it comes out, never before one taken earlier, or None: dropped.

        A packet that is lost has used its share of the bandwidth; one that met a cut or a full queue has not.
        """
        self.packets += 1
        self.bytes += size
        if self._cut_ns and self.is_cut(now_ns):
            self.cut += 1
            return None
        if self.wait_ns(now_ns) > self._queue_ns:
            self.overflowed += 1
            return None
        sent_ns = self.send(now_ns, size)
        if self._loss and self.loses():
            return None
        due_ns = sent_ns + self.flight_ns()
        if due_ns < self._last_due_ns:
            return self._last_due_ns
        self._last_due_ns = due_ns
        return due_ns

    def wait_ns(self, now_ns: int) -> int:
        """How long a packet that came now would wait until those before it have been sent."""
        return max(0, self._free_ns - now_ns)

    def crowded_ns(self, now_ns: int) -> int:
        """How long it takes from now until the queue has room; 0: it has."""
        return max(0, self._free_ns - now_ns - self._queue_ns)

    def send(self, now_ns: int, size: int) -> int:
        """Send a packet of `size` bytes after those before it; return when its last byte is on its way."""
        if not self._ns_per_byte:
            return now_ns
        self._free_ns = max(now_ns, self._free_ns) + ceil(size * self._ns_per_byte)
        return self._free_ns

    def flight_ns(self) -> int:
        """Half a round trip, and the jitter of one packet."""
        return self._half_ns + int(self._jitter_ns * self._draw_jitter()) if self._jitter_ns else self._half_ns

    def loses(self) -> bool:
        """Whether the next packet is lost; counts it if so."""
        if self._draw_loss() < self._loss:
            self.lost += 1
            return True
        return False

    def is_cut(self, at_ns: int) -> bool:
        """Whether nothing gets through at that time. The first cut comes one period after the start."""
        if not self._cut_ns or not self._cut_every_ns:
            return False
        since_ns = at_ns - self._start_ns
        return since_ns >= self._cut_every_ns and since_ns % self._cut_every_ns < self._cut_ns

    def counts(self) -> dict[str, int]:
        """What went in and what did not come out."""
        names = ("packets", "bytes", "lost", "overflowed", "cut")
        return {name: getattr(self, name) for name in names}
