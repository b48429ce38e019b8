"""Clients that read slowly: what the others and the server's memory had of it, from made-up trials."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rendered
from rich.console import Console
from synthetic import ARMS, DELIVERY_MS, LATE_MS, PHASES, Synthetic, write_run

from bench.metrics import Summary, summarize
from bench.metrics.slow import SlowReaders
from bench.record import METADATA_KEY, read_run
from bench.report.charts import drawn
from bench.report.sections import slow
from bench.report.terminal import print_summary

STREAMS, TOKENS = 20, 60
HELD_MS, MORE_MIB = 2000.0, 5
GAP_MS = 4.0
"""Prompt streams beside slow ones: one gap in ten is so much longer than due, and the next so much shorter."""


def slow_run(
    folder: Path, *, held_ms: float = HELD_MS, cut: bool = False, phases: tuple[str, ...] = ("cold", "warm")
) -> Summary:
    """Phase `warm` is phase `cold` with every second stream read slowly; the server's last token of those is late."""
    write_run(folder, Synthetic(blocks=2, streams=STREAMS, tokens=TOKENS, phases=phases))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["phases"] = {name: dict(PHASES[name]) for name in phases}
    info["scenario"]["phases"]["warm"]["slow"] = {"share": 0.5, "bytes_per_s": 20_000}
    (folder / "run.json").write_text(json.dumps(info))
    for file in (folder / "trials").glob("*.parquet"):
        table = pq.read_table(file)
        metadata: dict[str, Any] = json.loads(table.schema.metadata[METADATA_KEY])
        facts = metadata["trial"]["phases"]
        for name, grown in (("cold", 2), ("warm", 2 + MORE_MIB)):
            if name in facts:
                facts[name] |= {"server_rss_start": 40 << 20, "server_rss_peak": (40 + grown) << 20}
        frame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get).astype({"outcome": str})
        late = frame["window"] & (frame["phase"] == "warm")
        frame["slow"] = late & (frame["ordinal"] % 2 == 1)
        frame.loc[late & ~frame["slow"] & (frame["chunk"] % 20 == 7), "received_ns"] += int(GAP_MS * 1e6)
        last = frame["slow"] & (frame["chunk"] == TOKENS - 1)
        frame.loc[last, "written_ns"] += int(held_ms * 1e6)
        frame.loc[last, "received_ns"] += int((held_ms + 500) * 1e6)
        if cut:
            frame.loc[frame["slow"] & (frame["ordinal"] == 1), "outcome"] = "truncated"
        made = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(made.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)}), file)
    return summarize(read_run(folder))


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return slow_run(tmp_path_factory.mktemp("slow"))


def only(summary: Summary, arm: str = "sse-aiohttp") -> SlowReaders:
    [found] = [one for one in summary.slow_readers if one.arm == arm]
    return found


def test_prompt_streams_are_set_against_the_phase_without_slow_readers(summary: Summary) -> None:
    assert len(summary.slow_readers) == len(ARMS)
    found = only(summary)
    assert (found.phase, found.reference, found.bytes_per_s) == ("warm", "cold", 20_000)
    assert (found.slow, found.prompt) == (STREAMS, STREAMS), "two trials, half of each"
    assert found.slow_open is not None
    assert (found.slow_open.median, found.slow_open.trials) == (STREAMS / 2, 2)
    assert found.gap_p99_ms is not None
    assert found.gap_p99_ms.median == pytest.approx(GAP_MS, abs=1e-5)
    assert found.gap_p50_ms is not None
    assert found.gap_p50_ms.median == pytest.approx(0, abs=1e-5)
    assert found.reference_gap_p99_ms is not None
    assert found.reference_gap_p99_ms.median == pytest.approx(0, abs=1e-5)
    assert found.gap_p99_more_ms is not None
    assert found.gap_p99_more_ms.median == pytest.approx(GAP_MS, abs=1e-5)


def test_memory_is_what_the_peak_has_more_than_without_them(summary: Summary) -> None:
    found = only(summary)
    assert found.memory_mib is not None
    assert found.memory_mib.median == pytest.approx(42 + MORE_MIB)
    assert found.reference_memory_mib is not None
    assert found.reference_memory_mib.median == pytest.approx(42)
    assert found.memory_more_mib is not None
    assert found.memory_more_mib.median == pytest.approx(MORE_MIB)
    assert found.memory_per_slow_kib is not None
    assert found.memory_per_slow_kib.median == pytest.approx(MORE_MIB * 1024 / (STREAMS / 2))


def test_how_long_the_server_was_kept_waiting_is_in_its_last_token(summary: Summary) -> None:
    found = only(summary)
    assert found.held_back_ms is not None
    assert found.held_back_ms.median == pytest.approx(HELD_MS + LATE_MS, abs=1e-5)
    assert found.held_back_max_ms == pytest.approx(HELD_MS + LATE_MS, abs=1e-5)
    assert found.behind_ms is not None
    assert found.behind_ms.median == pytest.approx(HELD_MS + 500 + LATE_MS + DELIVERY_MS, abs=1e-5)
    assert found.prompt_late_ms is not None
    assert found.prompt_late_ms.median == pytest.approx(LATE_MS, abs=1e-5)


def test_the_measures_of_the_phase_are_those_of_prompt_streams(summary: Summary) -> None:
    late = summary.get("warm", "sse-aiohttp", "warm", "lateness", "p99")
    assert late is not None
    assert late.max == pytest.approx(LATE_MS, abs=1e-5)


def test_a_server_that_does_not_wait_and_streams_that_break_off_are_told(tmp_path: Path) -> None:
    section = slow.make(slow_run(tmp_path, held_ms=0, cut=True))
    assert section is not None
    text = section.findings[0].text
    assert "The server did not wait for slow clients" in text
    assert f"{STREAMS - 2} of {STREAMS} slow streams and {STREAMS} of {STREAMS} prompt ones are complete." in text


def test_without_a_phase_to_compare_with_there_is_no_difference(tmp_path: Path) -> None:
    summary = slow_run(tmp_path, phases=("warm",))
    found = only(summary)
    assert (found.reference, found.gap_p99_more_ms, found.memory_more_mib) == ("", None, None)
    assert found.gap_p99_ms is not None
    section = slow.make(summary)
    assert section is not None
    assert "without," not in section.findings[0].text
    assert section.charts == []


def test_memory_is_not_set_against_a_phase_that_came_later(tmp_path: Path) -> None:
    found = only(slow_run(tmp_path, phases=("warm", "cold")))
    assert (found.reference, found.memory_more_mib) == ("cold", None)
    assert found.gap_p99_more_ms is not None


def test_the_section_is_in_every_output(summary: Summary) -> None:
    section = slow.make(summary)
    assert section is not None
    assert [f.lead for f in section.findings] == [f"Phase warm, {arm.label}" for arm in summary.arms]
    text = section.findings[0].text
    assert "were 4.00 ms longer than due at p99; without, 0.00 ms. Within a trial that is +4.00 ms." in text
    assert "to 47.0 MiB; without, to 42.0 MiB. Within a trial that is +5.00 MiB, or +512 KiB for each" in text
    assert "The server waited for slow clients: their last token was written 2\u202f000 ms after it was due" in text
    assert f"All {STREAMS} slow streams and {STREAMS} prompt ones are complete." in text
    assert [chart.name for chart in section.charts] == ["warm-slow-readers"]
    assert drawn(section.charts[0]).png.startswith(b"\x89PNG")
    page = rendered.page(summary)
    assert "What do slow readers change?" in page
    assert "### Clients that read slowly" in rendered.text(summary)
    out = io.StringIO()
    print_summary(summary, Console(file=out, width=80))
    assert "The server waited for slow clients" in " ".join(out.getvalue().split())


def test_runs_without_slow_readers_have_none_of_it(tmp_path: Path) -> None:
    run = write_run(tmp_path, Synthetic(blocks=1, streams=6, phases=("cold",), arms=("sse-aiohttp",)))
    plain = summarize(read_run(run))
    assert plain.slow_readers == []
    assert slow.make(plain) is None
