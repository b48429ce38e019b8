"""What a gate comes to: one row per measure, one verdict, and what stands behind it. Kept as `gate.json`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

FORMAT = 1
"""Of gate.json. Raised when a field changes its meaning."""
FILE = "gate.json"

Decision = Literal["pass", "regression", "invalid", "inconclusive"]
CODES: dict[Decision, int] = {"pass": 0, "regression": 1, "invalid": 3, "inconclusive": 4}
"""Exit codes; 2 is wrong usage."""

Finding = Literal["regression", "same", "improvement", "inconclusive", "told"]


class Side(msgspec.Struct, frozen=True):
    """One of the two that are compared."""

    name: Annotated[str, Meta(description="base or head")]
    what: Annotated[str, Meta(description="For people: a commit with its subject, the working tree, or a command")]
    revision: Annotated[str, Meta(description="Full hash of the commit, of head the last one; empty for a command")] = (
        ""
    )
    changed: Annotated[bool, Meta(description="Whether the working tree differs from that commit")] = False
    command: Annotated[
        str, Meta(description="What serves the API instead of the project's own servers, else empty")
    ] = ""
    versions: Annotated[dict[str, str], Meta(description="Of its Python and libraries, as its server told")] = {}
    lock: Annotated[str, Meta(description="SHA-256 of the lock file its environment was made from; empty for none")] = (
        ""
    )


class Row(msgspec.Struct, frozen=True):
    """One measure of head against base."""

    name: Annotated[str, Meta(description="Unique in a gate, such as `cpu/sse-aiohttp`, `lost/chat/ws-aiohttp`")]
    kind: Annotated[
        Literal["timing", "count", "micro"],
        Meta(
            description="timing: from paired blocks, with an interval; count: exact, such as tokens lost; micro: a hot "
            "path alone, as a multiple of a reference loop in the same process"
        ),
    ]
    title: Annotated[str, Meta(description="For people, such as `Server CPU per token`")]
    where: Annotated[
        str, Meta(description="Phase, streams and statistic for people, such as `cold, p50`; may be empty")
    ]
    arm: Annotated[str, Meta(description="What it was measured on, such as sse-aiohttp; empty for micro")]
    measure: Annotated[str, Meta(description="Key of the measure, counter or micro-benchmark")]
    unit: Annotated[str, Meta(description="Of base and head; empty for a count")]
    base: Annotated[
        float | None, Meta(description="Median over blocks, or the count", extra_json_schema={"unit": "as in `unit`"})
    ]
    head: Annotated[float | None, Meta(description="The same of head", extra_json_schema={"unit": "as in `unit`"})]
    decides: Annotated[bool, Meta(description="Whether it can fail the gate; else it is advice")]
    finding: Annotated[
        Finding,
        Meta(
            description="same: not worse by the smallest effect or more; told: advice without a judgement, or a "
            "counter that may differ"
        ),
    ]
    sentence: Annotated[str, Meta(description="What was found, in a sentence")]
    scale: Annotated[
        Literal["difference", "ratio", "count"],
        Meta(description="effect is head - base in `unit`; ratio: head / base - 1, a share; count: head - base"),
    ] = "count"
    effect: Annotated[float | None, Meta(description="Estimate; null where there is none")] = None
    low: Annotated[float | None, Meta(description="95 % interval, lower end; null for counts")] = None
    high: Annotated[float | None, Meta(description="95 % interval, upper end; null for counts")] = None
    smallest_effect: Annotated[float | None, Meta(description="What counts as worse, on the scale of `effect`")] = None
    more_is_better: Annotated[bool, Meta(description="Whether a positive effect is an improvement")] = False
    blocks: Annotated[int, Meta(description="Blocks, or rounds, that it rests on")] = 0
    again: Annotated[Finding | None, Meta(description="What the confirmation run found; null where there was none")] = (
        None
    )


class Gate(msgspec.Struct, frozen=True):
    """A whole gate."""

    format: Annotated[int, Meta(description="Raised when a field changes its meaning")]
    tokenwire: Annotated[str, Meta(description="Version of the driver that measured both")]
    created: Annotated[str, Meta(description="ISO 8601, UTC")]
    seconds: Annotated[float, Meta(description="How long it took", extra_json_schema={"unit": "s"})]
    size: Annotated[str, Meta(description="A size of the thresholds: default, small")]
    options: Annotated[list[str], Meta(description="Besides these: --thresholds and --set, as they were given")]
    decision: Annotated[Decision, Meta(description="What it comes to")]
    exit_code: Annotated[
        int, Meta(description="0 pass, 1 regression, 3 invalid, 4 inconclusive; as counted by --inconclusive")
    ]
    reasons: Annotated[list[str], Meta(description="Why, a sentence each, the most important first")]
    base: Side
    head: Side
    rows: Annotated[list[Row], Meta(description="Every measure: those that decide first, the worst first")]
    blocks: Annotated[int, Meta(description="Valid blocks of the first run", extra_json_schema={"unit": "blocks"})]
    voids: Annotated[list[str], Meta(description="Why blocks did not count, a sentence each")]
    runs: Annotated[
        list[str], Meta(description="Folders of the runs: the first, and the confirmation's if there was one")
    ]
    notes: Annotated[list[str], Meta(description="What a reader should know, a sentence each")]
    machine: Annotated[dict[str, Any], Meta(description="As in run.json")]
