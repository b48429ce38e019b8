"""Memory and CPU of open streams against their number, with lines known beforehand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import rendered
from rich.console import Console
from synthetic import ARMS, Synthetic, write_run

from bench.metrics import Summary, summarize
from bench.metrics.crowd import Holdings, line
from bench.metrics.seen import Seen
from bench.record import METADATA_KEY, read_run
from bench.report import describe
from bench.report.charts import drawn
from bench.report.findings import findings
from bench.report.sections import crowd
from bench.report.terminal import print_summary

SIZES = (0, 10, 20, 40)
EACH = 14 * 1024
"""Memory of an open stream in the server, in bytes; a quarter of it in the driver."""
START = 30 << 20
CORES = 0.05
"""Of a thousand open streams, in the server; half of it in the driver."""


def held(size: int, wobble: int = 0, open_: int | None = None) -> dict[str, int]:
    open_ = size if open_ is None else open_
    return {
        "size": size, "open": open_, "hold_ns": 2_000_000_000, "chunks": open_,
        "server_cpu_ns": int(CORES * open_ / 1000 * 2e9), "driver_cpu_ns": int(CORES / 2 * open_ / 1000 * 2e9),
        # What the first streams take once is in no slope.
        "server_memory": START + EACH * open_ + (5 << 20 if open_ else 0) + wobble,
        "driver_memory": START + EACH // 4 * open_,
    }  # fmt: skip


def seen(some: list[dict[str, int]], block: int = 0) -> Seen:
    nothing = pd.DataFrame()
    return Seen("crowd", "ws-aiohttp", block, {}, {"held": some}, nothing, nothing, nothing)


def test_the_slope_is_what_a_stream_costs_and_the_start_is_left_out() -> None:
    holdings = Holdings()
    for block in range(3):
        holdings.add(seen([held(size) for size in SIZES], block))
    [found] = holdings.found()
    assert found.server_memory is not None
    assert found.server_memory.slope == pytest.approx(EACH)
    assert found.server_memory.at_none == pytest.approx(START + (5 << 20))
    assert (found.server_memory.low, found.server_memory.high) == (pytest.approx(EACH), pytest.approx(EACH))
    assert found.server_memory.points == 9
    assert found.driver_memory is not None
    assert found.driver_memory.slope == pytest.approx(EACH / 4)
    assert found.server_cpu is not None
    assert found.server_cpu.slope == pytest.approx(CORES)
    assert found.driver_cpu is not None
    assert found.driver_cpu.slope == pytest.approx(CORES / 2)
    assert [size.size for size in found.sizes] == list(SIZES)
    assert found.sizes[-1].tokens_per_s == pytest.approx(20)
    assert found.sizes[0].server_memory_mib == pytest.approx(30)
    assert (found.short, len(found.points)) == (0, 12)


def test_the_interval_is_that_of_a_textbook() -> None:
    # x = 1..5, y by hand: slope 0.6, residual sum of squares 2.4, standard error sqrt(0.8 / 10), t(3) = 3.182446.
    found = line([1, 2, 3, 4, 5], [2, 4, 5, 4, 5])
    assert found is not None
    assert found.slope == pytest.approx(0.6)
    assert found.at_none == pytest.approx(2.2)
    assert found.low == pytest.approx(0.6 - 3.182446 * 0.08**0.5)
    assert found.high == pytest.approx(0.6 + 3.182446 * 0.08**0.5)
    assert found.fit == pytest.approx(0.6)


def test_two_points_have_a_line_without_an_interval_and_one_place_has_none() -> None:
    found = line([10, 20], [1, 2])
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert line([10, 10], [1, 2]) is None
    assert line([], []) is None


def test_fewer_streams_than_wanted_are_said_and_count_as_those_that_were() -> None:
    holdings = Holdings()
    holdings.add(seen([held(0), held(10), held(20), held(40, open_=30)]))
    [found] = holdings.found()
    assert found.short == 1
    assert found.server_memory is not None
    assert found.server_memory.slope == pytest.approx(EACH)


def test_a_server_that_is_gone_has_no_memory() -> None:
    gone = [{**held(size), "server_memory": 0} for size in SIZES]
    holdings = Holdings()
    holdings.add(seen(gone))
    [found] = holdings.found()
    assert found.server_memory is None
    assert found.driver_memory is not None


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A run whose streams all left on purpose, as a crowd's do."""
    folder = write_run(tmp_path_factory.mktemp("crowd"), Synthetic(blocks=2, streams=6, tokens=5, phases=("cold",)))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["phases"]["cold"] = {
        "load": "crowd", "profile": "chat", "connections": "cold", "sizes": [10, 20, 40], "hold_s": 2.0, "rate": 100.0,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info))
    for number, file in enumerate(sorted((folder / "trials").glob("*.parquet"))):
        table = pq.read_table(file)
        metadata: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
        metadata["trial"]["phases"]["cold"]["held"] = [held(size, 1000 * (number % 3)) for size in SIZES]
        frame = table.to_pandas().astype({"outcome": str})
        mine = frame["window"]
        frame.loc[mine, "outcome"], frame.loc[mine, "reason"] = "cancelled", "left"
        frame.loc[mine, "left_ns"] = frame["ended_ns"]
        frame.loc[mine, "step"] = frame["ordinal"] % 2 * 10 + 10
        made = type(table).from_pandas(frame, preserve_index=False)
        pq.write_table(made.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)}), file)
    return summarize(read_run(folder))


def test_a_crowd_that_was_sent_home_did_not_fail(summary: Summary) -> None:
    assert {account.failed for account in summary.accounts} == {0}
    assert {account.lost for account in summary.accounts} == {0}
    assert any("All 36 streams ran until their clients were to leave, and all" in f.text for f in findings(summary))
    assert describe.load(summary.phases[0]).startswith("10, 20, 40 streams open at a time")


def test_what_a_phase_of_chosen_length_takes_is_no_cost(summary: Summary) -> None:
    measures = {value.measure for value in summary.values}
    assert not measures & {"throughput", "cpu_server", "cpu_driver", "cpu_server_stream", "cpu_driver_stream"}
    assert {value.users for value in summary.values} == {0}, "streams are of one kind, whatever size they came for"
    assert summary.get("cold", "sse-aiohttp", "cold", "ttft_excess", "p50") is not None


def test_the_section_is_in_every_output(summary: Summary) -> None:
    section = crowd.make(summary)
    assert section is not None
    assert [f.lead for f in section.findings] == [f"Phase cold, {arm.label}" for arm in summary.arms]
    assert "An open stream costs 14.0 KiB (14.0 to 14.0) of memory in the server" in section.findings[0].text
    assert "1000 of them, at 0.50 tokens/s each, take 5.00 % of a core (5.00 to 5.00)" in section.findings[0].text
    assert len(section.grids[1].rows) == len(ARMS) * len(SIZES)
    assert len(section.charts) == 2
    for chart in section.charts:
        drawing, picture, _ = drawn(chart)
        assert drawing.startswith(b"<?xml") or b"<svg" in drawing
        assert picture.startswith(b"\x89PNG")
    page = rendered.page(summary)
    assert "What open streams cost" in page
    assert "### What open streams cost" in rendered.text(summary)
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=80))
    assert "An open stream costs 14.0 KiB" in " ".join(out.getvalue().split())


def test_runs_without_a_crowd_have_none_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path, Synthetic(blocks=1, streams=6, phases=("cold",), arms=("sse-aiohttp",)))
    plain = summarize(read_run(run))
    assert plain.holdings == []
    assert crowd.make(plain) is None
