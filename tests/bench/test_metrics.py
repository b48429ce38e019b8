"""Numbers against a run whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from synthetic import (
    ARMS,
    CONNECT_MS,
    DEFLATED,
    DELIVERY_MS,
    EXCESS_MS,
    FRAMING,
    HEAD,
    JSON,
    LATE_MS,
    OTHER,
    TEXT,
    UPGRADE_MS,
    Synthetic,
    write_run,
)

from bench.metrics import PARTS, Group, Summary, Unfinished, chunks_of, streams_of, summarize
from bench.record import RecordError, read_run, read_trial


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("metrics") / "run")


@pytest.fixture(scope="module")
def summary(run_dir: Path) -> Summary:
    return summarize(read_run(run_dir))


def median(summary: Summary, *key: str) -> float:
    value = summary.get(*key)
    assert value is not None, key
    return value.median


@pytest.mark.parametrize("arm", ARMS)
def test_excess_of_the_first_token_is_what_was_put_in(summary: Summary, arm: str) -> None:
    opening = CONNECT_MS + (UPGRADE_MS if ARMS[arm]["protocol"] == "websocket" else 0)
    warm = summary.get("warm", arm, "warm", "ttft_excess", "p50")
    assert warm is not None
    assert warm.per_trial == [EXCESS_MS[arm]] * 3
    assert (warm.min, warm.max, warm.samples, warm.blocks) == (EXCESS_MS[arm], EXCESS_MS[arm], 60, [0, 1, 2])
    assert median(summary, "cold", arm, "cold", "ttft_excess", "p50") == pytest.approx(EXCESS_MS[arm] + opening)


@pytest.mark.parametrize(
    ("measure", "statistic", "expected"),
    [
        ("gap_excess", "p50", 0.0),
        ("gap_excess", "p99", 0.0),
        ("lateness", "p50", LATE_MS),
        ("lateness", "p99", LATE_MS),
        ("delivery", "p99", DELIVERY_MS),
        ("coalescing", "value", 1.0),
    ],
)
def test_measures_of_chunks(summary: Summary, measure: str, statistic: str, expected: float) -> None:
    assert median(summary, "warm", "ws-aiohttp", "warm", measure, statistic) == pytest.approx(expected, abs=1e-9)


def test_connect_and_upgrade_are_for_cold_streams_only(summary: Summary) -> None:
    assert median(summary, "cold", "ws-aiohttp", "cold", "connect", "p50") == CONNECT_MS
    assert median(summary, "cold", "ws-aiohttp", "cold", "upgrade", "p50") == UPGRADE_MS
    assert summary.get("cold", "sse-aiohttp", "cold", "upgrade", "p50") is None
    assert summary.get("warm", "ws-aiohttp", "warm", "connect", "p50") is None


def test_costs(summary: Summary) -> None:
    assert median(summary, "warm", "sse-aiohttp", "all", "cpu_server") == 32.0
    assert median(summary, "warm", "sse-aiohttp", "all", "cpu_driver") == 8.0
    assert median(summary, "cold", "sse-aiohttp", "all", "cpu_server_stream") == 1.28
    assert median(summary, "cold", "sse-aiohttp", "all", "cpu_driver_stream") == 0.32
    assert summary.get("warm", "sse-aiohttp", "all", "cpu_server_stream") is None
    assert median(summary, "load", "sse-aiohttp", "all", "memory") == 30.0
    assert summary.get("warm", "sse-aiohttp", "all", "memory") is None, "too few streams were open"
    assert median(summary, "ladder", "sse-aiohttp", "all", "capacity") == 4.0
    capacity = summary.get("ladder", "sse-aiohttp", "all", "capacity")
    assert capacity is not None
    assert not capacity.at_least
    step = summary.get("ladder", "sse-aiohttp", "all", "gap_excess", "p99", users=4)
    assert step is not None
    assert step.median == 2.4


@pytest.mark.parametrize("arm", ARMS)
def test_wire_bytes_add_up(summary: Summary, arm: str) -> None:
    wire = next(w for w in summary.wire if (w.phase, w.arm) == ("warm", arm))
    framing, tokens = FRAMING[ARMS[arm]["protocol"]], 40
    assert wire.total == pytest.approx((HEAD + OTHER) / tokens + JSON + framing)
    parts = [p or 0.0 for p in (wire.head, wire.framing, wire.other, wire.envelope, wire.text)]
    assert sum(parts) == pytest.approx(wire.total)
    assert (wire.framing, wire.text, wire.envelope, wire.compressed) == (framing, TEXT, JSON - TEXT, None)


def test_compressed_messages_are_not_taken_apart(tmp_path: Path) -> None:
    what = Synthetic(blocks=1, phases=("warm",), compressed=("ws-aiohttp",))
    wires = {w.arm: w for w in summarize(read_run(write_run(tmp_path / "run", what))).wire}
    wire = wires["ws-aiohttp"]
    assert (wire.framing, wire.other, wire.envelope, wire.text) == (None, None, None, None)
    assert (wire.head, wire.compressed, wire.total) == (HEAD / 40, DEFLATED, HEAD / 40 + DEFLATED)
    assert wires["ws-websockets"].compressed is None


def test_parts_of_the_first_token_add_up_to_its_excess(run_dir: Path) -> None:
    for trial in read_run(run_dir).trials[:3]:
        frame = read_trial(trial.path)
        websocket = ARMS[trial.facts["arm"]]["protocol"] == "websocket"
        streams = streams_of(frame, chunks_of(frame), websocket=websocket)
        assert np.allclose(streams[list(PARTS)].sum(axis=1), streams["ttft_excess"], atol=1e-9)


def test_priming_streams_are_in_no_figure(summary: Summary) -> None:
    account = summary.account("warm", "sse-aiohttp")
    assert account is not None
    assert (account.streams, account.outcomes, account.failed) == (60, {"complete": 60}, 0)


def test_percentiles_need_samples_beyond_them(summary: Summary) -> None:
    assert summary.get("warm", "sse-aiohttp", "warm", "ttft_excess", "p90") is None, "20 streams: 2 beyond p90"
    assert summary.get("warm", "sse-aiohttp", "warm", "gap_excess", "p99") is not None, "780 gaps: 7 beyond p99"
    assert summary.get("warm", "sse-aiohttp", "warm", "gap_excess", "p99.9") is None


def test_nothing_paced_is_said_of_unpaced_tokens(summary: Summary) -> None:
    assert [p.paced for p in summary.phases] == [True, True, True, False, True]
    assert not any(group.phase == "unpaced" for group, _ in summary.shapes.counts)


def test_pooled_counts_hold_every_gap(summary: Summary) -> None:
    counts = summary.shapes.counts[Group("warm", "sse-aiohttp", "warm"), "gap_excess"]
    assert counts.sum() == 3 * 20 * 39


def test_a_cut_stream_counts_as_failed_and_what_it_had_is_measured(tmp_path: Path) -> None:
    cut = summarize(read_run(write_run(tmp_path / "cut", Synthetic(blocks=1, phases=("warm",), fail_every=10))))
    account = cut.account("warm", "sse-aiohttp")
    assert account is not None
    assert account.outcomes == {"complete": 18, "truncated": 2}
    assert (account.failed, account.lost, account.tokens) == (2, 40, 18 * 40 + 2 * 20)
    first, whole = (cut.get("warm", "sse-aiohttp", "warm", m, "p50") for m in ("ttft_excess", "e2e"))
    assert first is not None
    assert whole is not None
    assert (first.samples, whole.samples) == (20, 18)


def test_a_missing_chunk_leaves_no_gap_across_it(run_dir: Path) -> None:
    frame = read_trial(read_run(run_dir).trials[0].path)
    frame = frame[frame["phase"].astype(str) == "warm"]
    whole = chunks_of(frame)
    chunks = chunks_of(frame[frame["chunk"].isna() | (frame["chunk"] != 5)])
    assert len(whole) - len(chunks) == 20
    assert chunks["icl"].notna().sum() == whole["icl"].notna().sum() - 2 * 20


def test_an_interrupted_run_is_summarized_as_far_as_it_came(tmp_path: Path) -> None:
    some = summarize(read_run(write_run(tmp_path / "some", Synthetic(finished=4, phases=("warm",)))))
    assert (some.state, some.trials_finished, some.trials_planned) == ("interrupted", 4, 9)
    assert [a.trials for a in some.arms] == [1, 2, 1]


def test_a_run_without_a_trial_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unfinished, match="no finished trial") as error:
        summarize(read_run(write_run(tmp_path / "none", Synthetic(finished=0))))
    assert "\n" not in str(error.value)


def test_a_capacity_is_a_lower_bound_when_the_last_step_held(tmp_path: Path) -> None:
    what = Synthetic(blocks=2, phases=("ladder",), steps_ms=(0.9, 2.4, 4.0))
    capacity = summarize(read_run(write_run(tmp_path / "run", what))).get("ladder", "sse-aiohttp", "all", "capacity")
    assert capacity is not None
    assert (capacity.median, capacity.at_least, capacity.max_at_least) == (8.0, True, True)


def test_a_step_without_gaps_gives_no_capacity(tmp_path: Path) -> None:
    what = Synthetic(blocks=1, phases=("ladder",), steps_ms=(0.9, None, None))
    summary = summarize(read_run(write_run(tmp_path / "run", what)))
    assert summary.get("ladder", "sse-aiohttp", "all", "capacity") is None
    assert summary.get("ladder", "sse-aiohttp", "all", "gap_excess", "p99", users=4) is None


@pytest.mark.parametrize(
    ("first", "gap", "step_ms", "paced"),
    [
        ({"dist": "lognormal", "median_ms": 0.0, "sigma": 0.5}, {"dist": "exponential", "mean_ms": 0.0}, 0.0, False),
        ({"dist": "constant", "ms": 0.0}, {"dist": "constant", "ms": 0.0004}, 0.0, False),
        ({"dist": "constant", "ms": 80.0}, {"dist": "constant", "ms": 0.0}, 0.0, True),
        ({"dist": "constant", "ms": 0.0}, {"dist": "constant", "ms": 0.0}, 5.0, True),
    ],
)
def test_whether_tokens_are_paced_is_read_from_their_delays(
    tmp_path: Path, first: dict[str, Any], gap: dict[str, Any], step_ms: float, paced: bool
) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("unpaced",)))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["profiles"]["instant"] |= {"first": first, "gap": gap, "step_ms": step_ms}
    (folder / "run.json").write_text(json.dumps(info))
    assert summarize(read_run(folder)).phases[0].paced is paced


def trials_in(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "trials").iterdir())


def retold(path: Path, to: Path, **facts: Any) -> None:
    """Copy a trial's file with other facts; `format` is the file's."""
    table = pq.read_table(path)
    kept = json.loads(table.schema.metadata[b"tokenwire"])
    kept["format"] = facts.pop("format", kept["format"])
    kept["trial"] |= facts
    pq.write_table(table.replace_schema_metadata({"tokenwire": json.dumps(kept)}), to)


def test_of_two_files_of_a_trial_the_one_with_its_name_is_kept(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("warm",)))
    good = folder / "trials" / "000-ws-aiohttp.parquet"
    (folder / "trials" / "000-copy.parquet").write_bytes(good.read_bytes())
    run = read_run(folder)
    assert good in [t.path for t in run.trials]
    assert len(run.trials) == 3
    assert run.warnings == ["000-copy.parquet: left out, block 0 has another file of ws-aiohttp"]


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"arm": "other"}, "the scenario has no arm 'other'"),
        ({"format": 9}, "format 9; this version reads format 1"),
        ({"block": "x"}, "it cannot be read: ValidationError"),
    ],
)
def test_a_file_of_another_run_or_format_is_left_out(tmp_path: Path, facts: dict[str, Any], why: str) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("warm",)))
    retold(folder / "trials" / "000-ws-aiohttp.parquet", folder / "trials" / "strange.parquet", **facts)
    summary = summarize(read_run(folder))
    assert summary.trials_finished == 3
    assert summary.warnings[0].startswith(f"strange.parquet: left out, {why}")


def test_a_phase_that_the_scenario_does_not_have_leaves_the_trial_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("warm", "unpaced")))
    info = json.loads((folder / "run.json").read_text())
    del info["scenario"]["phases"]["unpaced"]
    (folder / "run.json").write_text(json.dumps(info))
    run = read_run(folder)
    assert not run.trials
    assert all("the scenario has no phase 'unpaced'" in w for w in run.warnings)


def test_corrupt_pages_leave_one_trial_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("warm",)))
    broken = folder / "trials" / "000-sse-aiohttp.parquet"
    data = bytearray(broken.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    broken.write_bytes(data)
    summary = summarize(read_run(folder))
    assert (summary.trials_finished, [a.trials for a in summary.arms]) == (2, [0, 1, 1])
    assert summary.warnings[0].startswith("000-sse-aiohttp.parquet: left out, it cannot be read")
    for other in trials_in(folder):
        (folder / "trials" / other).write_bytes(data)
    with pytest.raises(Unfinished, match="no trial can be read"):
        summarize(read_run(folder))


@pytest.mark.parametrize("text", ["[]", "3", "{", '{"format": 1}', '{"format": 1, "scenario": {}}'])
def test_a_run_file_that_is_not_one_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RecordError) as error:
        read_run(tmp_path)
    assert "\n" not in str(error.value)


def test_chunks_are_not_lost_where_the_client_left(tmp_path: Path) -> None:
    what = Synthetic(blocks=1, phases=("warm",), fail_every=10, outcome="timed_out")
    account = summarize(read_run(write_run(tmp_path / "run", what))).account("warm", "sse-aiohttp")
    assert account is not None
    assert (account.failed, account.lost) == (2, 0)


def test_the_rate_of_steps_is_over_their_windows_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("ladder",)))
    trial = read_run(folder).trials[0]
    window = trial.facts["phases"]["ladder"] | {"window_ns": 2_000_000_000}
    retold(trial.path, trial.path, phases={"ladder": window})
    assert median(summarize(read_run(folder)), "ladder", "sse-aiohttp", "all", "throughput") == 3 * 20 * 40 / 2


def test_a_file_without_a_column_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("warm",)))
    path = folder / "trials" / "000-ws-aiohttp.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["due_ns"]), path)
    (warning,) = summarize(read_run(folder)).warnings
    assert warning.startswith("000-ws-aiohttp.parquet: left out, it cannot be read")
    assert "due_ns" in warning
    assert len(warning) < 300
