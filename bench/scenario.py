"""What to measure, as strictly typed data. `bench.scenario_toml` reads it from TOML; nothing here touches a file."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from servers.emitter import Constant, Fixed, Profile
from servers.plant import Plant

Protocol = Literal["sse", "websocket"]
Stack = Literal["aiohttp", "websockets", "roofline"]
Mode = Literal["equal", "as-deployed"]
Connections = Literal["cold", "warm"]

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Pause = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Users = Annotated[int, Meta(ge=1, le=20_000)]
Slices = Annotated[int, Meta(ge=1, le=1000)]

OFFERS: dict[str, tuple[str, ...]] = {
    "aiohttp": ("sse", "websocket"),
    "websockets": ("websocket",),
    "roofline": ("sse", "websocket"),
}
"""The protocols each server stack offers."""

PRIME_PROFILE = "prime"
"""The name of `PRIME`; reserved."""
PRIME = Profile(first=Constant(ms=0), gap=Constant(ms=0), length=Fixed(tokens=1))
"""The one-token profile with which kept connections are primed before a window."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table: keys that are not named here are refused."""


class Arm(Table, frozen=True):
    """One thing to compare: a protocol on a server stack, with that stack's settings."""

    protocol: Protocol
    stack: Stack
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    compression: bool | None = None
    """permessage-deflate; unset leaves it to the mode."""
    heartbeat_s: Annotated[float, Meta(ge=0, le=3600)] | None = None
    """Keep-alive comments or pings after this many seconds; 0 for none; unset leaves it to the mode."""
    plant: Plant | None = None
    """A slow-down or fault planted in the server, to see whether the comparison finds it."""

    def __post_init__(self) -> None:
        if self.protocol not in OFFERS[self.stack]:
            allowed = " or ".join(repr(p) for p in OFFERS[self.stack])
            raise ValueError(f"stack {self.stack!r} does not offer protocol {self.protocol!r}; it offers {allowed}")
        if self.compression and self.protocol == "sse":
            raise ValueError("compression = true needs protocol 'websocket': event streams are never compressed here")
        if self.plant is not None and self.plant.split_writes and self.protocol != "sse":
            raise ValueError("plant.split_writes = true needs protocol 'sse': a WebSocket message is one frame")


class Phase(Table, frozen=True):
    """What every phase has, whatever its load.

    The trials of a block take turns: a phase in several `slices` gives the turn away between them, each slice ending
    only when its last stream has.
    """

    profile: str
    """The name of the emitter's profile, a key of `profiles`."""
    connections: Connections
    """`cold`: one connection per stream; `warm`: connections opened and primed before the window, and kept."""


class Closed(Phase, frozen=True, tag="closed", tag_field="load"):
    """`users` streams at a time: a user's next stream starts `think_s` after its last one ended."""

    users: Users
    turns: Count | None = None
    """Streams per user: the same work on every arm, however long it takes."""
    duration_s: Seconds | None = None
    """Instead of `turns`: no stream starts after this; those that did are drained."""
    think_s: Pause = 0.0
    ramp_s: Pause = 0.0
    """In each slice users start evenly spread over this time, so that they do not move in step."""
    slices: Slices = 1
    """`turns` or `duration_s` are divided among so many turns of the arm."""

    def __post_init__(self) -> None:
        if (self.turns is None) == (self.duration_s is None):
            raise ValueError("a closed load takes either turns or duration_s, one of the two")
        if self.turns is not None and self.turns % self.slices:
            raise ValueError(f"slices = {self.slices} does not divide turns = {self.turns}: slices are of equal work")


class Open(Phase, frozen=True, tag="open", tag_field="load"):
    """Streams start at absolute times, however the earlier ones fare."""

    rate: Annotated[float, Meta(ge=0.001, le=100_000)]
    """Streams per second."""
    duration_s: Seconds
    arrivals: Literal["constant", "poisson"] = "poisson"
    pool: Annotated[int, Meta(ge=0, le=20_000)] = 0
    """Warm connections kept ready; an arrival that finds none idle opens one and is recorded cold."""
    max_open: Users = 10_000
    """A start that would pass this many open streams is dropped, and recorded as dropped."""
    slices: Slices = 1
    """`duration_s` is divided into so many turns of the arm."""

    def __post_init__(self) -> None:
        if self.connections == "warm" and self.pool == 0:
            raise ValueError("an open load over warm connections needs pool >= 1, the connections kept ready")
        if self.connections == "cold" and self.pool > 0:
            raise ValueError("pool is for connections = 'warm'; leave it out over cold connections")


class Steps(Phase, frozen=True, tag="steps", tag_field="load"):
    """Closed loads of growing size, until the p99 of `gap_excess` passes `limit_ms`."""

    users: Annotated[list[Users], Meta(min_length=1, max_length=50)]
    turns: Count
    limit_ms: Annotated[float, Meta(gt=0, le=60_000)]
    ramp_s: Pause = 0.0

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.users, self.users[1:], strict=False)):
            raise ValueError("users must grow from step to step")


AnyPhase = Closed | Open | Steps


class Timeouts(Table, frozen=True):
    """How long each part of a stream may take, in seconds. What runs out is the stream's outcome."""

    connect_s: Seconds = 5.0
    """From connect() to an established TCP connection."""
    head_s: Seconds = 10.0
    """From there, or from the request, to the head of the reply (SSE) or the 101 (WebSocket)."""
    first_s: Seconds = 30.0
    """From the request to the first content."""
    gap_s: Seconds = 30.0
    """From one content chunk to the next."""
    total_s: Seconds = 300.0
    """From the start to the end."""


class Experiment(Table, frozen=True):
    """How often, and how fairly."""

    blocks: Annotated[int, Meta(ge=1, le=1000)] = 10
    """Every block runs each arm once, side by side with the others, in random order. Not used with `budget_s`."""
    budget_s: Seconds | None = None
    """Run blocks until the intervals of the primary measures are narrow enough, or this time does not hold another."""
    roofline: bool = True
    """Before the blocks, run each protocol once on the server stack without a library, for the machine's ceiling."""
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 1
    mode: Mode = "equal"


class Primary(Table, frozen=True):
    """A measure that decides: at most three of them, named before the first trial."""

    phase: str
    measure: str
    """A key of `bench.measures.MEASURES` that is compared as a difference or a ratio."""
    smallest_effect: Annotated[float, Meta(gt=0, le=10_000)]
    """What is worth knowing: ms for a latency, a share (0.03 for 3 %) for costs and rates."""
    statistic: str = "value"
    """The percentile within a trial, or "value" for a measure that is one number a trial."""
    temperature: Literal["cold", "warm"] | None = None
    """Of the streams; unset takes the phase's `connections`."""


class Contrast(Table, frozen=True):
    """Two arms to compare: what the other is against the baseline."""

    baseline: str
    other: str


class Scenario(Table, frozen=True):
    """A whole experiment. Raises `ValueError` (through msgspec) when its parts do not fit each other."""

    name: str
    title: str
    arms: dict[str, Arm]
    profiles: dict[str, Profile]
    phases: dict[str, AnyPhase]
    contrasts: dict[str, Contrast]
    primary: dict[str, Primary] = {}
    experiment: Experiment = Experiment()
    timeouts: Timeouts = Timeouts()
