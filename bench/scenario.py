"""What to measure, as strictly typed data. `bench.scenario_toml` reads it from TOML; nothing here touches a file."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench.network.profiles import NETWORKS, Network
from servers.emitter import Constant, Fixed, Profile
from servers.faults import Fault
from servers.plant import Plant

Protocol = Literal["sse", "websocket"]
Stack = Literal["aiohttp", "websockets", "roofline", "faulty"]
Mode = Literal["equal", "as-deployed"]
Connections = Literal["cold", "warm"]
Driver = Literal["asyncio", "locust"]

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Pause = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Users = Annotated[int, Meta(ge=1, le=20_000)]
Slices = Annotated[int, Meta(ge=1, le=1000)]
Share = Annotated[float, Meta(gt=0, le=1)]

OFFERS: dict[str, tuple[str, ...]] = {
    "aiohttp": ("sse", "websocket"),
    "websockets": ("websocket",),
    "roofline": ("sse", "websocket"),
    "faulty": ("sse", "websocket"),
}
"""The protocols each server stack offers."""

PRIME_PROFILE = "prime"
"""The name of `PRIME`; reserved."""
PRIME = Profile(first=Constant(ms=0), gap=Constant(ms=0), length=Fixed(tokens=1))
"""The one-token profile with which kept connections are primed before a window."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A TOML table: keys that are not named here are refused."""


class Tree(Table, frozen=True):
    """A checkout of this project, and what runs its servers: another revision than this one, say."""

    path: Annotated[str, Meta(min_length=1)]
    """The folder that has the package `servers`."""
    python: Annotated[str, Meta(min_length=1)]
    """The interpreter, with what those servers need installed."""


class Arm(Table, frozen=True):
    """One thing to compare: a protocol on a server stack, with that stack's settings."""

    protocol: Protocol
    stack: Stack
    loop: Literal["uvloop", "asyncio"] = "uvloop"
    compression: bool | None = None
    """permessage-deflate; unset leaves it to the mode."""
    heartbeat_s: Annotated[float, Meta(ge=0, le=3600)] | None = None
    """Keep-alive comments or pings after this many seconds; 0 for none; unset leaves it to the mode."""
    tls: bool | None = None
    """Unset leaves it to the experiment's."""
    driver: Driver | None = None
    """Unset leaves it to the experiment's."""
    plant: Plant | None = None
    """A slow-down or fault planted in the server, to see whether the comparison finds it."""
    tree: Tree | None = None
    """The server is that of another checkout; unset takes this installation's. Both its paths should be absolute."""
    command: str | None = None
    """Instead of a server of the stack, whatever this command serves at 127.0.0.1: {port} becomes its port, {upstream}
    the address of a server of the stack. Split as a shell would, but run without one."""

    def __post_init__(self) -> None:
        if self.protocol not in OFFERS[self.stack]:
            allowed = " or ".join(repr(p) for p in OFFERS[self.stack])
            raise ValueError(f"stack {self.stack!r} does not offer protocol {self.protocol!r}; it offers {allowed}")
        if self.compression and self.protocol == "sse":
            raise ValueError("compression = true needs protocol 'websocket': event streams are never compressed here")
        if self.plant is not None and self.plant.split_writes and self.protocol != "sse":
            raise ValueError("plant.split_writes = true needs protocol 'sse': a WebSocket message is one frame")
        if self.command is not None:
            self._check_command(self.command)

    def _check_command(self, command: str) -> None:
        try:
            shlex.split(command)
        except ValueError as error:
            raise ValueError(f"command = {command!r}: cannot be split into words: {error}") from None
        unknown = sorted(set(re.findall(r"\{\w*\}", command)) - {"{port}", "{upstream}"})
        if unknown:
            raise ValueError(f"command has {unknown[0]}, which nothing stands for; allowed: {{port}}, {{upstream}}")
        if "{port}" not in command:
            raise ValueError("command needs {port}, in whose place it is told where to listen: gateway --port {port}")
        if self.tree is not None:
            raise ValueError("command and tree: the server is the one or the other; leave one out")
        for name in ("plant", "heartbeat_s"):
            if getattr(self, name) is not None and not self.mocked:
                raise ValueError(f"{name} needs {{upstream}} in command: it is for a server of the stack, behind it")

    @property
    def mocked(self) -> bool:
        """Whether a server of this project makes the tokens: then it is known which they are and when they are due."""
        return self.command is None or "{upstream}" in self.command


class Retry(Table, frozen=True):
    """What a client does when its stream breaks off: wait, connect again, and ask for the rest or for all of it.

    After a lost connection, a refused one, a silence, and the statuses 408, 409, 429 and from 500 up.
    """

    resume: bool = True
    """Ask for what comes after the last event received; false: start again."""
    delay_ms: Annotated[float, Meta(ge=0, le=3_600_000)] = 100.0
    """Before the first try. A `retry-after` that is longer is waited for instead."""
    backoff: Annotated[float, Meta(ge=1, le=100)] = 2.0
    """Every further try without a new token waits so many times as long."""
    most_ms: Annotated[float, Meta(ge=0, le=3_600_000)] = 10_000.0
    """No wait is longer than this."""
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """A wait is shortened by up to this share of itself, at random, the same on every arm."""
    tries: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Tries in a row without a new token, after which the stream is given up."""


class Restart(Table, frozen=True):
    """The server dies in the phase, with all its streams, and comes back."""

    after_s: Seconds
    """From the start of the phase to the signal."""
    down_s: Pause = 0.5
    """From then on nothing listens for so long; or for longer, where the old process takes its time to end."""
    signal: Literal["kill", "terminate"] = "kill"
    """`kill`: at once, as when it crashes; `terminate`: asked to stop, as when it is deployed anew."""


class Slow(Table, frozen=True):
    """Some clients read slowly, with a small receive buffer."""

    share: Share = 0.2
    bytes_per_s: Annotated[int, Meta(ge=100, le=1_000_000_000)] = 20_000


class Leave(Table, frozen=True):
    """Some clients leave before their stream is over."""

    share: Share = 0.5
    at: tuple[Annotated[int, Meta(ge=1, le=100_000)], Annotated[int, Meta(ge=1, le=100_000)]] = (2, 20)
    """After so many content chunks, from the first to the second number, drawn per stream."""
    by: Literal["close", "cancel"] = "close"
    """`close`: the connection; `cancel`: by a message where the protocol has one, and the connection is kept."""

    def __post_init__(self) -> None:
        if self.at[0] > self.at[1]:
            raise ValueError(f"at = [{self.at[0]}, {self.at[1]}]: the first must not be above the second")


class Phase(Table, frozen=True, kw_only=True):
    """What every phase has, whatever its load.

    The trials of a block take turns: a phase in several `slices` gives the turn away between them, each slice ending
    only when its last stream has.
    """

    profile: str
    """The name of the emitter's profile, a key of `profiles`."""
    connections: Connections
    """`cold`: one connection per stream; `warm`: connections opened and primed before the window, and kept."""
    resume_tls: bool = False
    """Connections resume an earlier TLS session, where there is TLS; else every handshake is a full one."""
    fault: str | None = None
    """What goes wrong with streams of this profile, a key of `faults`."""
    retry: Retry | None = None
    restart: Restart | None = None
    slow: Slow | None = None
    leave: Leave | None = None


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


class Crowd(Phase, frozen=True, tag="crowd", tag_field="load"):
    """So many streams are opened, held, and closed, size after size: what it costs to have them open."""

    sizes: Annotated[list[Users], Meta(min_length=1, max_length=20)]
    """Open streams, growing; the streams of a size are opened on top of those before it."""
    hold_s: Seconds
    """How long all streams of a size are held, while CPU time is measured."""
    rate: Annotated[float, Meta(ge=1, le=100_000)] = 1000.0
    """Connections opened per second."""

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError("sizes must grow")
        if self.connections != "cold":
            raise ValueError("a crowd takes connections = 'cold': each of its streams has one of its own")


AnyPhase = Closed | Open | Steps | Crowd


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
    most_void: Annotated[float, Meta(ge=0, le=100)] = 0.25
    """Blocks that may be void, as a share of those planned, before the run is given up as invalid."""
    roofline: bool = True
    """Before the blocks, run each protocol once on the server stack without a library, for the machine's ceiling."""
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 1
    mode: Mode = "equal"
    tls: bool = False
    """On every arm that does not say otherwise; the certificate is made for the block and trusted by the driver."""
    driver: Driver = "asyncio"
    """What makes the load of every arm that does not say otherwise: one asyncio loop, or Locust on gevent."""
    networks: Annotated[list[str], Meta(min_length=1, max_length=10)] = msgspec.field(
        default_factory=lambda: ["loopback"]
    )
    """What lies between driver and server: names of shipped networks, or of `networks` here. A block set for each."""
    network_by: Literal["auto", "packets", "proxy"] = "auto"
    """`packets` delays IP packets, which takes root; `proxy` models it on streams; `auto` takes what is permitted."""


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
    faults: dict[str, Fault] = {}
    networks: dict[str, Network] = {}
    experiment: Experiment = Experiment()
    timeouts: Timeouts = Timeouts()

    def tls(self, arm: str) -> bool:
        """Whether an arm speaks TLS."""
        own = self.arms[arm].tls
        return self.experiment.tls if own is None else own

    def driver(self, arm: str) -> Driver:
        """What makes the load of an arm."""
        return self.arms[arm].driver or self.experiment.driver

    def fault(self, phase: str) -> Fault | None:
        """What goes wrong with the streams of a phase."""
        name = self.phases[phase].fault
        return None if name is None else self.faults[name]

    def network(self, name: str) -> Network:
        """A network of this scenario, or a shipped one. Raises `KeyError`."""
        return self.networks.get(name) or NETWORKS[name]

    @property
    def resumable(self) -> list[str]:
        """The profiles whose streams clients resume, so that their events need ids."""
        return sorted({p.profile for p in self.phases.values() if p.retry is not None and p.retry.resume})
