"""What the parent tells a driver process, and what the driver says on its standard output, one JSON object a line."""

from __future__ import annotations

import msgspec

from bench.scenario import Scenario


class Plan(msgspec.Struct):
    """One trial, as the driver needs it."""

    scenario: Scenario
    arm: str
    host: str
    port: int
    server_pid: int
    seed: int
    """The run's: the seeds of all streams derive from it, the same on every arm."""
    folder: str
    """Where the raw logs go; exists."""
    warm_up: int
    """Streams of one token to have before the first phase, one after another, each on a connection of its own."""
    compression: bool
    """Offer permessage-deflate."""
    ca_file: str = ""
    """Speak TLS, and trust this authority, in PEM."""
    server_name: str = ""
    """What the server's certificate has to name."""
    cpus: list[int] | None = None
    """The cores this process keeps to."""
    server_tree: bool = False
    """What the server has started is the server, too."""
    pinned: list[int] | None = None
    """The cores of driver and server together, where they are pinned, and of what is behind the server."""


class Hello(msgspec.Struct, tag="hello", tag_field="event"):
    """Said once, before the first connection."""

    pid: int
    versions: dict[str, str]
    loop: str
    gc: str
    timer: str
    """What wakes the driver for a start: "timerfd" or "loop"."""


class Tick(msgspec.Struct, tag="tick", tag_field="event"):
    """Said twice a second: what a progress display shows."""

    phase: str
    open: int
    """Streams under way."""
    tokens: int
    """Content chunks received in this trial so far."""
    ttft_ms: float | None
    """Median over the most recent streams."""
    streams: int = 0
    """Attempts begun so far, priming included."""
    server_memory: int = 0
    driver_memory: int = 0
    """Bytes, outside windows 0."""


class Step(msgspec.Struct):
    """One size of a `steps` phase."""

    users: int
    p99_gap_excess_ns: int
    """-1 when no stream of the step had two chunks."""
    within_limit: bool


class Held(msgspec.Struct):
    """One size of a `crowd` phase; the first, of size 0, is before any stream was opened. Memory in bytes."""

    size: int
    open: int
    """Streams that were open, all with their first content, when the hold began, and still when it ended."""
    hold_ns: int
    chunks: int
    """Content chunks received in the hold."""
    server_cpu_ns: int
    driver_cpu_ns: int
    server_memory: int
    driver_memory: int
    """At the end of the hold."""


class Slice(msgspec.Struct):
    """One turn of a phase: what it took, and the content chunks that were received in it."""

    start_ns: int
    end_ns: int
    chunks: int
    server_cpu_ns: int
    driver_cpu_ns: int


class PhaseFacts(msgspec.Struct):
    """What a phase cost and how well the driver kept its promises. Times CLOCK_MONOTONIC ns, sizes bytes."""

    window_start_ns: int = 0
    window_end_ns: int = 0
    """When the last stream of the window had ended."""
    window_ns: int = 0
    """How long was measured: the sum over slices and steps. What follows is over the same time."""
    clock_raw_ns: int = 0
    clock_boot_ns: int = 0
    """The same by CLOCK_MONOTONIC_RAW and CLOCK_BOOTTIME; -1 where there is no such clock."""
    server_cpu_ns: int = 0
    driver_cpu_ns: int = 0
    server_wait_ns: int = 0
    driver_wait_ns: int = 0
    """How long the process was ready to run and had to wait for a core; -1 unknown."""
    steal_ns: int = 0
    steal_cores: int = 0
    """Time that the hypervisor took from that many cores; -1 unknown."""
    server_rss_start: int = 0
    """Before the window, kept connections open."""
    server_rss_peak: int = 0
    driver_rss_start: int = 0
    driver_rss_peak: int = 0
    peak_open: int = 0
    starts: int = 0
    starts_late: int = 0
    """Started more than 1 ms after intended."""
    dropped: int = 0
    loop_lag_p99_ns: int = 0
    loop_lag_max_ns: int = 0
    steps: list[Step] = []
    slices: list[Slice] = []
    held: list[Held] = []
    signalled_ns: int = 0
    """When the server was told to die, in a phase with a restart."""
    back_ns: int = 0
    """When the next one listened."""


def merged(a: PhaseFacts, b: PhaseFacts) -> PhaseFacts:
    """The facts of two windows of one phase, `b` after `a`: sums of what adds up, and memory of the fuller one.

    Of windows as full, memory is from the start of the first to the peak of either.
    """
    if not a.window_ns:
        return b
    fuller = b if b.peak_open > a.peak_open else a
    same = a.peak_open == b.peak_open
    return PhaseFacts(
        window_start_ns=a.window_start_ns,
        window_end_ns=b.window_end_ns,
        server_rss_start=fuller.server_rss_start,
        server_rss_peak=max(a.server_rss_peak, b.server_rss_peak) if same else fuller.server_rss_peak,
        driver_rss_start=fuller.driver_rss_start,
        driver_rss_peak=max(a.driver_rss_peak, b.driver_rss_peak) if same else fuller.driver_rss_peak,
        peak_open=fuller.peak_open,
        steal_cores=b.steal_cores,
        steps=a.steps,
        held=a.held,
        signalled_ns=a.signalled_ns or b.signalled_ns,
        back_ns=a.back_ns or b.back_ns,
        slices=a.slices + b.slices,
        **{name: _sum(getattr(a, name), getattr(b, name)) for name in ADD_UP},
    )


ADD_UP = (
    *("window_ns", "clock_raw_ns", "clock_boot_ns", "server_cpu_ns", "driver_cpu_ns", "server_wait_ns"),
    *("driver_wait_ns", "steal_ns", "starts", "starts_late", "dropped"),
)


def _sum(a: int, b: int) -> int:
    return -1 if min(a, b) < 0 else a + b


class Waits(msgspec.Struct, tag="waits", tag_field="event"):
    """Said before every slice, and before the process ends: nothing more is done until a line comes on standard input.

    So several trials can take turns on the same cores without ever being active together.
    """


class Signalled(msgspec.Struct, tag="signalled", tag_field="event"):
    """Said when the driver has told the server to die: the next one is to listen at `due_ns`.

    Its process id is to come as a line of JSON on standard input.
    """

    due_ns: int


class Back(msgspec.Struct):
    """The answer to `Signalled`."""

    server_pid: int
    at_ns: int
    """When it listened."""


class PhaseDone(msgspec.Struct, tag="phase", tag_field="event"):
    """Said when a phase has been drained."""

    name: str
    facts: PhaseFacts


class Done(msgspec.Struct, tag="done", tag_field="event"):
    """Said last: the raw logs are closed."""

    streams: int
    stopped: bool
    """By a signal, before all phases had run."""


Said = Hello | Waits | Tick | Signalled | PhaseDone | Done


def request_body(model: str, seed: int) -> bytes:
    """The JSON body that asks for one stream: the same for every protocol, of one length for all seeds."""
    return (
        b'{"model":"%s","messages":[{"role":"user","content":"Tell me how tokens travel."}],"stream":true,"seed":%d}'
        % (model.encode(), seed)
    )
