"""What is measured: one row per measure with its unit, its kind and the percentiles that are shown."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["excess", "total", "part", "cost", "check"]
Level = Literal["stream", "gap", "chunk", "group", "window"]

FEWEST_BEYOND = 5
"""A percentile is given for a trial only where at least this many of its samples lie beyond it."""

KINDS: dict[Kind, str] = {
    "excess": "Excess: what transport and server add",
    "total": "Totals: what a user feels, mostly the model's own delay",
    "part": "Parts: where it arises",
    "cost": "Costs",
    "check": "Instrument",
}


class Measure(NamedTuple):
    """One measure. `level` says over what a trial's percentile is taken; `group` and `window` give one number."""

    key: str
    title: str
    unit: str
    kind: Kind
    level: Level
    statistics: tuple[str, ...]
    meaning: str


_ONE = ("value",)

MEASURES: dict[str, Measure] = {
    m.key: m
    for m in (
        Measure(
            "ttft_excess", "First token, excess", "ms", "excess", "stream", ("p50", "p90", "p99"),
            "time to first token less the model's own delay (due offset of the first token after the server took the "
            "request up)",
        ),
        Measure(
            "gap_excess", "Gap, excess", "ms", "excess", "gap", ("p50", "p99", "p99.9"),
            "gap between two received content chunks less the gap between their due times; negative when a late chunk "
            "is followed by a punctual one",
        ),
        Measure(
            "ttft", "First token", "ms", "total", "stream", ("p50", "p99"),
            "first content received less clock start: connect() when cold, the write of the request when warm",
        ),
        Measure(
            "ttft_intended", "First token from intended start", "ms", "total", "stream", ("p50", "p99"),
            "first content received less the time at which the stream should have started, so that waiting to start "
            "counts",
        ),
        Measure("icl", "Gap", "ms", "total", "gap", ("p50", "p99"), "gap between two received content chunks"),
        Measure(
            "tpot", "Time per token", "ms", "total", "stream", ("p50",),
            "last less first content received, over the tokens of the stream less one",
        ),
        Measure("max_stall", "Longest gap of a stream", "ms", "total", "stream", ("p50", "p99"), "longest such gap"),
        Measure("e2e", "Whole stream", "ms", "total", "stream", ("p50",), "end of a complete stream less clock start"),
        Measure("connect", "Connect", "ms", "part", "stream", ("p50",), "TCP connected less connect(); cold only"),
        Measure(
            "upgrade", "Upgrade", "ms", "part", "stream", ("p50",),
            "101 read less TCP connected; cold WebSocket streams only, as SSE needs none",
        ),
        Measure(
            "ttfb", "First byte (not comparable)", "ms", "part", "stream", ("p50",),
            "first byte of the reply less clock start; the protocols send different things first, so it is never "
            "compared between them",
        ),
        Measure(
            "lateness", "Server lateness", "ms", "part", "chunk", ("p50", "p99"),
            "handed to the library's write less due, per content chunk",
        ),
        Measure(
            "delivery", "Delivery", "ms", "part", "chunk", ("p50", "p99"),
            "socket read less handed to the library's write, per content chunk",
        ),
        Measure("wire_bytes", "Wire bytes per token", "B", "cost", "group", _ONE, "all bytes received over tokens"),
        Measure(
            "coalescing", "Chunks per socket read", "", "cost", "group", _ONE,
            "content chunks over the socket reads that brought them",
        ),
        Measure(
            "throughput", "Tokens per second", "1/s", "cost", "window", _ONE,
            "content tokens over the window; with paced tokens it is the rate achieved, not a limit",
        ),
        Measure("cpu_server", "Server CPU per token", "µs", "cost", "window", _ONE, "CPU time used over tokens"),
        Measure("cpu_driver", "Client CPU per token", "µs", "cost", "window", _ONE, "driver's CPU time over tokens"),
        Measure(
            "cpu_server_stream", "Server CPU per stream", "ms", "cost", "window", _ONE,
            "CPU time used over the streams that ended in the window, opening the connection included; phases over "
            "cold connections, where it says more than CPU per token",
        ),
        Measure(
            "cpu_driver_stream", "Client CPU per stream", "ms", "cost", "window", _ONE,
            "driver's CPU time over the same streams",
        ),
        Measure(
            "memory", "Server memory per open stream", "KiB", "cost", "window", _ONE,
            "growth of the server's resident memory over the streams open at the peak; phases with at least 50 of them",
        ),
        Measure(
            "capacity", "Capacity", "users", "cost", "window", _ONE,
            "most users before the first step whose p99 gap excess passes the limit; at least so many where the last "
            "step held; none where a step has no gaps to judge by",
        ),
        Measure(
            "loop_lag_max", "Driver's loop lag, longest", "ms", "check", "window", _ONE,
            "how late the driver's event loop ran a timer, at worst",
        ),
    )
}  # fmt: skip


def fraction(statistic: str) -> float:
    """Turn `"p99.9"` into 0.999."""
    return float(statistic.removeprefix("p")) / 100
