"""What explains figures is found in frames made up to show it, just beyond its threshold, and in no ordinary ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import PHASES, Synthetic, write_run

from bench.metrics.cautions import KINDS, Caution, cautions_of, merge, over_capacity
from bench.metrics.trial import chunks_of, streams_of
from bench.record import read_run, read_trial

STREAMS, TOKENS = 40, 50
MS = 1_000_000
ORDINARY = {"window_ns": 10_000 * MS, "server_cpu_ns": 2_000 * MS, "tokens": 2000, "tokens_due": 2000}
BUSY = ORDINARY | {"server_cpu_ns": 9_000 * MS}


def frame(
    late_ms: Any = 0.2, delivery_ms: Any = 0.1, *, gap_ms: float = 20.0, read: Any = None, outcomes: Any = "complete"
) -> pd.DataFrame:
    """Streams that start 100 ms apart, a row per chunk; what is given is broadcast to streams x tokens.

    Without `read` every chunk has its own.
    """
    shape = (STREAMS, TOKENS)
    stream, chunk = np.meshgrid(np.arange(STREAMS), np.arange(TOKENS), indexing="ij")
    due = 10_000 * MS + stream * 100 * MS + chunk * round(gap_ms * MS)
    written = due + (np.broadcast_to(late_ms, shape) * MS).astype(np.int64)
    received = written + (np.broadcast_to(delivery_ms, shape) * MS).astype(np.int64)
    numbers = np.arange(STREAMS * TOKENS).reshape(shape) if read is None else np.broadcast_to(read, shape)
    columns = {
        "stream": stream, "chunk": chunk, "read": numbers, "due_ns": due, "written_ns": written,
        "received_ns": received, "tokens": np.ones(shape, dtype=int),
    }  # fmt: skip
    rows = pd.DataFrame({name: values.ravel() for name, values in columns.items()}).astype("Int64")
    for name in ("intended_ns", "started_ns", "requested_ns", "taken_up_ns", "first_byte_ns"):
        rows[name] = pd.Series((due[:, :1] + 0 * due).ravel(), dtype="Int64")
    for name in ("connected_ns", "ready_ns"):
        rows[name] = pd.Series([pd.NA] * len(rows), dtype="Int64")
    rows["ended_ns"] = rows["received_ns"]
    outcome = np.broadcast_to(np.asarray(outcomes).reshape(-1, 1), shape).ravel()
    return rows.assign(window=True, cold=False, outcome=outcome)


def found(
    rows: pd.DataFrame, facts: Any = ORDINARY, load: str = "closed", *, paced: bool = True, block: int = 1
) -> dict[str, float]:
    """Kind -> what was seen, of what is found in a phase of one trial."""
    chunks = chunks_of(rows)
    streams = streams_of(rows, chunks, websocket=False)
    some = cautions_of("chat", "a", block, streams, chunks, facts, {"load": load}, paced)
    assert all((c.phase, c.arm, c.block) == ("chat", "a", block) for c in some)
    return {c.kind: c.seen for c in some}


def capacity(rows: pd.DataFrame, facts: Any = ORDINARY, load: str = "closed") -> Caution | None:
    return over_capacity("chat", "a", 1, chunks_of(rows), facts, {"load": load})


def every(n: int, ms: float, otherwise: float = 0.1) -> Any:
    """One value in `n` of all chunks is `ms`."""
    return np.where(np.arange(STREAMS * TOKENS) % n == n - 1, ms, otherwise).reshape(STREAMS, TOKENS)


def test_ordinary_trials_give_no_caution(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, Synthetic(blocks=2, streams=30, noise=True), seed=5))
    for trial in run.trials:
        rows = read_trial(trial.path)
        for phase, facts in trial.facts["phases"].items():
            facts["window_ns"] = facts["window_end_ns"] - facts["window_start_ns"]
            chunks = chunks_of(rows[rows["phase"].astype(str) == phase])
            streams = streams_of(rows[rows["phase"].astype(str) == phase], chunks, websocket=False)
            arm, paced = trial.facts["arm"], phase != "unpaced"
            assert cautions_of(phase, arm, 1, streams, chunks, facts, PHASES[phase], paced) == []
            assert not paced or over_capacity(phase, arm, 1, chunks, facts, PHASES[phase]) is None


@pytest.mark.parametrize("load", ["closed", "open", "steps"])
def test_even_frames_give_no_caution(load: str) -> None:
    assert found(frame(), load=load) == {}
    assert found(frame(gap_ms=40.0), load=load) == {}  # the schedule's own gaps of 40 ms
    assert found(frame().iloc[:0], load=load) == {}


# A mode near 40 ms.


@pytest.mark.parametrize("ms", [38.5, 40.0, 44.0])
def test_deliveries_of_40_ms(ms: float) -> None:
    assert found(frame(delivery_ms=every(4, ms), gap_ms=100.0)) == pytest.approx({"mode_40ms": 0.25}, abs=0.01)


def test_gaps_of_40_ms_where_less_was_due() -> None:
    waits = np.where(np.arange(TOKENS) % 2 == 1, 20.0, 0.1)  # every other token waits for the ACK: gaps 40, 0, 40
    assert found(frame(delivery_ms=waits))["mode_40ms"] == pytest.approx(0.51, abs=0.01)


@pytest.mark.parametrize(("every_nth", "seen"), [(180, True), (220, False)], ids=["over", "under-half-a-per-cent"])
def test_few_deliveries_of_40_ms(every_nth: int, seen: bool) -> None:
    wide = every(every_nth, 40.0)
    assert ("mode_40ms" in found(frame(delivery_ms=wide, gap_ms=100.0))) == seen


def test_a_wide_spread_is_no_mode() -> None:
    spread = np.random.default_rng(3).uniform(0, 90, (STREAMS, TOKENS))
    assert "mode_40ms" not in found(frame(delivery_ms=spread, gap_ms=100.0))


def test_a_mode_elsewhere_is_not_this_one() -> None:
    assert found(frame(delivery_ms=every(4, 33.0), gap_ms=100.0)) == {}
    assert found(frame(delivery_ms=every(4, 50.0), gap_ms=100.0)) == {}


# Written apart, received together.


def pairs(n: int) -> Any:
    """Read numbers in which one chunk in `n` came with the one before it."""
    alone = np.arange(STREAMS * TOKENS) % n != n - 1
    return np.cumsum(alone).reshape(STREAMS, TOKENS)


@pytest.mark.parametrize(("every_nth", "seen"), [(90, True), (110, False)], ids=["over", "under-one-per-cent"])
def test_received_together(every_nth: int, seen: bool) -> None:
    assert ("together" in found(frame(read=pairs(every_nth)))) == seen


@pytest.mark.parametrize(("gap_ms", "seen"), [(1.1, True), (1.0, False)])
def test_written_together_is_received_together(gap_ms: float, seen: bool) -> None:
    assert ("together" in found(frame(gap_ms=gap_ms, read=pairs(2)))) == seen


def test_a_busy_server_explains_modes_and_pairs_by_itself() -> None:
    rows = frame(delivery_ms=every(4, 40.0), gap_ms=100.0, read=pairs(2))
    assert set(found(rows)) == {"mode_40ms", "together"}
    assert found(rows, BUSY) == {}


# Rates.


def slower(pace: float) -> Any:
    """Delays (ms) that grow over a stream so that it takes 1 / `pace` of its time."""
    return 0.1 + np.arange(TOKENS) * 20.0 * (1 / pace - 1)


@pytest.mark.parametrize(("pace", "seen"), [(0.94, True), (0.96, False)])
def test_received_slower_than_due(pace: float, seen: bool) -> None:
    assert found(frame(delivery_ms=slower(pace))) == (pytest.approx({"rate": pace}, abs=0.001) if seen else {})
    assert found(frame(delivery_ms=slower(pace)), load="steps") == {}
    assert found(frame(delivery_ms=slower(pace)), paced=False) == {}


def test_starts_not_achieved() -> None:
    some = ["dropped"] * 4 + ["complete"] * 36
    assert found(frame(outcomes=some), load="open") == {"starts": 0.9}
    assert found(frame(outcomes=some), load="open", paced=False) == {"starts": 0.9}
    assert found(frame(outcomes=some), load="closed") == {}


# Over capacity.


@pytest.mark.parametrize(("pace", "over"), [(0.94, True), (0.96, False)])
def test_writing_slower_than_due_is_over_capacity(pace: float, over: bool) -> None:
    rows = frame(late_ms=slower(pace))
    seen = capacity(rows)
    assert (seen is not None) == over
    assert seen is None or (seen.kind == "over_capacity" and seen.seen == pytest.approx(pace, abs=0.001))
    assert capacity(rows, load="steps") is None
    assert found(rows) == {}  # the server's doing, said of the server


def growing(to_ms: float, from_ms: float = 0.0) -> Any:
    """Lateness that grows from stream to stream, and hardly within one."""
    return np.linspace(from_ms, to_ms, STREAMS).reshape(STREAMS, 1)


@pytest.mark.parametrize(
    ("late", "facts", "over"),
    [
        (growing(60), BUSY, True),
        (growing(60), ORDINARY, False),
        (growing(60), ORDINARY | {"server_cpu_ns": 8_500 * MS}, False),
        (growing(60), ORDINARY | {"server_cpu_ns": 8_501 * MS}, True),
        (growing(25), BUSY, False),
        (growing(100, from_ms=80), BUSY, False),
        (growing(0, from_ms=60), BUSY, False),
        (30.0, BUSY, False),
    ],
    ids=["grows", "idle", "strength-left", "at-its-end", "little", "not-twice", "recovers", "late-but-steady"],
)
def test_growing_lateness_of_a_busy_server(late: Any, facts: Any, over: bool) -> None:
    assert (capacity(frame(late_ms=late), facts) is not None) == over


def test_what_is_not_paced_or_not_logged_has_no_capacity() -> None:
    assert capacity(frame(gap_ms=0.0), BUSY) is None
    rows = frame(late_ms=slower(0.5))
    rows["written_ns"] = pd.Series([pd.NA] * len(rows), dtype="Int64")
    assert capacity(rows, BUSY) is None
    assert "together" not in found(rows)


# Words.


def test_text_of_one_trial() -> None:
    seen = capacity(frame(late_ms=slower(0.8)))
    assert seen is not None
    assert seen.text == (
        "chat, a, block 1: the server could not keep up: its lateness grew, and it wrote tokens at 80.0 % of the rate "
        "at which they were due."
    )


def test_merge_gives_a_sentence_per_kind_phase_and_arm() -> None:
    seen = [Caution("together", "chat", arm, block, block / 100, "") for block in (1, 2, 4) for arm in ("a", "b")]
    one = Caution("mode_40ms", "long", "a", 2, 0.5, "")
    merged = merge([*seen[:-1], one])
    assert [(m.kind, m.phase, m.arm, m.trials, m.seen) for m in merged] == [
        ("mode_40ms", "long", "a", 1, 0.5),
        ("together", "chat", "a", 3, 0.02),
        ("together", "chat", "b", 2, 0.015),
    ]
    assert merged[1].text == (
        "chat, a: 2.0 % of neighbouring tokens were written over 1 ms apart and received in one read, so something "
        "between buffers (in 3 trials, the median of which is given). Look for buffering in the server's library or in "
        "a proxy, and flush after each token."
    )
    assert "(in 1 trial)" in merged[0].text
    assert "TCP_NODELAY" in merged[0].text
    assert merge([]) == []


def test_every_kind_says_what_and_what_to_do() -> None:
    assert all(kind.what.count("{}") == 1 and kind.advice.endswith(".") for kind in KINDS.values())
