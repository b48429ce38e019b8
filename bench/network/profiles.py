"""Networks as data."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path between client and server, the same in both directions but for its bandwidth."""

    rtt_ms: Annotated[float, Meta(ge=0, le=60_000)]
    """Round-trip time without jitter and queueing; half of it each way."""
    jitter_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    """Every packet takes up to this much longer, each way, evenly spread; packets stay in order."""
    down_mbps: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    """Megabits per second to the client; 0: no limit."""
    up_mbps: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    """Megabits per second to the server; 0: no limit."""
    queue_ms: Annotated[float, Meta(gt=0, le=60_000)] = 200.0
    """A packet that would wait longer than this for bandwidth is dropped."""
    loss: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Share of packets lost, each way, independently."""
    cut_every_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """Every so often nothing gets through for `cut_ms`; 0: never."""
    cut_ms: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0


NETWORKS: dict[str, Network] = {
    "loopback": Network(rtt_ms=0),
    "lan": Network(rtt_ms=0.5, jitter_ms=0.05, down_mbps=1000, up_mbps=1000),
    "wifi": Network(rtt_ms=6, jitter_ms=3, down_mbps=100, up_mbps=50, loss=0.0005),
    "4g": Network(rtt_ms=50, jitter_ms=10, down_mbps=20, up_mbps=8, loss=0.001),
    "3g": Network(rtt_ms=150, jitter_ms=30, down_mbps=1.6, up_mbps=0.75, loss=0.003),
    "lossy-wifi": Network(rtt_ms=20, jitter_ms=15, down_mbps=30, up_mbps=10, loss=0.02),
    "transpacific": Network(rtt_ms=160, jitter_ms=2, down_mbps=200, up_mbps=200, loss=0.0005),
}
"""Shipped. Rounded from what is typical: no path of that name has just these figures."""
