"""Gates as a run would come to them, without one."""

from __future__ import annotations

from typing import Any

from bench.gate.result import CODES, FORMAT, Decision, Gate, Row, Side

BASE_COMMIT, HEAD_COMMIT = "0f3c" * 10, "9a1e" * 10
ARMS = ("sse-aiohttp", "ws-aiohttp")


def timing(**changes: Any) -> Row:
    """Server CPU of one arm, not worse."""
    return _row(
        {
            "name": "cpu/sse-aiohttp",
            "kind": "timing",
            "title": "Server CPU per token",
            "where": "warm",
            "arm": "sse-aiohttp",
            "measure": "cpu_server",
            "unit": "µs",
            "base": 61.2,
            "head": 61.4,
            "finding": "same",
            "sentence": "Server CPU per token (warm) on sse-aiohttp: +0.3 %, not worse by 3 % or more.",
            "scale": "ratio",
            "effect": 0.0033,
            "low": -0.008,
            "high": 0.0146,
            "smallest_effect": 0.03,
        },
        changes,
    )


def latency(**changes: Any) -> Row:
    """The excess of the first token, by a difference in ms."""
    told = {
        "name": "first-token/sse-aiohttp",
        "title": "First token, excess",
        "where": "cold, p50",
        "measure": "ttft_excess",
        "unit": "ms",
        "base": 0.842,
        "head": 0.861,
        "sentence": "First token, excess (cold, p50) on sse-aiohttp: +0.019 ms, not worse by 0.1 ms or more.",
        "scale": "difference",
        "effect": 0.019,
        "low": -0.021,
        "high": 0.058,
        "smallest_effect": 0.1,
    }
    return timing(**(told | changes))


def throughput(**changes: Any) -> Row:
    """Of which more is better."""
    told = {
        "name": "throughput/sse-aiohttp",
        "title": "Tokens per second",
        "where": "flood",
        "measure": "throughput",
        "unit": "1/s",
        "base": 184_000.0,
        "head": 172_500.0,
        "finding": "regression",
        "sentence": "Tokens per second (flood) on sse-aiohttp: -6.2 %, worse, by more than 3 %.",
        "effect": -0.0625,
        "low": -0.081,
        "high": -0.045,
        "more_is_better": True,
    }
    return timing(**(told | changes))


def exact(**changes: Any) -> Row:
    """Tokens lost, none."""
    return _row(
        {
            "name": "lost/chat/ws-aiohttp",
            "kind": "count",
            "title": "Tokens lost",
            "where": "chat",
            "arm": "ws-aiohttp",
            "measure": "lost",
            "unit": "",
            "base": 0.0,
            "head": 0.0,
            "finding": "same",
            "sentence": "Tokens lost in chat on ws-aiohttp: 0, base 0.",
            "effect": 0.0,
        },
        changes,
    )


def micro(**changes: Any) -> Row:
    """A hot path, as advice."""
    return _row(
        {
            "name": "micro/parse_sse",
            "kind": "micro",
            "title": "Parse an SSE event",
            "where": "",
            "arm": "",
            "measure": "parse_sse",
            "unit": "× reference",
            "base": 3.41,
            "head": 3.39,
            "decides": False,
            "finding": "told",
            "sentence": "Parse an SSE event: -0.6 %.",
            "scale": "ratio",
            "effect": -0.006,
            "low": -0.02,
            "high": 0.009,
        },
        changes,
    )


def passing(**changes: Any) -> Gate:
    """Nothing worse."""
    rows = [timing(), latency(), *(exact(name=f"lost/chat/{arm}", arm=arm) for arm in ARMS), micro()]
    return _gate("pass", [f"None of {len(rows) - 1} measures that decide is worse."], rows, changes)


def regressed(**changes: Any) -> Gate:
    """Three measures worse, one inconclusive, one that a second run did not find, advice."""
    slower = timing(
        base=61.2,
        head=66.9,
        finding="regression",
        effect=0.0931,
        low=0.0712,
        high=0.1154,
        again="regression",
        sentence="Server CPU per token (warm) on sse-aiohttp: +9.3 % (95 % interval +7.1 % to +11.5 %), worse, by more "
        "than 3 %. A second run found the same.",
    )
    lost = exact(
        head=3.0, effect=3.0, finding="regression", sentence="Tokens lost in chat on ws-aiohttp: 3, base 0 (of 41,280)."
    )
    open_ = latency(
        name="gap/ws-aiohttp",
        title="Gap, excess",
        where="warm, p99",
        arm="ws-aiohttp",
        measure="gap_excess",
        base=0.31,
        head=0.37,
        finding="inconclusive",
        effect=0.06,
        low=-0.012,
        high=0.131,
        sentence="Gap, excess (warm, p99) on ws-aiohttp: +0.060 ms, whether it is worse by 0.1 ms cannot be told.",
    )
    better = latency(finding="improvement", head=0.61, effect=-0.232, low=-0.27, high=-0.19)
    chance = timing(name="cpu/ws-aiohttp", arm="ws-aiohttp", again="same", effect=0.021, low=0.002, high=0.041)
    bytes_ = exact(
        name="wire_bytes/chat/sse-aiohttp",
        title="Wire bytes per token",
        arm="sse-aiohttp",
        measure="wire_bytes",
        unit="B",
        base=212.4186,
        head=209.0021,
        effect=-3.4165,
        finding="improvement",
        sentence="Wire bytes per token in chat on sse-aiohttp: 209.002 B, base 212.419 (-1.6 %).",
    )
    memory = timing(
        name="memory/sse-aiohttp",
        title="Server memory per open stream",
        measure="memory",
        unit="KiB",
        base=41.5,
        head=43.9,
        decides=False,
        finding="regression",
        effect=0.058,
        low=0.041,
        high=0.075,
        sentence="Server memory per open stream (warm) on sse-aiohttp: +5.8 %, worse, by more than 3 %.",
    )
    rows = [slower, throughput(), lost, open_, better, bytes_, chance, exact(name="lost/chat/sse-aiohttp"), memory]
    reasons = [row.sentence for row in rows if row.decides and row.finding == "regression"]
    notes = ["Head's server says of itself setting coalesce: off, base none (on sse-aiohttp)."]
    told = {
        "voids": ["Block 4 does not count: the driver's loop lagged by 61 ms."],
        "runs": ["results/gate-20261123-101500", "results/gate-20261123-102300"],
        "notes": notes,
    }
    return _gate("regression", reasons, [*rows, micro()], told | changes)


def inconclusive(**changes: Any) -> Gate:
    """One measure left open."""
    row = latency(
        finding="inconclusive",
        low=-0.05,
        high=0.14,
        sentence="First token, excess (cold, p50) on sse-aiohttp: whether it is worse by 0.1 ms cannot be told.",
    )
    return _gate("inconclusive", [row.sentence], [row, timing()], changes)


def invalid(**changes: Any) -> Gate:
    """Nothing can be said, though something was measured."""
    reasons = ["Base lost tokens in every block.", "The driver was busy for 94 % of the time."]
    return _gate("invalid", reasons, [timing(finding="regression"), exact()], {"blocks": 0} | changes)


HOSTILE = (
    "Fix | `x` <img src=x onerror=alert(1)> @octocat/team #12 GH-7 https://evil.example/a ]( ``` \r\n\n# big\n"
    '- [x] **b** &lt; \x00\x08\x1b[31m\ud800\uffff \U0001f600 \\ $x$ ]]> "q" \'q\' -- </details> <!-- --> {y="1"}'
)
"""What a commit's subject could hold at worst."""


def hostile() -> Gate:
    """Everything that comes from outside is meant to break its file."""
    row = timing(name=HOSTILE, title=HOSTILE, where=HOSTILE, arm=HOSTILE, sentence=HOSTILE, finding="regression")
    told = {
        "base": side("base", what=HOSTILE, command=HOSTILE, revision=""),
        "head": side("head", what=HOSTILE, command=HOSTILE, versions={HOSTILE: HOSTILE}),
        "voids": [HOSTILE],
        "notes": [HOSTILE],
        "runs": [HOSTILE],
        "size": HOSTILE,
        "tokenwire": HOSTILE,
        "machine": {"cpu": HOSTILE, "cores": 2},
    }
    advice = timing(name="advice", title=HOSTILE, decides=False, finding="told")
    count = exact(name="count", title=HOSTILE, arm=HOSTILE, finding="inconclusive", sentence=HOSTILE, head=1.0)
    return _gate("regression", [HOSTILE, HOSTILE], [row, count, advice], told)


def large(deciding: int = 60, advice: int = 3_000) -> Gate:
    """More rows than a comment can hold."""
    rows = [timing(name=f"cpu/{i}", arm=f"arm-{i}") for i in range(deciding)]
    rows += [exact(name=f"lost/{i}", arm=f"arm-{i}") for i in range(deciding)]
    rows += [timing(name=f"more/{i}", arm=f"arm-{i}", decides=False) for i in range(advice)]
    return _gate("pass", ["Nothing is worse."], rows, {})


def side(name: str, **changes: Any) -> Side:
    """A commit."""
    commit = BASE_COMMIT if name == "base" else HEAD_COMMIT
    told: dict[str, Any] = {
        "name": name,
        "what": f"{commit[:12]} Let the {'server' if name == 'base' else 'writer'} flush once a token",
        "revision": commit,
        "versions": {"aiohttp": "3.14.1", "python": "3.13.2"},
        "lock": "ab" * 32,
    }
    return Side(**(told | changes))


def _gate(decision: Decision, reasons: list[str], rows: list[Row], changes: dict[str, Any]) -> Gate:
    told: dict[str, Any] = {
        "format": FORMAT,
        "tokenwire": "0.1.0",
        "created": "2026-11-23T10:15:00+00:00",
        "seconds": 486.2,
        "size": "small",
        "options": [],
        "decision": decision,
        "exit_code": CODES[decision],
        "reasons": reasons,
        "base": side("base"),
        "head": side("head", changed=True, versions={"aiohttp": "3.14.3", "python": "3.13.2"}),
        "rows": rows,
        "blocks": 10,
        "voids": [],
        "runs": ["results/gate-20261123-101500"],
        "notes": [],
        "machine": {
            "cpu": "AMD EPYC 7763 64-Core Processor",
            "cores": 4,
            "memory_bytes": 16_772_579_328,
            "kernel": "6.11.0",
            "os": "Linux",
            "python": "CPython 3.13.2",
        },
    }
    return Gate(**(told | changes))


def _row(told: dict[str, Any], changes: dict[str, Any]) -> Row:
    return Row(**({"decides": True, "blocks": 10} | told | changes))
