"""What open streams cost: memory and CPU against their number."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from scipy.stats import linregress, t

from bench.metrics.seen import Seen

WITHIN = 0.95
_PER = 1000
"""Open streams that CPU is given for."""


class Size(msgspec.Struct, frozen=True):
    """One size of a crowd, while all of it was held: medians over trials."""

    size: Annotated[int, Meta(description="Streams wanted", extra_json_schema={"unit": "streams"})]
    open: Annotated[float, Meta(description="Streams open throughout", extra_json_schema={"unit": "streams"})]
    tokens_per_s: Annotated[float, Meta(description="Content chunks received", extra_json_schema={"unit": "1/s"})]
    server_memory_mib: Annotated[float, Meta(description="Memory of the server", extra_json_schema={"unit": "MiB"})]
    driver_memory_mib: Annotated[float, Meta(description="Memory of the driver", extra_json_schema={"unit": "MiB"})]
    server_cpu: Annotated[float, Meta(description="Share of a core", extra_json_schema={"unit": "cores"})]
    driver_cpu: Annotated[float, Meta(description="Share of a core", extra_json_schema={"unit": "cores"})]
    trials: Annotated[int, Meta(description="Trials", extra_json_schema={"unit": "trials"})]


class Line(msgspec.Struct, frozen=True):
    """A straight line through every trial's sizes but that of no streams, by least squares."""

    slope: Annotated[
        float,
        Meta(description="More for each open stream", extra_json_schema={"unit": "that of the field it stands in"}),
    ]
    low: Annotated[
        float | None,
        Meta(
            description="95 % interval of the slope, by t; null under three points",
            extra_json_schema={"unit": "that of the field it stands in"},
        ),
    ]
    high: Annotated[
        float | None, Meta(description="Its upper end", extra_json_schema={"unit": "that of the field it stands in"})
    ]
    at_none: Annotated[
        float,
        Meta(
            description="Where the line meets no streams", extra_json_schema={"unit": "that of the field it stands in"}
        ),
    ]
    fit: Annotated[float, Meta(description="R squared", extra_json_schema={"unit": "a share"})]
    points: Annotated[int, Meta(description="Points", extra_json_schema={"unit": "points"})]


class Holding(msgspec.Struct, frozen=True):
    """Of one arm in one phase, over all trials."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    sizes: Annotated[list[Size], Meta(description="Growing; the first is 0, before any stream was opened")]
    short: Annotated[
        int,
        Meta(
            description="Sizes of trials in which fewer streams were open than wanted",
            extra_json_schema={"unit": "sizes"},
        ),
    ]
    server_memory: Annotated[
        Line | None,
        Meta(description="Memory of the server", extra_json_schema={"unit": "B per open stream, and B at none"}),
    ]
    driver_memory: Annotated[
        Line | None,
        Meta(description="Memory of the driver", extra_json_schema={"unit": "B per open stream, and B at none"}),
    ]
    server_cpu: Annotated[
        Line | None,
        Meta(description="CPU of the server", extra_json_schema={"unit": "cores per 1000 open streams, cores at none"}),
    ]
    driver_cpu: Annotated[
        Line | None,
        Meta(description="CPU of the driver", extra_json_schema={"unit": "cores per 1000 open streams, cores at none"}),
    ]
    points: Annotated[
        list[tuple[int, float, float, float, float]],
        Meta(
            description="Every trial's sizes, none included: streams open, memory of server and driver, their CPU",
            extra_json_schema={"unit": "streams, MiB, MiB, cores, cores"},
        ),
    ]


class Holdings:
    """Collects it, trial by trial."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial."""
        held = [one for one in seen.facts.get("held") or () if one["hold_ns"]]
        if held:
            self._held.setdefault((seen.phase, seen.arm), []).extend(held)

    def found(self) -> list[Holding]:
        """One entry per phase and arm."""
        return [_holding(phase, arm, held) for (phase, arm), held in self._held.items()]


def _holding(phase: str, arm: str, held: Sequence[dict[str, Any]]) -> Holding:
    # No streams is no point of the line: what the first of them take once, and what fits into memory that the process
    # has already, is not what one more costs.
    some = [one for one in held if one["open"] > 0]
    opened = [one["open"] for one in some]
    known = [one for one in some if one["server_memory"]]
    return Holding(
        phase,
        arm,
        sizes=[_size([one for one in held if one["size"] == size]) for size in sorted({one["size"] for one in held})],
        short=sum(one["open"] < one["size"] for one in held),
        server_memory=line([one["open"] for one in known], [one["server_memory"] for one in known]),
        driver_memory=line(opened, [one["driver_memory"] for one in some]),
        server_cpu=line([n / _PER for n in opened], [_cores(one, "server") for one in some]),
        driver_cpu=line([n / _PER for n in opened], [_cores(one, "driver") for one in some]),
        points=[(one["open"], *_memory(one), _cores(one, "server"), _cores(one, "driver")) for one in held],
    )


def _size(held: Sequence[dict[str, Any]]) -> Size:
    return Size(
        size=held[0]["size"],
        open=median(one["open"] for one in held),
        tokens_per_s=median(one["chunks"] / one["hold_ns"] * 1e9 for one in held),
        server_memory_mib=median(_memory(one)[0] for one in held),
        driver_memory_mib=median(_memory(one)[1] for one in held),
        server_cpu=median(_cores(one, "server") for one in held),
        driver_cpu=median(_cores(one, "driver") for one in held),
        trials=len(held),
    )


def _memory(one: dict[str, Any]) -> tuple[float, float]:
    return one["server_memory"] / 2**20, one["driver_memory"] / 2**20


def _cores(one: dict[str, Any], who: str) -> float:
    return float(one[f"{who}_cpu_ns"] / one["hold_ns"])


def line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """The line of `y` against `x` by ordinary least squares; None where all `x` are one."""
    if len(set(x)) < 2:
        return None
    found = linregress(x, y)
    free = len(x) - 2
    reach = float(t.ppf((1 + WITHIN) / 2, free) * found.stderr) if free else None
    slope = float(found.slope)
    low, high = (None, None) if reach is None else (slope - reach, slope + reach)
    return Line(slope, low, high, float(found.intercept), float(found.rvalue**2), len(x))
