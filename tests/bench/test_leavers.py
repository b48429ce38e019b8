"""Clients that left, from made-up trials: when the server stopped, what was made for nobody, what was lost."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rendered
from rich.console import Console
from synthetic import PHASES, Synthetic, write_run

from bench.metrics import Summary, summarize
from bench.metrics.leaving import lost_by_leavers
from bench.record import read_run
from bench.report.charts import drawn
from bench.report.findings import findings
from bench.report.sections import leaving
from bench.report.terminal import print_summary

STOP_MS, EVERY, TOKENS = 3.0, 2, 10


def left_run(folder: Path, by: str, *, phase: str = "cold", unknown: int = 0, seen_after: int = 0) -> Summary:
    """A run in which every second client leaves after half of its stream; the server stops two tokens later."""
    write_run(folder, Synthetic(blocks=2, streams=10, tokens=TOKENS, phases=(phase,)))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["phases"][phase] = {**PHASES[phase], "leave": {"share": 0.5, "at": [5, 5], "by": by}}
    (folder / "run.json").write_text(json.dumps(info))
    for file in (folder / "trials").glob("*.parquet"):
        table = pq.read_table(file)
        for i, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):  # takes no new strings by assignment
                table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
        frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        mine = frame["window"] & (frame["ordinal"] % EVERY == 1) & frame["chunk"].notna()
        frame["reason"], frame["left_ns"] = "", pd.array([pd.NA] * len(frame), "Int64")
        for _, rows in frame[mine].groupby("stream"):
            left_ns = int(rows["received_ns"].iloc[TOKENS // 2 - 1]) + 1
            # From here on the times are made up whole, so that what was written after can be told exactly.
            after = rows.index[TOKENS // 2 :]
            written = [left_ns + (i + 1) * 1_000_000 for i in range(2)]
            frame.loc[after[:2], "written_ns"] = written
            frame.loc[after, "received_ns"] = pd.NA
            frame.loc[after[:seen_after], "received_ns"] = [ns + 1000 for ns in written[:seen_after]]
            stopped = pd.NA if int(rows["ordinal"].iloc[0]) < 2 * unknown else left_ns + int(STOP_MS * 1e6)
            frame.loc[rows.index, "left_ns"] = left_ns
            frame.loc[rows.index, "server_ended_ns"] = stopped
            frame.loc[rows.index, "ended_ns"] = left_ns + 4_000_000 if by == "cancel" else left_ns
            frame.loc[rows.index, ["outcome", "reason", "server_reason"]] = ["cancelled", "left", "client_gone"]
            frame = frame.drop(after[2:])
        made = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(table.schema.metadata)
        pq.write_table(made, file)
    return summarize(read_run(folder))


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return left_run(tmp_path_factory.mktemp("closed"), "close")


def test_what_was_made_for_nobody_is_counted_exactly(closed: Summary) -> None:
    assert len(closed.leavings) == 3
    for one in closed.leavings:
        assert (one.by, one.trials, one.streams, one.leavers, one.unknown) == ("close", 2, 20, 10, 0)
        assert one.stop_p50_ms is not None
        assert one.stop_p50_ms.median == pytest.approx(STOP_MS)
        assert one.stop_max_ms == pytest.approx(STOP_MS)
        assert one.stop_p99_ms is None, "ten leavers have no p99"
        assert (one.written_after, one.written_after_most, one.received_after) == (20, 2, 0)
        assert one.reopened is None, "connections are cold"


def test_a_message_keeps_the_connection_over_websocket_and_is_none_over_sse(tmp_path: Path) -> None:
    summary = left_run(tmp_path, "cancel", phase="warm", seen_after=2)
    by = {one.arm: one for one in summary.leavings}
    assert {arm: one.by for arm, one in by.items()} == {
        "sse-aiohttp": "close", "ws-aiohttp": "cancel", "ws-websockets": "cancel",
    }  # fmt: skip
    assert all(one.received_after == 20 and one.reopened == 0 for one in by.values())
    section = leaving.make(summary)
    assert section is not None
    texts = {f.lead: f.text for f in section.findings}
    assert "SSE over HTTP/1.1 has no message" in texts["Phase warm, SSE on aiohttp"]
    assert "no message" not in texts["Phase warm, WebSocket on aiohttp"]
    assert "Every connection was kept" in texts["Phase warm, WebSocket on aiohttp"]


def test_leaving_on_purpose_is_no_failure_and_what_was_on_its_way_is_not_lost(closed: Summary) -> None:
    for account in closed.accounts:
        assert account.outcomes == {"complete": 10, "left": 10}
        assert (account.failed, account.lost) == (0, 0)
    told = " ".join(f.text for f in findings(closed))
    assert "60 streams are complete, but for 30 whose client was to leave" in told
    assert "did not complete" not in told


def test_a_server_without_an_end_in_its_log_is_said_to_have_none(tmp_path: Path) -> None:
    summary = left_run(tmp_path, "close", unknown=3)
    assert {one.unknown for one in summary.leavings} == {6}
    section = leaving.make(summary)
    assert section is not None
    assert all("Of 6 the server logged no end." in f.text for f in section.findings)


def stream(received: list[int | None], *, left_ns: int = 100, ended_ns: int = 100) -> pd.DataFrame:
    n = len(received)
    return pd.DataFrame(
        {
            "stream": 1, "outcome": "cancelled", "reason": "left", "chunk": pd.array(range(n), "Int32"),
            "written_ns": pd.array(range(n), "Int64"), "received_ns": pd.array(received, "Int64"),
            "left_ns": pd.array([left_ns] * n, "Int64"), "ended_ns": pd.array([ended_ns] * n, "Int64"),
        }
    )  # fmt: skip


def test_lost_is_what_something_later_overtook() -> None:
    assert lost_by_leavers(stream([1, 2, 3, None, None])) == 0, "on its way"
    assert lost_by_leavers(stream([1, None, 3, None])) == 1
    assert lost_by_leavers(stream([None, None])) == 0
    assert lost_by_leavers(stream([1, 2, None], ended_ns=101)) == 1, "read on until the server was done"
    assert lost_by_leavers(stream([1, None, 3]).assign(reason="stopped")) == 0
    assert lost_by_leavers(stream([1]).iloc[:0]) == 0


def test_the_section_is_in_every_output(closed: Summary) -> None:
    section = leaving.make(closed)
    assert section is not None
    assert [f.lead for f in section.findings] == [f"Phase cold, {arm.label}" for arm in closed.arms]
    assert "10 clients left by closing. The server stopped after 3.00 ms" in section.findings[0].text
    assert "Made for nobody: 20 tokens (2.00 for each client, at most 2)." in section.findings[0].text
    assert [chart.name for chart in section.charts] == ["cold-stop"]
    assert drawn(section.charts[0]).png.startswith(b"\x89PNG")
    page, text = rendered.page(closed), rendered.text(closed)
    assert "Clients that leave" in page
    assert "How soon does the server stop when a client leaves?" in page
    assert "### Clients that leave" in text
    out = io.StringIO()
    print_summary(closed, Console(file=out, width=80))
    assert "10 clients left by closing" in " ".join(out.getvalue().split())


def test_runs_in_which_nobody_left_have_none_of_it(tmp_path: Path) -> None:
    summary = summarize(read_run(write_run(tmp_path, Synthetic(blocks=1, streams=10, phases=("cold",), fail_every=5))))
    assert summary.leavings == []
    assert leaving.make(summary) is None
    assert all(account.failed == 2 for account in summary.accounts)
