"""What a run comes to: plain typed data, the same that `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.metrics.crowd import Holding
from bench.metrics.leaving import LEFT, Leaving
from bench.metrics.opening import Opening
from bench.metrics.recovery import Recovery
from bench.metrics.shapes import Shapes
from bench.metrics.slow import SlowReaders

FORMAT = 1


class Unfinished(ValueError):
    """A run without a single finished trial, so that there is nothing to report; the message is one line."""


class Arm(msgspec.Struct, frozen=True):
    """One of the things compared, as it really ran."""

    name: Annotated[str, Meta(description="Name in the scenario")]
    label: Annotated[str, Meta(description="Protocol and library, for people")]
    protocol: Annotated[str, Meta(description="sse or websocket")]
    stack: Annotated[str, Meta(description="Server library")]
    trials: Annotated[int, Meta(description="Finished trials", extra_json_schema={"unit": "trials"})]
    server_versions: Annotated[dict[str, Any], Meta(description="Versions the server named, by package")]
    server_settings: Annotated[dict[str, Any], Meta(description="Settings in force in the server")]
    driver: Annotated[dict[str, Any], Meta(description="The driver: versions, event loop, garbage collection")]


class Phase(msgspec.Struct, frozen=True):
    """One part of the scenario: a profile of the mock model under a load."""

    name: Annotated[str, Meta(description="Name in the scenario")]
    load: Annotated[str, Meta(description="closed, open or steps")]
    paced: Annotated[bool, Meta(description="Whether any token has a delay of its own; false: as fast as they go")]
    temperatures: Annotated[list[str], Meta(description="cold, warm or both, as found in the records")]
    trials: Annotated[
        int, Meta(description="Finished trials that hold this phase", extra_json_schema={"unit": "trials"})
    ]
    limit_ms: Annotated[
        float | None,
        Meta(description="Limit of the p99 gap excess in a steps phase, else null", extra_json_schema={"unit": "ms"}),
    ]
    settings: Annotated[dict[str, Any], Meta(description="The phase as the scenario has it")]
    profile: Annotated[dict[str, Any], Meta(description="The profile of the mock model it uses")]


class Value(msgspec.Struct, frozen=True):
    """One measure of one arm. The statistic is taken within each trial: trials are never pooled."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    temperature: Annotated[
        Literal["cold", "warm", "all"],
        Meta(description="Streams it is about: on fresh connections, on kept ones, or the whole phase"),
    ]
    users: Annotated[int, Meta(description="Step of a steps phase, else 0", extra_json_schema={"unit": "users"})]
    measure: Annotated[str, Meta(description="Measure, a key of `measures`")]
    statistic: Annotated[
        str, Meta(description="Percentile taken within a trial (p50 ... p99.9), or `value`: one a trial")
    ]
    unit: Annotated[str, Meta(description="Unit of median, min, max and per_trial; empty for a ratio")]
    median: Annotated[float, Meta(description="Median over trials", extra_json_schema={"unit": "as in `unit`"})]
    min: Annotated[float, Meta(description="Lowest trial", extra_json_schema={"unit": "as in `unit`"})]
    max: Annotated[float, Meta(description="Highest trial", extra_json_schema={"unit": "as in `unit`"})]
    per_trial: Annotated[
        list[float], Meta(description="Every trial, in order of blocks", extra_json_schema={"unit": "as in `unit`"})
    ]
    blocks: Annotated[list[int], Meta(description="The block of each entry of per_trial: equal blocks are pairs")]
    per_slice: Annotated[
        list[list[float]],
        Meta(
            description="Of every trial its figure in each slice of the phase, for measures of the whole phase in "
            "several slices; else empty",
            extra_json_schema={"unit": "as in `unit`"},
        ),
    ]
    samples: Annotated[
        int, Meta(description="Streams, gaps or chunks behind it, over all trials; for one-a-trial values the trials")
    ]
    at_least: Annotated[
        bool, Meta(description="Capacity only: the median is a lower bound, as the last step of the scenario held")
    ] = False
    max_at_least: Annotated[bool, Meta(description="Capacity only: so is the highest trial")] = False


class Account(msgspec.Struct):
    """What became of the streams and tokens of one arm in one phase, over all trials: exact counts."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    streams: Annotated[int, Meta(description="Streams of the window", extra_json_schema={"unit": "streams"})] = 0
    outcomes: Annotated[
        dict[str, int],
        Meta(
            description="Streams by outcome; `left`: cancelled, as the client was to leave",
            extra_json_schema={"unit": "streams"},
        ),
    ] = msgspec.field(default_factory=dict)
    tokens: Annotated[int, Meta(description="Content tokens received", extra_json_schema={"unit": "tokens"})] = 0
    lost: Annotated[
        int,
        Meta(
            description="Chunks handed over by the server and not received (of a complete stream, its whole schedule), "
            "but for streams that the client ended itself, timed_out and cancelled; of those it was to leave, what "
            "must have come before",
            extra_json_schema={"unit": "chunks"},
        ),
    ] = 0
    repeated: Annotated[int, Meta(description="Chunks received again", extra_json_schema={"unit": "chunks"})] = 0
    reordered: Annotated[int, Meta(description="Chunks out of order", extra_json_schema={"unit": "chunks"})] = 0
    corrupted: Annotated[int, Meta(description="Chunks with another text", extra_json_schema={"unit": "chunks"})] = 0
    starts: Annotated[int, Meta(description="Streams started", extra_json_schema={"unit": "streams"})] = 0
    starts_late: Annotated[
        int, Meta(description="Started over 1 ms after they should have", extra_json_schema={"unit": "streams"})
    ] = 0
    dropped: Annotated[int, Meta(description="Starts the driver dropped", extra_json_schema={"unit": "streams"})] = 0

    @property
    def failed(self) -> int:
        """Streams that did not complete, and whose client was not to leave."""
        return self.streams - self.outcomes.get("complete", 0) - self.outcomes.get(LEFT, 0)


class WireBytes(msgspec.Struct, frozen=True):
    """Bytes received per content token, over all trials; the parts that are not null add up to `total`.

    Compressed messages cannot be taken apart: bytes of JSON and text are counted after they were inflated.
    """

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    temperature: Annotated[Literal["cold", "warm"], Meta(description="Fresh or kept connections")]
    head: Annotated[
        float,
        Meta(description="HTTP heads with the 101, and the TLS handshake", extra_json_schema={"unit": "B per token"}),
    ]
    framing: Annotated[
        float | None,
        Meta(description="SSE fields and HTTP chunks, or frame headers", extra_json_schema={"unit": "B per token"}),
    ]
    other: Annotated[
        float | None,
        Meta(description="JSON without content: role, stop, [DONE]", extra_json_schema={"unit": "B per token"}),
    ]
    envelope: Annotated[
        float | None, Meta(description="JSON around the content's text", extra_json_schema={"unit": "B per token"})
    ]
    text: Annotated[float | None, Meta(description="The token's own UTF-8", extra_json_schema={"unit": "B per token"})]
    compressed: Annotated[
        float | None,
        Meta(
            description="Compressed messages with their framing; null where messages are not compressed",
            extra_json_schema={"unit": "B per token"},
        ),
    ]
    total: Annotated[float, Meta(description="All bytes received", extra_json_schema={"unit": "B per token"})]


class Incident(msgspec.Struct, frozen=True):
    """A trial whose server died, or whose tokens were not those of the schedule."""

    arm: Annotated[str, Meta(description="Arm")]
    block: Annotated[int, Meta(description="Block")]
    server_died: Annotated[
        int | None, Meta(description="Exit code of a server that did not live to the end of the trial, else null")
    ]
    schedule_mismatches: Annotated[
        int,
        Meta(
            description="Streams whose logged due times are not those of the schedule",
            extra_json_schema={"unit": "streams"},
        ),
    ]


class MeasureInfo(msgspec.Struct, frozen=True):
    """What a measure is."""

    title: Annotated[str, Meta(description="Name for people")]
    unit: Annotated[str, Meta(description="Unit; empty for a ratio")]
    kind: Annotated[str, Meta(description="excess, total, part, cost or check")]
    meaning: Annotated[str, Meta(description="Definition")]


Verdict = Literal["faster", "slower", "equivalent", "inconclusive", "none"]
"""Of the other arm against the baseline. `faster` and `slower` stand for better and worse, whatever the measure; `none`
is where no verdict is given: on exploratory measures, and under eight blocks."""


class Comparison(msgspec.Struct, frozen=True):
    """One measure of one arm against another's, paired by block. Estimate and bounds are of other against baseline."""

    contrast: Annotated[str, Meta(description="Name of the contrast in the scenario")]
    baseline: Annotated[str, Meta(description="Arm compared with")]
    other: Annotated[str, Meta(description="Arm that the estimate and verdict are about")]
    phase: Annotated[str, Meta(description="Phase")]
    temperature: Annotated[Literal["cold", "warm", "all"], Meta(description="Streams it is about")]
    measure: Annotated[str, Meta(description="Measure, a key of `measures`")]
    statistic: Annotated[str, Meta(description="Percentile taken within a trial, or `value`")]
    scale: Annotated[
        Literal["difference", "ratio"],
        Meta(description="difference: other - baseline, in `unit`; ratio: other / baseline - 1, a share"),
    ]
    unit: Annotated[str, Meta(description="Unit of a difference; empty for a ratio")]
    more_is_better: Annotated[bool, Meta(description="Whether a positive estimate is an improvement")]
    estimate: Annotated[float, Meta(description="Hodges-Lehmann estimate", extra_json_schema={"unit": "as in `unit`"})]
    low: Annotated[
        float | None,
        Meta(description="95 % interval, null under six blocks", extra_json_schema={"unit": "as in `unit`"}),
    ]
    high: Annotated[float | None, Meta(description="Its upper end", extra_json_schema={"unit": "as in `unit`"})]
    low90: Annotated[
        float | None,
        Meta(description="90 % interval, null under five blocks", extra_json_schema={"unit": "as in `unit`"}),
    ]
    high90: Annotated[float | None, Meta(description="Its upper end", extra_json_schema={"unit": "as in `unit`"})]
    per_block: Annotated[
        list[float], Meta(description="Every block's difference", extra_json_schema={"unit": "as in `unit`"})
    ]
    blocks: Annotated[list[int], Meta(description="The block of each entry of per_block")]
    advisory: Annotated[bool, Meta(description="A p99 or beyond from too few streams or gaps a trial to lean on")] = (
        False
    )
    primary: Annotated[str, Meta(description="Name of the primary measure, empty for an exploratory one")] = ""
    smallest_effect: Annotated[
        float | None,
        Meta(description="Of a primary measure, else null", extra_json_schema={"unit": "as in `unit`, or a share"}),
    ] = None
    p: Annotated[float | None, Meta(description="Exact sign-flip test; of primary measures only")] = None
    p_holm: Annotated[float | None, Meta(description="The same after Holm over primary measures x contrasts")] = None
    verdict: Annotated[Verdict, Meta(description="faster and slower stand for better and worse")] = "none"
    blocks_to_decide: Annotated[
        int | None, Meta(description="Of an inconclusive one: how many blocks would probably decide; null: over 1000")
    ] = None


class Counter(msgspec.Struct, frozen=True):
    """A counter that must be exact, of two arms: what is not the same to the digit is different."""

    contrast: Annotated[str, Meta(description="Name of the contrast in the scenario")]
    baseline: Annotated[str, Meta(description="Arm compared with")]
    other: Annotated[str, Meta(description="Arm that `finding` is about")]
    phase: Annotated[str, Meta(description="Phase")]
    temperature: Annotated[Literal["cold", "warm", "all"], Meta(description="Streams it is about")]
    measure: Annotated[str, Meta(description="wire_bytes, segments, lost, repeated, reordered, corrupted or failed")]
    baseline_value: Annotated[float, Meta(description="Of the baseline")]
    other_value: Annotated[float, Meta(description="Of the other arm")]
    finding: Annotated[
        Literal["same", "more", "fewer", "varies"],
        Meta(description="varies: not the same in every block, and the blocks of the two arms overlap"),
    ]
    exact: Annotated[bool, Meta(description="Whether every block of either arm agrees to the digit")] = True


class Conclusions(msgspec.Struct, frozen=True):
    """What the measurements amount to."""

    alpha: Annotated[float, Meta(description="Chance of any wrong faster or slower among all primary comparisons")]
    blocks: Annotated[int, Meta(description="Whole, valid blocks", extra_json_schema={"unit": "blocks"})]
    fewest_blocks: Annotated[int, Meta(description="Under this many no verdict", extra_json_schema={"unit": "blocks"})]
    primary: Annotated[list[Comparison], Meta(description="Primary measures x contrasts, with their verdicts")]
    counters: Annotated[list[Counter], Meta(description="Exact counters")]
    exploratory: Annotated[list[Comparison], Meta(description="Every other measure, with its interval")]


class Check(msgspec.Struct, frozen=True):
    """The worst that a validity rule saw in a phase, over all trials that were judged."""

    rule: Annotated[str, Meta(description="Key of the rule")]
    title: Annotated[str, Meta(description="What is looked at")]
    phase: Annotated[str, Meta(description="Phase, empty for the whole trial")]
    arm: Annotated[str, Meta(description="Arm of the worst trial")]
    block: Annotated[int, Meta(description="Its block")]
    seen: Annotated[float, Meta(description="The worst seen", extra_json_schema={"unit": "as in `unit`"})]
    limit: Annotated[float, Meta(description="What is allowed", extra_json_schema={"unit": "as in `unit`"})]
    unit: Annotated[str, Meta(description="Unit: %, ms, ppm or empty for a count")]
    trials_over: Annotated[int, Meta(description="Trials beyond the limit", extra_json_schema={"unit": "trials"})]


class Void(msgspec.Struct, frozen=True):
    """A block that does not count, and why."""

    block: Annotated[int, Meta(description="Block")]
    why: Annotated[Literal["validity", "interrupted"], Meta(description="An instrument fault, or a stopped run")]
    reasons: Annotated[list[str], Meta(description="What was seen against which limit, and what to do, a line each")]


class OverCapacity(msgspec.Struct, frozen=True):
    """A server that could not keep up in a phase: a result, not a fault."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    trials: Annotated[int, Meta(description="Trials in which it fell behind", extra_json_schema={"unit": "trials"})]
    of_trials: Annotated[int, Meta(description="Trials of the arm", extra_json_schema={"unit": "trials"})]
    text: Annotated[str, Meta(description="What was seen, in words")]


class Ceiling(msgspec.Struct, frozen=True):
    """What a server without a library reached on this machine, with this driver: the most there is to reach."""

    phase: Annotated[str, Meta(description="Phase")]
    protocol: Annotated[str, Meta(description="sse or websocket")]
    measure: Annotated[str, Meta(description="throughput, cpu_server or capacity")]
    value: Annotated[float, Meta(description="Its figure", extra_json_schema={"unit": "as in `measures`"})]


class Results(msgspec.Struct, kw_only=True):
    """Everything tokenwire found in one run."""

    format: Annotated[int, Meta(description="Version of this format")] = FORMAT
    tokenwire: Annotated[str, Meta(description="Version of tokenwire that ran it")]
    run: Annotated[str, Meta(description="Name of the run")]
    created: Annotated[str, Meta(description="When it began, ISO 8601")]
    state: Annotated[str, Meta(description="running, finished, interrupted or failed")]
    scenario: Annotated[str, Meta(description="Name of the scenario")]
    source: Annotated[str, Meta(description="What `run` was given: the name of a shipped scenario, or a path")]
    title: Annotated[str, Meta(description="Title of the scenario")]
    mode: Annotated[str, Meta(description="equal or as-deployed")]
    seed: Annotated[int, Meta(description="Seed of everything random")]
    overrides: Annotated[list[str], Meta(description="Settings that differ from the scenario's file, key=value")]
    trials_planned: Annotated[int, Meta(description="Trials planned", extra_json_schema={"unit": "trials"})]
    trials_finished: Annotated[int, Meta(description="Trials on disk", extra_json_schema={"unit": "trials"})]
    blocks_planned: Annotated[int, Meta(description="Blocks planned", extra_json_schema={"unit": "blocks"})]
    machine: Annotated[dict[str, Any], Meta(description="The machine")]
    versions: Annotated[dict[str, Any], Meta(description="Versions of the packages of the parent process")]
    pinning: Annotated[dict[str, Any] | None, Meta(description="CPUs of server and driver, or null: not pinned")]
    warnings: Annotated[list[str], Meta(description="What could not be read or is missing, one line each")]
    incidents: Annotated[list[Incident], Meta(description="Trials not to be trusted, and why")]
    arms: Annotated[list[Arm], Meta(description="What was compared")]
    phases: Annotated[list[Phase], Meta(description="Phases, in the order they ran")]
    measures: Annotated[dict[str, MeasureInfo], Meta(description="Every measure that `values` holds, by key")]
    values: Annotated[
        list[Value], Meta(description="Measures, one row each: phase, arm, temperature, measure, statistic")
    ]
    accounts: Annotated[list[Account], Meta(description="Streams and tokens accounted for, by phase and arm")]
    wire: Annotated[list[WireBytes], Meta(description="Bytes per token, taken apart")]
    conclusions: Annotated[
        Conclusions | None, Meta(description="Verdicts and what they rest on; null where they were not asked for")
    ] = None
    blocks_whole: Annotated[
        int, Meta(description="Blocks with a valid trial of every arm", extra_json_schema={"unit": "blocks"})
    ] = 0
    voids: Annotated[list[Void], Meta(description="Blocks that do not count")] = []
    checks: Annotated[list[Check], Meta(description="What every validity rule saw at worst")] = []
    cautions: Annotated[list[str], Meta(description="What explains a figure without voiding it, a sentence each")] = []
    over_capacity: Annotated[list[OverCapacity], Meta(description="Servers that could not keep up")] = []
    command: Annotated[list[str], Meta(description="The command of tokenwire that ran it, with its own options")] = (
        msgspec.field(default_factory=lambda: ["run"])
    )
    floors: Annotated[
        dict[str, float],
        Meta(
            description="By primary measure, the smallest effect that this machine's noise leaves room for, as a run "
            "of an arm against itself showed; empty where there was none",
            extra_json_schema={"unit": "as in `unit` of the comparison, or a share"},
        ),
    ] = {}
    network: Annotated[
        dict[str, Any],
        Meta(
            description="What lay between driver and servers: `name`, `kind` (none: loopback, packets, or modelled on "
            "streams), and `network` with its settings; empty where the records do not say"
        ),
    ] = {}
    ceilings: Annotated[list[Ceiling], Meta(description="The roofline: a server without a library")] = []
    openings: Annotated[list[Opening], Meta(description="What a connection costs before its first token")] = []
    recoveries: Annotated[list[Recovery], Meta(description="Streams that broke off, and what became of them")] = []
    leavings: Annotated[list[Leaving], Meta(description="Clients that left before their stream was over")] = []
    slow_readers: Annotated[list[SlowReaders], Meta(description="Clients that read slowly, and the others")] = []
    holdings: Annotated[list[Holding], Meta(description="What open streams cost")] = []


class Summary(Results, kw_only=True):
    """The results, with what charts need besides."""

    shapes: Shapes
    index: Mapping[tuple[str, str, str, int, str, str], Value]

    def get(
        self, phase: str, arm: str, temperature: str, measure: str, statistic: str = "value", users: int = 0
    ) -> Value | None:
        """The value of a measure, or None where the records have none (or too few samples)."""
        return self.index.get((phase, arm, temperature, users, measure, statistic))

    def account(self, phase: str, arm: str) -> Account | None:
        """What became of the streams of an arm in a phase; None when it never ran."""
        return next((a for a in self.accounts if (a.phase, a.arm) == (phase, arm)), None)
