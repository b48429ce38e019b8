"""Streams that broke off, as the report tells them: losses are told apart from what was meant to happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import validity
from bench.metrics import KINDS, Account, Summary, summarize
from bench.metrics.over_trials import OverTrials
from bench.metrics.recovery import Recovery
from bench.record import read_run
from bench.report.charts import drawn
from bench.report.findings import findings
from bench.report.sections import recovery
from bench.report.sections.section import Section
from bench.report.tables import phase_tables
from bench.scenario import Contrast, Primary
from bench.scenario_toml import ScenarioError, load
from bench.verdict import conclude
from tests.bench.synthetic import Synthetic, write_run

RETRY = {"resume": True, "delay_ms": 20.0, "tries": 4}


def over(*figures: float) -> OverTrials:
    return OverTrials(sorted(figures)[len(figures) // 2], min(figures), max(figures), len(figures))


def recovered(arm: str, **other: Any) -> Recovery:
    curve = [float(20 + percent / 10) for percent in range(101)]
    known: dict[str, Any] = {
        "policy": "resume", "trials": 3, "streams": 60, "interrupted": 30, "breaks": 30, "reasons": {"reset": 30},
        "recovered": 30, "tries": 30, "never_finished": 0, "in_flight": 0, "lost": 0, "repeated": 0, "reordered": 0,
        "corrupted": 0, "missing": 0, "made_again": 0,
        "p50_ms": {key: over(1.0, 2.0, 4.0) for key in ("notice", "reconnect", "renew", "outage")},
        "waited_p50_ms": over(1.5, 1.5, 1.5), "curves_ms": {"notice": [0.0] * 101, "outage": curve},
        "survival_ms": [21.0, 25.0, 30.0], "survival": [0.5, 0.25, 0.0],
    }  # fmt: skip
    return Recovery("warm", arm, **{**known, **other})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    folder = write_run(tmp_path_factory.mktemp("run"), Synthetic(phases=("warm",), arms=("sse-aiohttp", "ws-aiohttp")))
    return summarize(read_run(folder))


def told(plain: Summary, *entries: Recovery, **settings: Any) -> Summary:
    """The run as if these were its recoveries, and its phase had these settings."""
    phase = plain.phases[0]
    phase = msgspec.structs.replace(phase, settings={**phase.settings, "fault": "f", "retry": RETRY, **settings})
    return msgspec.structs.replace(plain, recoveries=list(entries), phases=[phase])


def section(summary: Summary) -> Section:
    made = recovery.make(summary)
    assert made is not None
    return made


def test_a_run_in_which_nothing_breaks_off_has_no_section(plain: Summary) -> None:
    assert recovery.make(plain) is None


def test_nothing_was_lost_is_said_only_where_it_is_so(plain: Summary) -> None:
    fine = section(told(plain, recovered("sse-aiohttp"), recovered("ws-aiohttp")))
    said = [finding.text for finding in fine.findings]
    assert "On every arm 30 of 60 streams broke off; all of them finished" in said[0]
    assert "nothing was lost" in said[0]
    assert "ask for the rest 20 ms after a break" in said[0]
    assert not any(finding.grave for finding in fine.findings)
    for flaw in ("lost", "repeated", "reordered", "corrupted"):
        amiss = section(told(plain, recovered("sse-aiohttp", **{flaw: 7})))
        assert not any("nothing was lost" in finding.text for finding in amiss.findings)
        assert [finding.grave for finding in amiss.findings] == [False, False, True]
        assert "7 tokens" in amiss.findings[-1].text


def test_streams_that_never_finished_are_grave(plain: Summary) -> None:
    some = section(told(plain, recovered("sse-aiohttp", never_finished=2, missing=31), recovered("ws-aiohttp")))
    (grave,) = [finding.text for finding in some.findings if finding.grave]
    assert "2 of 30 streams that broke off never finished, and 31 tokens of theirs never came" in grave
    assert "28 of them finished" in some.findings[0].text


def test_the_table_has_every_count(plain: Summary) -> None:
    counts = {"in_flight": 11, "lost": 12, "repeated": 13, "reordered": 14, "corrupted": 15, "made_again": 16}
    one = recovered("sse-aiohttp", never_finished=17, missing=18, tries=45, **counts)
    (grid,) = section(told(plain, one)).grids
    assert grid.head == ["", "SSE on aiohttp", "WebSocket on aiohttp"]
    cells = [row[1] for row in grid.rows]
    assert [str(n) for n in (11, 12, 13, 14, 15, 16, 17, 18)] == cells[-8:]
    assert "1.50" in cells  # tries for each break
    assert {row[2] for row in grid.rows} == {"–"}  # the other arm has none
    assert all(len(row) == len(grid.head) for row in grid.rows)


def test_charts_can_be_drawn(plain: Summary) -> None:
    never = recovered("ws-aiohttp", survival_ms=[900.0], survival=[1.0], curves_ms={"notice": [3.0] * 101}, p50_ms={})
    charts = section(told(plain, recovered("sse-aiohttp"), never)).charts
    assert [chart.name for chart in charts] == ["warm-recovery", "warm-survival"]
    for chart in charts:
        svg, png, inline = drawn(chart)
        assert svg.startswith(b"<?xml")
        assert png.startswith(b"\x89PNG")
        assert "var(--arm0)" in inline
    unknown = recovered("sse-aiohttp", survival_ms=[], survival=[], curves_ms={}, p50_ms={}, waited_p50_ms=None)
    assert section(told(plain, unknown)).charts == []


def amiss(plain: Summary, **settings: Any) -> list[tuple[bool, str]]:
    """The findings of a run one of whose arms lost streams and tokens, in a phase with these settings."""
    broken = Account("warm", "sse-aiohttp", 10, {"complete": 6, "truncated": 4}, 100, lost=3)
    fine = next(a for a in plain.accounts if a.arm == "ws-aiohttp")
    summary = msgspec.structs.replace(told(plain, **settings), accounts=[broken, fine])
    return [(finding.grave, finding.text) for finding in findings(summary)]


def test_what_is_to_fail_is_no_alarm(plain: Summary) -> None:
    alarms = [text for grave, text in amiss(plain) if grave]
    assert len(alarms) == 2
    assert "4 of 10 streams did not complete" in alarms[0]
    assert "lost 3 of 103 tokens" in alarms[1]
    meant = amiss(plain, retry=None)
    assert not any(grave for grave, _ in meant)
    assert any("4 of 10 streams did not complete (4 truncated), on purpose" in text for _, text in meant)
    assert any("lost 3 of 103 tokens, WebSocket on aiohttp none, on purpose" in text for _, text in meant)
    assert not any("are complete" in text for _, text in meant)


def rules(**settings: Any) -> set[str]:
    """The rules that a phase breaks whose driver lagged and whose server waited."""
    phase = {"window_ns": 10**9, "server_cpu_ns": 10**8, "loop_lag_p99_ns": 10**8, "server_wait_ns": 10**9}
    phase |= {"steal_cores": 2}
    facts = {"arm": "a", "block": 1, "server": {"settings": {"cpus": [0]}}, "phases": {"x": phase}}
    profile = {"first": {"dist": "constant", "ms": 1}, "gap": {"dist": "constant", "ms": 1}}
    profile |= {"length": {"dist": "fixed", "tokens": 3}}
    scenario = {"phases": {"x": {"load": "closed", "profile": "p", **settings}}, "profiles": {"p": profile}}
    return {breach.rule for breach in validity.breaches(facts, scenario)}


def test_all_clients_of_a_dead_server_at_once_are_no_fault_of_the_driver() -> None:
    assert rules() == {"loop_lag", "server_wait"}
    assert rules(restart={"after_s": 1.0}) == set()


@pytest.mark.parametrize("name", ["flaky", "restart-storm"])
def test_scenarios_decide_by_outages_under_both_policies(name: str) -> None:
    scenario = load(name)
    assert {primary.measure for primary in scenario.primary.values()} == {"outage"}
    policies = {phase.retry.resume for phase in scenario.phases.values() if phase.retry is not None}
    assert policies == {True, False}


def test_without_a_retry_an_outage_decides_nothing() -> None:
    with pytest.raises(ScenarioError, match=r"primary\.gaps\.measure = 'outage': phase 'chat' has no retry"):
        load("chat", ["primary.gaps.measure=outage", "primary.gaps.statistic=p50"])


def test_breaks_are_measured_per_trial_and_compared(tmp_path: Path) -> None:
    """Every second stream is cut by the server 2 ms before its end, 3 ms on the other arm."""
    arms = {"sse-aiohttp": 2, "ws-aiohttp": 3}
    folder = write_run(tmp_path, Synthetic(blocks=2, phases=("warm",), arms=tuple(arms), fail_every=2))
    for arm, earlier_ms in arms.items():
        for path in (folder / "trials").glob(f"*-{arm}.parquet"):
            table = pq.read_table(path)
            frame = table.to_pandas()
            cut = (frame["outcome"] == "truncated").to_numpy()
            reason = pa.array(["cut" if yes else "complete" for yes in cut]).cast(
                table.schema.field("server_reason").type
            )
            ended = pa.array((frame["ended_ns"] - earlier_ms * 1_000_000).astype("int64"))
            for name, column in (("server_reason", reason), ("server_ended_ns", ended)):
                table = table.set_column(table.schema.get_field_index(name), name, column)
            pq.write_table(table, path)
    summary = summarize(read_run(folder))
    values = {arm: summary.get("warm", arm, "all", "notice", "p50") for arm in arms}
    assert {arm: value and value.per_trial for arm, value in values.items()} == {
        arm: pytest.approx([ms, ms]) for arm, ms in arms.items()
    }
    (table,) = phase_tables(summary, summary.phases[0])
    (kind,) = [part for part in table.sections if part.title == KINDS["recovery"]]
    assert [row.title for row in kind.rows] == ["Until the break is noticed, median"]
    contrasts = {"c": Contrast("sse-aiohttp", "ws-aiohttp")}
    primary = {"p": Primary(phase="warm", measure="notice", statistic="p50", smallest_effect=0.5)}
    (decided,) = conclude(summary, contrasts, primary, {0, 1}).primary
    assert (decided.temperature, decided.estimate) == ("all", pytest.approx(1.0))
