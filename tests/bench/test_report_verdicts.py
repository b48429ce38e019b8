"""Verdicts, exact counters, validity and ceilings as the report puts them, in every output."""

from __future__ import annotations

import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import rendered
from rich.console import Console
from synthetic import Synthetic, write_run

from bench.metrics import (
    Ceiling,
    Check,
    Comparison,
    Conclusions,
    Counter,
    OverCapacity,
    Summary,
    Void,
    summarize,
)
from bench.record import read_run
from bench.report import build, json_
from bench.report.charts import charts_of, drawn, forest
from bench.report.comparisons import counter_grid, explored, verdict_grid
from bench.report.findings import findings
from bench.report.instrument import facts
from bench.report.tables import phase_tables
from bench.report.terminal import print_summary
from bench.report.validity import rules_grid, voids_grid
from bench.report.verdicts import CHIPS, conditions, verdicts

FIRST = Comparison(
    contrast="protocol", baseline="sse-aiohttp", other="ws-aiohttp", phase="cold", temperature="cold",
    measure="ttft_excess", statistic="p50", scale="difference", unit="ms", more_is_better=False, estimate=0.3176,
    low=0.2021, high=0.4018, low90=0.2334, high90=0.3658, per_block=[0.05 * n for n in range(2, 12)],
    blocks=list(range(1, 11)), primary="first-token", smallest_effect=0.1, p=0.00195, p_holm=0.0029, verdict="slower",
)  # fmt: skip
CPU: dict[str, Any] = {
    "phase": "unpaced", "temperature": "all", "measure": "cpu_server", "statistic": "value", "scale": "ratio",
    "unit": "", "smallest_effect": 0.03, "primary": "cpu",
}  # fmt: skip
RATE: dict[str, Any] = CPU | {"measure": "throughput", "more_is_better": True, "primary": "rate"}
LESS = {"estimate": -0.12, "low": -0.15, "high": -0.08, "low90": -0.14, "high90": -0.09}
MORE = {"estimate": 0.05, "low": 0.04, "high": 0.07, "low90": 0.045, "high90": 0.065}
NEAR: dict[str, Any] = {"estimate": 0.004, "low": -0.031, "high": 0.042, "low90": -0.02, "high90": 0.03, "p_holm": 1.0}


def compared(**changes: Any) -> Comparison:
    return msgspec.structs.replace(FIRST, **changes)


def concluded(*primary: Comparison, counters: list[Counter] | None = None, explored: Any = ()) -> Conclusions:
    return Conclusions(0.05, 10, 8, list(primary), counters or [], list(explored))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    what = Synthetic(blocks=2, noise=True, phases=("cold", "unpaced"))
    return summarize(read_run(write_run(tmp_path_factory.mktemp("verdicts") / "run", what)))


@pytest.fixture
def summary(plain: Summary) -> Summary:
    return copy.copy(plain)


def said(summary: Summary, **changes: Any) -> str:
    summary.conclusions = concluded(compared(**changes))
    (one,) = verdicts(summary)
    return f"[{one.chip}] {one.lead}: {one.text}"


def on_terminal(summary: Summary, width: int = 80, *, colour: bool = False) -> str:
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=width, force_terminal=colour))
    return file.getvalue()


def outputs(summary: Summary) -> dict[str, str]:
    """Each output as its reader sees it, without markup, escapes or line breaks."""
    page = re.sub(r"<style>.*?</style>|<title>.*?</title>", "", rendered.page(summary), flags=re.DOTALL)
    texts = {
        "html": re.sub(r"<[^>]+>", "", page).replace("&lt;", "<"),
        "markdown": rendered.text(summary).replace("\\", ""),
        "terminal": on_terminal(summary),
    }
    return {name: " ".join(text.split()) for name, text in texts.items()}


def test_a_slower_first_token_is_told_with_all_that_it_rests_on(summary: Summary) -> None:
    text = said(summary)
    assert text.startswith(
        "[slower] Phase cold, first token excess (median): WebSocket on aiohttp is slower than SSE on aiohttp by "
        "0.32 ms (95 % interval 0.20 to 0.40 ms; p = 0.003 after Holm; 10 blocks)."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"verdict": "faster", "estimate": -0.3176, "low": -0.4018, "high": -0.2021},
            "WebSocket on aiohttp is faster than SSE on aiohttp by 0.32 ms (95 % interval 0.20 to 0.40 ms; p",
        ),
        (
            CPU | LESS | {"verdict": "faster"},
            "WebSocket on aiohttp needs 12 % less server CPU per token than SSE on aiohttp (95 % interval 8 to 15 %; p",
        ),
        (CPU | MORE | {"verdict": "slower"}, "needs 5.0 % more server CPU per token than SSE on aiohttp (95 %"),
        (RATE | MORE | {"verdict": "faster"}, "is 5.0 % faster than SSE on aiohttp (95 % interval 4.0 to 7.0 %; p"),
        (RATE | LESS | {"verdict": "slower"}, "is 12 % slower than SSE on aiohttp (95 % interval 8 to 15 %; p"),
        (
            {"measure": "gap_excess", "statistic": "p99"},
            "The gaps of WebSocket on aiohttp are longer than those of SSE on aiohttp by 0.32 ms (95 % interval 0.20",
        ),
        ({"p_holm": 0.0002}, "p < 0.001 after Holm"),
        ({"p_holm": 0.0496}, "p = 0.0496 after Holm"),
    ],
)  # fmt: skip
def test_a_difference_is_told_in_the_direction_it_has(summary: Summary, changes: dict[str, Any], words: str) -> None:
    assert words in said(summary, **changes)


def test_equivalent_says_within_what_and_when_a_difference_is_there(summary: Summary) -> None:
    text = said(summary, verdict="equivalent", **NEAR)
    assert "no difference that matters, within ±0.1 ms (90 % interval \u22120.020 to 0.030 ms; 10 blocks)." in text
    assert "is there" not in text
    there = {"estimate": -0.02, "low": -0.03, "high": -0.01, "low90": -0.028, "high90": -0.012, "p_holm": 0.012}
    text = said(summary, verdict="equivalent", **there)
    assert "A difference of 0.020 ms is there (faster; p = 0.012 after Holm), too small to matter." in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"low": -0.15, "high": 0.42, "p_holm": 0.6, "blocks_to_decide": 24},
            "anything from 0.15 ms faster to 0.42 ms slower is possible (95 % interval, 10 blocks), and 0.1 ms would "
            "matter. About 24 blocks would probably decide.",
        ),
        ({"low": 0.02, "high": 0.42, "p_holm": 0.07}, "from 0.02 to 0.42 ms slower is possible"),
        ({"low": -0.42, "high": -0.02, "p_holm": 0.07}, "from 0.02 to 0.42 ms faster is possible"),
        ({"low": 0.02, "high": 0.42, "p_holm": 0.07}, "More than 1000 blocks would probably decide."),
        ({"estimate": 0.08, "low": 0.02, "high": 0.15}, "A difference is there (p = 0.003 after Holm), but it may be"),
        (CPU | {"low": -0.02, "high": 0.05, "p_holm": 0.6}, "anything from 2 % less to 5 % more is possible"),
        (RATE | {"low": -0.02, "high": 0.05, "p_holm": 0.6}, "anything from 2 % slower to 5 % faster is possible"),
    ],
)
def test_inconclusive_says_what_is_still_possible(summary: Summary, changes: dict[str, Any], words: str) -> None:
    assert words in said(summary, verdict="inconclusive", **changes)


def test_under_eight_blocks_there_is_one_sentence_and_no_verdict(summary: Summary) -> None:
    few = {"verdict": "none", "p": None, "p_holm": None, "blocks": [1, 2, 3], "per_block": [0.1, 0.2, 0.3]}
    nothing = dict.fromkeys(("low", "high", "low90", "high90"))
    summary.conclusions = concluded(compared(**few, **nothing), compared(**few, **nothing, contrast="other"))
    for name, text in outputs(summary).items():
        assert text.count("Under 8 blocks no verdict is given: 3 of 8.") == 1, name
        assert not re.search(r"None|nan\b", text), name


def test_without_primary_measures_there_is_no_verdict_and_no_table(summary: Summary) -> None:
    summary.conclusions = concluded()
    assert verdict_grid(summary) is None
    assert not forest.make(summary)
    assert all("No primary measure was compared, so no verdict is given." in text for text in outputs(summary).values())


def test_what_a_verdict_holds_for_is_one_line_of_every_output(summary: Summary) -> None:
    summary.conclusions = concluded(FIRST)
    assert conditions(summary) == "mode equal, HTTP/1.1 without TLS, on loopback, aiohttp 3.14.1, websockets 16.0"
    assert all(conditions(summary) in text for text in outputs(summary).values())


def test_verdicts_come_first_and_their_labels_are_text(summary: Summary) -> None:
    kinds = [compared(verdict=v, contrast=v) for v in ("faster", "slower", "equivalent", "inconclusive")]
    summary.conclusions = concluded(*kinds)
    page, text = rendered.page(summary), rendered.text(summary)
    for kind in kinds:
        assert f'<span class="chip {kind.verdict}">{kind.verdict}</span>' in page
        assert f"- **[{kind.verdict}]** Phase cold" in text
    first = findings(summary)[0].text
    assert text.index("[faster]") < text.index(first.split(":")[0])
    assert page.index('class="chip faster"') < page.index(first.split(":")[0])
    begun = [line.split()[0] for line in on_terminal(summary).splitlines()[:12]]
    assert [word for word in begun if word in CHIPS] == ["faster", "slower", "equivalent", "inconclusive"]
    assert "\x1b" not in on_terminal(summary)
    assert "\x1b[32mfaster" in on_terminal(summary, colour=True)


@pytest.mark.parametrize("width", [40, 80])
def test_no_verdict_is_cut_by_a_terminal(summary: Summary, width: int) -> None:
    summary.conclusions = concluded(FIRST, compared(verdict="inconclusive", **(CPU | NEAR)))
    text = on_terminal(summary, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "+0.32 ms (0.20 to 0.40), p = 0.003" in words
    assert "\u2026" not in text


def test_the_table_holds_every_figure_of_a_verdict(summary: Summary) -> None:
    summary.conclusions = concluded(FIRST)
    grid = verdict_grid(summary)
    assert grid
    median = summary.get("cold", "ws-aiohttp", "cold", "ttft_excess", "p50")
    assert median
    row = dict(zip(grid.head, grid.rows[0], strict=True))
    assert row["Other"].startswith(f"{median.median:.2f}"[:4])
    assert row["Estimate"] == "+0.32 ms"
    assert row["95 % interval"] == "0.20 to 0.40 ms"
    assert row["90 % interval"] == "0.23 to 0.37 ms"
    assert (row["Smallest effect"], row["p"], row["p (Holm)"]) == ("0.1 ms", "0.002", "0.003")
    assert (row["Blocks"], row["Verdict"]) == ("10", "slower")


def test_exploratory_measures_have_intervals_and_no_verdict(summary: Summary) -> None:
    other = {"primary": "", "smallest_effect": None, "p": None, "p_holm": None, "verdict": "none"}
    some = [compared(**other, statistic="p99", advisory=True), compared(**(other | CPU | LESS | {"primary": ""}))]
    summary.conclusions = concluded(explored=some)
    cold, unpaced = (explored(summary, phase) for phase in summary.phases)
    assert cold
    assert unpaced
    assert cold.rows == [["First token excess (p99), advisory", "+0.32 ms (0.20 to 0.40)"]]
    assert unpaced.rows == [["Server CPU per token", "\u221212 % (\u221215 to \u22128)"]]
    assert "no verdict" in cold.caption
    page = rendered.page(summary)
    assert page.index("<details>") < page.index("First token excess (p99), advisory") < page.index("</details>")


def test_the_forest_shows_a_panel_per_measure_and_reads_aloud(summary: Summary) -> None:
    summary.conclusions = concluded(FIRST, compared(verdict="faster", **(CPU | LESS)))
    (chart,) = [c for c in charts_of(summary) if not c.phase]
    drawing = drawn(chart).inline
    for text in (
        "Phase cold, first token excess (median)",
        "WebSocket on aiohttp: slower →",
        "← less",
    ):
        assert text in drawing
    assert "+0.32 ms, 95 % interval 0.20 to 0.40 ms, slower." in chart.alt
    assert "nan" not in drawing
    summary.state = "invalid"
    (chart,) = forest.make(summary)
    assert "slower." not in chart.alt
    assert ">slower<" not in drawn(chart).inline


def test_bytes_on_the_wire_are_exact_and_need_no_interval(summary: Summary) -> None:
    def counter(measure: str, a: float, b: float, finding: Any) -> Counter:
        return Counter("protocol", "sse-aiohttp", "ws-aiohttp", "cold", "cold", measure, a, b, finding)

    counters = [
        counter("wire_bytes", 214.12, 207.53, "fewer"), counter("segments", 1.02, 1.02, "same"),
        counter("lost", 0, 0, "same"), counter("repeated", 0, 2, "more"),
    ]  # fmt: skip
    summary.conclusions = concluded(FIRST, counters=counters)
    (wire,) = [f for f in findings(summary) if "bytes on the wire" in f.lead]
    assert wire.text == (
        "214.1 bytes per token for SSE on aiohttp against 207.5 for WebSocket on aiohttp, exactly, in every block."
    )
    grid = counter_grid(summary)
    assert grid
    assert [(row[0].split(", ")[1], *row[2:]) for row in grid.rows] == [
        ("wire bytes per token", "214.1", "207.5", "fewer"), ("TCP segments per token", "1.0", "1.0", "the same"),
        ("chunks repeated", "0", "2", "more"),
    ]  # fmt: skip


def test_lost_tokens_are_grave_and_named_beside_the_arms_that_lost_none(summary: Summary) -> None:
    accounts = [copy.copy(a) for a in summary.accounts]
    hurt = next(a for a in accounts if (a.phase, a.arm) == ("cold", "ws-aiohttp"))
    hurt.lost, hurt.tokens = 7, 63_993
    summary.accounts = accounts
    (lost,) = [f for f in findings(summary) if "lost" in f.text]
    assert lost.grave
    well = "SSE on aiohttp and WebSocket on websockets none"
    assert lost.text == f"Phase cold: WebSocket on aiohttp lost 7 of 64\u202f000 tokens, {well}."


def spoilt(summary: Summary) -> Summary:
    summary.conclusions = concluded(FIRST)
    summary.blocks_whole = 6
    reason = (
        "cold, ws-aiohttp: the driver waited 0.21 % of the time for its core, 0.1 % is allowed. Close other programs."
    )
    summary.voids = [Void(n, "validity", [reason]) for n in (2, 3, 5, 9)] + [Void(11, "interrupted", [])]
    summary.checks = [Check("wait", "Driver waiting for its core", "cold", "ws-aiohttp", 3, 0.21, 0.1, "%", 4)]
    return summary


def test_an_invalid_run_opens_with_that_and_gives_no_verdict(summary: Summary) -> None:
    spoilt(summary).state = "invalid"
    opening = "This run is invalid: 4 of 10 blocks were voided because the instrument failed, so no verdict should be"
    for name, text in outputs(summary).items():
        assert text.lstrip("*").startswith(opening), name
        assert "is slower than" not in text, name
        assert "[slower]" not in text, name
        assert "The reason of one more is under" in text, name
    assert 'class="chip' not in rendered.page(summary)
    grid = verdict_grid(summary)
    assert grid
    assert grid.rows[0][-1] == "not given"
    data = json.loads(json_.render(summary))
    assert data["state"] == "invalid"
    assert [c["verdict"] for c in data["conclusions"]["primary"]] == ["none"]


def test_voided_blocks_that_ran_again_are_told_without_alarm(summary: Summary) -> None:
    spoilt(summary)
    summary.voids[1].reasons[:] = ["The clock drifted by 900 ppm. See `tokenwire doctor`. Close other programs."]
    first, *rest = findings(summary)
    assert first.text == "4 of 10 blocks were voided because the instrument failed, not a server; they do not count."
    assert rest[0].text.endswith("is allowed. Close other programs.")
    assert rest[1].text == "Block 3: The clock drifted by 900 ppm. See `tokenwire doctor`."
    assert any(f.text == "Block 11 was interrupted before all arms had run and does not count." for f in rest)
    assert not any(f.grave for f in (first, *rest))
    voids, rules = voids_grid(summary), rules_grid(summary)
    assert voids
    assert rules
    assert [row[:2] for row in voids.rows][3:] == [["9", "instrument failed"], ["11", "interrupted"]]
    (rule,) = rules.rows
    assert rule[:4] == ["Driver waiting for its core", "cold", "0.210 %", "0.1 %"]
    assert rule[4:] == ["WebSocket on aiohttp, block 3", "beyond it in 4 trials"]
    page = rendered.page(summary)
    assert "<code>tokenwire doctor</code>" in page
    assert page.index("Can the instrument be trusted?</h3>") < page.index("Driver waiting for its core")


def test_what_servers_could_not_do_is_a_finding_and_so_are_cautions(summary: Summary) -> None:
    seen = "unpaced, ws-websockets: the server could not keep up: its lateness grew (in 1 trial). This is a result."
    summary.over_capacity = [OverCapacity("unpaced", "ws-websockets", 1, 10, seen)]
    summary.cautions = [
        "cold, ws-aiohttp: 1.2 % of its gaps took 40 ms. Flush.",
        "The frequency changed between blocks",
    ]
    wanted = (
        "Phase unpaced: WebSocket on websockets was over capacity in 1 of 10 trials. The server could not keep up: its "
        "lateness grew (in 1 trial). This is a result.",
        "Caution, phase cold, WebSocket on aiohttp: 1.2 % of its gaps took 40 ms. Flush.",
        "Caution: The frequency changed between blocks.",
    )
    for text in outputs(summary).values():
        for words in wanted:
            assert words in text.replace("**", "")


def test_the_noise_floor_is_among_the_facts(summary: Summary) -> None:
    summary.conclusions = concluded(FIRST, compared(**(CPU | LESS)))
    summary.floors = {"first-token": 0.08, "cpu": 0.021, "gone": 1.0}
    assert dict(facts(summary))["Noise floor"].startswith("first-token 0.08 ms and cpu 2.10 %: the smallest effects")


def test_ceilings_stand_below_the_figures_they_limit(summary: Summary) -> None:
    rate = summary.get("unpaced", "ws-aiohttp", "all", "throughput")
    cpu = summary.get("unpaced", "ws-aiohttp", "all", "cpu_server")
    assert rate
    assert cpu
    summary.ceilings = [
        Ceiling("unpaced", "websocket", "throughput", rate.median * 2),
        Ceiling("unpaced", "websocket", "cpu_server", cpu.median / 3),
    ]
    (table,) = phase_tables(summary, summary.phases[1])
    rows = {row.title: [cell.middle for cell in row.cells] for section in table.sections for row in section.rows}
    assert rows["Tokens per second, beside the ceiling"][:2] == ["", "50 % of the ceiling"]
    assert rows["Server CPU per token, beside the ceiling"][:2] == ["", "3.0× the ceiling’s"]
    assert "reached on this machine" in rendered.page(summary)


def test_a_run_with_verdicts_is_built_whole(tmp_path: Path) -> None:
    what = Synthetic(blocks=8, streams=6, noise=True, phases=("unpaced",), primary=("cpu",))
    summary, written = build(write_run(tmp_path / "run", what))
    assert summary.conclusions
    assert len(verdicts(summary)) == 2
    assert {"charts/verdicts.svg", "charts/verdicts.png"} <= set(written)
    data = json.loads(written["json"].read_bytes())
    jsonschema.validate(data, json_.schema(), jsonschema.Draft202012Validator)
    for name in ("html", "markdown", "json"):
        assert not re.search(r"\b(nan|NaN|inf|Infinity)\b", written[name].read_text("utf-8")), name
    assert len(on_terminal(summary).splitlines()) <= 32
