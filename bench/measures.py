"""What is measured: one row per measure with its unit, its kind and the percentiles that are shown."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["excess", "total", "part", "recovery", "cost", "check"]
Level = Literal["stream", "gap", "chunk", "group", "window", "outage"]

FEWEST_BEYOND = 5
"""A percentile is given for a trial only where at least this many of its samples lie beyond it."""

KINDS: dict[Kind, str] = {
    "excess": "Excess: what transport and server add",
    "total": "Totals: what a user feels, mostly the model's own delay",
    "part": "Parts: where it arises",
    "recovery": "Recovery: from the break to the first new token",
    "cost": "Costs",
    "check": "Instrument",
}


Scale = Literal["difference", "ratio", "exact", "none"]
"""How two arms are compared: by the difference of a latency's excess, by the ratio of a cost or rate, as exact counters
that are the same or are not, or not at all."""


class Measure(NamedTuple):
    """One measure. `level` says over what a trial's percentile is taken; `group` and `window` give one number.

    `outage` is over the breaks of a whole phase: see `bench.metrics.outages`.
    """

    key: str
    title: str
    unit: str
    kind: Kind
    level: Level
    statistics: tuple[str, ...]
    scale: Scale
    meaning: str
    more_is_better: bool = False


_ONE = ("value",)

MEASURES: dict[str, Measure] = {
    m.key: m
    for m in (
        Measure(
            "ttft_excess", "First token, excess", "ms", "excess", "stream", ("p50", "p90", "p99"), "difference",
            "time to first token less the model's own delay (due offset of the first token after the server took the "
            "request up)",
        ),
        Measure(
            "gap_excess", "Gap, excess", "ms", "excess", "gap", ("p50", "p99", "p99.9"), "difference",
            "gap between two received content chunks less the gap between their due times; negative when a late chunk "
            "is followed by a punctual one",
        ),
        Measure(
            "ttft", "First token", "ms", "total", "stream", ("p50", "p99"), "difference",
            "first content received less clock start: connect() when cold, the write of the request when warm",
        ),
        Measure(
            "ttft_intended", "First token from intended start", "ms", "total", "stream", ("p50", "p99"), "difference",
            "first content received less the time at which the stream should have started, so that waiting to start "
            "counts",
        ),
        Measure(
            "icl", "Gap", "ms", "total", "gap", ("p50", "p99"), "difference",
            "gap between two received content chunks",
        ),
        Measure(
            "tpot", "Time per token", "ms", "total", "stream", ("p50",), "difference",
            "last less first content received, over the tokens of the stream less one",
        ),
        Measure(
            "max_stall", "Longest gap of a stream", "ms", "total", "stream", ("p50", "p99"), "difference",
            "longest such gap",
        ),
        Measure(
            "e2e", "Whole stream", "ms", "total", "stream", ("p50",), "difference",
            "end of a complete stream less clock start",
        ),
        Measure(
            "connect", "Connect", "ms", "part", "stream", ("p50",), "difference",
            "TCP connected less connect(); cold only",
        ),
        Measure(
            "tls", "TLS handshake", "ms", "part", "stream", ("p50",), "difference",
            "from TCP connected to the first write under TLS, checking the certificate included; cold streams over TLS "
            "only",
        ),
        Measure(
            "upgrade", "Upgrade", "ms", "part", "stream", ("p50",), "none",
            "101 read less TCP connected, or less the TLS handshake; cold WebSocket streams only, as SSE needs none",
        ),
        Measure(
            "ttfb", "First byte (not comparable)", "ms", "part", "stream", ("p50",), "none",
            "first byte of the reply less clock start; the protocols send different things first, so it is never "
            "compared between them",
        ),
        Measure(
            "lateness", "Server lateness", "ms", "part", "chunk", ("p50", "p99"), "difference",
            "handed to the library's write less due, per content chunk",
        ),
        Measure(
            "delivery", "Delivery", "ms", "part", "chunk", ("p50", "p99"), "difference",
            "socket read less handed to the library's write, per content chunk",
        ),
        Measure(
            "notice", "Until the break is noticed", "ms", "recovery", "outage", ("p50", "p99"), "difference",
            "end of the broken attempt at the client less the break at the server: it cut the stream, fell silent, or "
            "died",
        ),
        Measure(
            "reconnect", "Until there is a connection again", "ms", "recovery", "outage", ("p50", "p99"), "difference",
            "connection (TLS included) of the attempt that went on less the noticing; the policy's waits and attempts "
            "in vain included",
        ),
        Measure(
            "renew", "From there to the first new token", "ms", "recovery", "outage", ("p50", "p99"), "difference",
            "first token that no attempt had received before less that connection: upgrade, request, resuming",
        ),
        Measure(
            "outage", "Outage", "ms", "recovery", "outage", ("p50", "p99"), "difference",
            "first new token less the break: the three together; of breaks after which one came",
        ),
        Measure(
            "wire_bytes", "Wire bytes per token", "B", "cost", "group", _ONE, "exact",
            "all bytes received over tokens",
        ),
        Measure(
            "segments", "TCP segments per token", "", "cost", "group", _ONE, "exact",
            "data segments received over tokens: how many writes reached the network for a token; Linux only",
        ),
        Measure(
            "coalescing", "Chunks per socket read", "", "cost", "group", _ONE, "ratio",
            "content chunks over the socket reads that brought them",
        ),
        Measure(
            "throughput", "Tokens per second", "1/s", "cost", "window", _ONE, "ratio",
            "content tokens over the window; with paced tokens it is the rate achieved, not a limit",
            more_is_better=True,
        ),
        Measure(
            "cpu_server", "Server CPU per token", "µs", "cost", "window", _ONE, "ratio",
            "CPU time used over tokens",
        ),
        Measure(
            "cpu_driver", "Client CPU per token", "µs", "cost", "window", _ONE, "ratio",
            "driver's CPU time over tokens",
        ),
        Measure(
            "cpu_server_stream", "Server CPU per stream", "ms", "cost", "window", _ONE, "ratio",
            "CPU time used over the streams that ended in the window, opening the connection included; phases over "
            "cold connections, where it says more than CPU per token",
        ),
        Measure(
            "cpu_driver_stream", "Client CPU per stream", "ms", "cost", "window", _ONE, "ratio",
            "driver's CPU time over the same streams",
        ),
        Measure(
            "memory", "Server memory per open stream", "KiB", "cost", "window", _ONE, "ratio",
            "growth of the server's resident memory over the streams open at the peak; phases with at least 50 of them",
        ),
        Measure(
            "capacity", "Capacity", "users", "cost", "window", _ONE, "ratio",
            "most users before the first step whose p99 gap excess passes the limit; at least so many where the last "
            "step held; none where a step has no gaps to judge by",
            more_is_better=True,
        ),
        Measure(
            "loop_lag_max", "Driver's loop lag, longest", "ms", "check", "window", _ONE, "none",
            "how late the driver's event loop ran a timer, at worst",
        ),
    )
}  # fmt: skip


def fraction(statistic: str) -> float:
    """Turn `"p99.9"` into 0.999."""
    return float(statistic.removeprefix("p")) / 100


def streams_of(key: str, asked: str | None, connections: str) -> Literal["cold", "warm", "all"]:
    """Which streams a primary measure is about: those asked for, else those that the phase's connections make.

    A measure of the whole window, or of its breaks, is about all.
    """
    if MEASURES[key].level in ("window", "outage"):
        return "all"
    return "cold" if (asked or connections) == "cold" else "warm"
