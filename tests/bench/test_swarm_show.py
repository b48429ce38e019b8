"""What people read of a distributed test: nothing from elsewhere in the page, nothing cut, nothing taken for markup."""

from __future__ import annotations

import io
import json
import random
import re
from array import array
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from bench.rawlog import StreamRecord
from bench.swarm.conclusion import Conclusion, conclude
from bench.swarm.figures import Figures
from bench.swarm.show import charts, ms, page, print_terminal, what, write
from bench.swarm.taken import Taken
from bench.swarm.workers import Workers, read_report

S, START = 1_000_000_000, 10**15
HOSTILE = "<script>alert('w')</script>"


def took(seed: int, number: int, late_ms: float) -> dict[str, Any]:
    """The report of streams over which tokens come so late on average, and of one that was refused."""
    draw, taken = random.Random(seed), Taken()
    for ordinal in range(number):
        due = [int(120e6 + 18e6 * i) for i in range(40)]
        stamps = array("q", [START + at + int(draw.expovariate(1 / (late_ms * 1e6))) for at in due])
        stamps = array("q", sorted(stamps))
        cold = ordinal % 3 == 0
        taken.begun()
        record = StreamRecord(
            stream=ordinal, phase="chat", step=0, window=True, ordinal=ordinal, seed=ordinal, cold=cold,
            intended_ns=START - draw.randrange(400_000), started_ns=START, outcome="complete",
            connected_ns=START + draw.randrange(90_000, 250_000) if cold else 0, first_content_ns=stamps[0],
            ended_ns=stamps[-1] + 40_000, chunks=40, received_bytes=11_000,
        )  # fmt: skip
        taken.ended(record, stamps, array("I", [1] * 40), due)
    taken.begun()
    refused = StreamRecord(
        stream=0, phase="chat", step=0, window=True, ordinal=0, seed=0, cold=True, intended_ns=START, started_ns=START,
        outcome="refused", reason="refused", ended_ns=START + 1,
    )  # fmt: skip
    taken.ended(refused, array("q"), array("I"), None)
    return taken.report()


def example(names: tuple[str, ...] = ("box-1_a", "box-2_b", "box-3_c"), streams: int = 300) -> Figures:
    """Workers of which the first was lost, and the last joined late."""
    workers = Workers()
    for name in names:
        workers.joined(name, 30 * S if name == names[-1] else 0)
    workers.started(S)
    for number, name in enumerate(names):
        plain = {
            "format": 1, "worker": name, "host": f"host-{name}", "seq": 9, "elapsed_ns": 120 * S, "final": number > 0,
            "users": 50, "cpu_share": 0.31 + number / 10, "cpu_ns": 9 * S, "loop_lag_p99_ns": 1_234_567,
            "loop_lag_max_ns": 8_000_000,
            "protocols": {"sse": took(number, streams, 0.6), "websocket": took(number + 50, streams, 0.4)},
        }  # fmt: skip
        workers.reported(name, read_report(plain), 129 * S + number * S // 2)
    workers.lost(names[0], 132 * S)
    return Figures.now(workers, 133 * S, over=True)


FIGURES = example()
CONCLUSION = conclude(FIGURES, open_loop=True)


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def printed(figures: Figures, width: int, conclusion: Conclusion | None = None) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_terminal(figures, console, conclusion)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page(FIGURES, CONCLUSION, title="Two sites")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    tags = Page(text).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "img", "iframe", "object"}
    assert not any({"src", "href"} & attributes.keys() for _, attributes in tags)


def test_names_are_text_wherever_they_stand() -> None:
    figures = example((HOSTILE, "b&amp;", "c"), streams=3)
    text = page(figures, conclude(figures, open_loop=True), title=HOSTILE)
    parsed = Page(text)
    assert "script" not in {tag for tag, _ in parsed.tags}
    # Title, heading, name, host, and what is missing.
    assert parsed.text.count(HOSTILE) == 5
    assert "b&amp;" in parsed.text
    assert f"worker {HOSTILE} lost" in " ".join(printed(figures, 400).split())


def test_the_page_says_what_is_wrong_first() -> None:
    parsed = Page(page(FIGURES, CONCLUSION))
    assert (CONCLUSION.state, CONCLUSION.code) == ("degraded", 5)
    assert "Degraded: workers went missing" in parsed.text
    assert FIGURES.missing[0] in parsed.text
    assert "worker box-3_c joined after 29.0 s" in parsed.text
    invalid = Conclusion("invalid", 3, ["worker w: driver's share of its core"])
    assert "Invalid: an instrument was at fault" in Page(page(FIGURES, invalid)).text
    assert "alarm" not in {value for _, attributes in Page(page(FIGURES)).tags for value in attributes.values()}


def test_the_page_has_every_figure_to_the_microsecond() -> None:
    text = Page(page(FIGURES, CONCLUSION)).text
    for row in FIGURES.rows:
        for value in (row.mean_ms, row.min_ms, row.p50_ms, row.p90_ms, row.p99_ms, row.p99_9_ms, row.max_ms):
            assert ms(value) in text
    assert "the server refused the connection" in text
    assert "host-box-2_b" in text


def test_only_a_live_page_loads_itself_anew() -> None:
    assert ("meta", {"http-equiv": "refresh", "content": "5"}) in Page(page(FIGURES, refresh_s=5)).tags
    assert "refresh" not in page(FIGURES)


def test_before_the_first_report_there_is_a_page_and_a_summary() -> None:
    nothing = Figures.now(Workers(), 0)
    assert "No stream has been reported yet." in page(nothing, refresh_s=5)
    assert "0 streams ended" in printed(nothing, 80)


def test_charts_show_both_protocols_and_stay_in_their_frame() -> None:
    drawn = charts(FIGURES)
    assert [chart.title for chart in drawn] == ["Gap, excess", "First token, excess, warm", "First token, excess, cold"]
    for chart in drawn:
        assert [line.title for line in chart.lines] == ["SSE", "WS"]
        for line in chart.lines:
            points = [tuple(map(float, point.split(","))) for point in line.points.split()]
            assert points == sorted(points)  # percentiles only grow to the right
            assert all(58 <= x <= 480 - 20 and 12 <= y <= 230 - 40 for x, y in points)
        assert "0" in [text for _, text in chart.up]


@pytest.mark.parametrize("value", [0.0, -2.5, 7.0])
def test_durations_of_one_value_can_be_drawn(value: float) -> None:
    gaps = FIGURES.row("sse", "gap_excess")
    assert gaps is not None
    flat = msgspec.structs.replace(gaps, curve=[(50.0, value), (90.0, value), (99.0, value)])
    (chart,) = charts(msgspec.structs.replace(FIGURES, rows=[flat]))
    assert len({point.split(",")[1] for point in chart.lines[0].points.split()}) == 1


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_cuts_no_figure(width: int) -> None:
    text = printed(FIGURES, width, CONCLUSION)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in FIGURES.rows:
        for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.p99_9_ms, row.max_ms):
            assert ms(value) in text
    words = " ".join(text.split())
    assert "Degraded:" in words
    assert FIGURES.missing[0] in words
    assert " ".join(what(FIGURES).split()) in words


def test_files_hold_the_same(tmp_path: Path) -> None:
    written = write(tmp_path, FIGURES, CONCLUSION, title="Two sites")
    assert {name: path.name for name, path in written.items()} == {"json": "distributed.json", "html": "report.html"}
    assert written["html"].read_text("utf-8") == page(FIGURES, CONCLUSION, title="Two sites")
    told = json.loads(written["json"].read_bytes())
    assert (told["format"], told["title"], told["conclusion"]["code"]) == (1, "Two sites", 5)
    assert told["missing"] == FIGURES.missing
    gaps = next(row for row in told["rows"] if (row["protocol"], row["measure"]) == ("websocket", "gap_excess"))
    found = FIGURES.row("websocket", "gap_excess")
    assert found is not None
    assert (gaps["count"], gaps["p99_9_ms"]) == (found.count, found.p99_9_ms)


def test_numbers_for_people() -> None:
    assert [ms(value) for value in (None, 0.0, -0.0004, -0.001, 1234.5678)] == [
        "–", "0.000", "0.000", "\u22120.001", "1\u202f234.568"
    ]  # fmt: skip
