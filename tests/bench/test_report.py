"""Reports of made-up runs: whole, self-contained, honest about what is missing."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rendered
from rich.console import Console
from synthetic import ARMS, PHASES, Synthetic, write_run

from bench.metrics import Summary, Unfinished, summarize
from bench.record import read_run
from bench.report import build, describe, json_
from bench.report.findings import figures, findings
from bench.report.numbers import number, spread
from bench.report.style import looks
from bench.report.terminal import print_summary


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    what = Synthetic(blocks=2, noise=True, phases=("cold", "unpaced"))
    folder = write_run(tmp_path_factory.mktemp("report") / "run", what)
    (folder / "charts").mkdir()
    (folder / "charts" / "of-an-older-report.svg").write_text("<svg/>")
    return folder, build(folder)[1]


@pytest.fixture(scope="module")
def page(built: tuple[Path, dict[str, Path]]) -> str:
    return built[1]["html"].read_text("utf-8")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """Every phase and every arm, each with figures of its own; not to be changed."""
    return summary_of(tmp_path_factory.mktemp("noisy") / "run", Synthetic(blocks=2, noise=True))


def summary_of(folder: Path, what: Synthetic) -> Summary:
    return summarize(read_run(write_run(folder, what)))


class Outline(HTMLParser):
    """Collects what the tests look at."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_every_output_is_there_and_whole(built: tuple[Path, dict[str, Path]]) -> None:
    folder, written = built
    assert {"html", "markdown", "json"} <= set(written)
    assert all(path.stat().st_size > 500 for path in written.values())
    drawn = {p.name for p in (folder / "charts").iterdir()}
    assert drawn == {p.name for p in written.values() if p.parent.name == "charts"}, "no stale or temporary file"
    assert not list(folder.glob(".*"))


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|@import|url\((?!#)""", page)
    assert "<script" not in page
    assert len(page.encode()) < 1_500_000


def test_the_page_can_be_navigated_by_ear(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    charts = [attrs for tag, attrs in outline.tags if tag == "svg"]
    assert charts
    assert all(c.get("role") == "img" and c.get("aria-label") for c in charts)
    assert all("scope" in attrs for tag, attrs in outline.tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_charts_follow_the_page_into_the_dark(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert drawings
    for drawing in drawings:
        assert not set(re.findall(r"#[0-9a-f]{6}\b", drawing)), "every colour is a variable"
        assert "var(--ink)" in drawing


def test_json_is_as_its_schema_says(built: tuple[Path, dict[str, Path]]) -> None:
    shipped = json.loads(resources.files("bench.report").joinpath("summary.schema.json").read_text("utf-8"))
    assert shipped == json_.schema(), "print it anew: python -m bench.report.json_"
    jsonschema.Draft202012Validator.check_schema(shipped)
    jsonschema.validate(json.loads(built[1]["json"].read_bytes()), shipped, jsonschema.Draft202012Validator)


def test_the_schema_describes_every_field_and_gives_numbers_a_unit() -> None:
    unitless = {"format", "seed", "block", "blocks", "server_died", "samples", "alpha", "p", "p_holm"}
    unitless |= {"blocks_to_decide", "baseline_value", "other_value"}
    for kind, definition in json_.schema()["$defs"].items():
        assert definition["description"], kind
        for name, field in definition["properties"].items():
            assert field.get("description"), (kind, name)
            # Figures over trials are in the unit of the field that they stand in.
            of_outer = kind == "OverTrials" and name in ("median", "min", "max")
            if (_holds_numbers(field) and name not in unitless and not of_outer) or _refers_to(field, "OverTrials"):
                assert field.get("unit"), (kind, name)


def _refers_to(field: Any, kind: str) -> bool:
    kinds = [field, *field.get("anyOf", []), field.get("items") or {}, field.get("additionalProperties") or {}]
    return any(isinstance(k, dict) and k.get("$ref") == f"#/$defs/{kind}" for k in kinds)


def _holds_numbers(field: Any) -> bool:
    kinds = [field, *field.get("anyOf", []), field.get("items") or {}]
    return any(k.get("type") in ("number", "integer") for k in kinds)


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, streams=6, phases=("ladder",)))
    before = {name: path.read_bytes() for name, path in build(folder)[1].items()}
    assert {name: path.read_bytes() for name, path in build(folder)[1].items()} == before


def test_a_good_run_says_so_first_and_claims_no_winner(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", Synthetic(blocks=2, phases=("warm",)))
    found = [*findings(summary), *figures(summary, summary.phases[0])]
    assert found[0].text.startswith("All 120 streams are complete and all 4\u202f800 tokens are accounted for")
    assert not any(f.grave for f in found)
    assert found[1].lead == "Phase warm, first token (median)"
    assert "SSE on aiohttp 1.00 ms over the model's own delay (the same over 2 trials)" in found[1].text
    text = " ".join(f.text for f in found)
    assert not re.search(r"faster|slower|better|worse|winner|significant", text)


def test_what_went_wrong_comes_first(tmp_path: Path) -> None:
    what = Synthetic(finished=4, phases=("warm",), fail_every=10)
    found = findings(summary_of(tmp_path / "run", what))
    grave = [f.text for f in found if f.grave]
    assert grave == [f.text for f in found[: len(grave)]]
    assert grave[0].startswith("The run is interrupted: 4 of 9 trials")
    assert any("2 of 20 streams did not complete (2 truncated)" in t for t in grave)
    assert any("lost 40 of 800 tokens" in t for t in grave)
    assert not any("accounted for" in f.text for f in found)


def test_dead_servers_and_broken_schedules_come_before_all_else(tmp_path: Path) -> None:
    what = Synthetic(blocks=1, finished=1, phases=("warm",), died=-9, mismatches=2)
    dead, broken, *_ = findings(summary_of(tmp_path / "run", what))
    assert dead.text.startswith("Block 0, SSE on aiohttp: the server died (exit code \u22129)")
    assert broken.text.startswith("Block 0, SSE on aiohttp: 2 streams of the server did not follow the schedule")
    assert dead.grave
    assert broken.grave


def test_late_starts_are_told_after_completeness_and_only_where_starts_are_scheduled(tmp_path: Path) -> None:
    found = findings(summary_of(tmp_path / "run", Synthetic(blocks=1, phases=("warm", "load"), late=2)))
    assert found[0].text.startswith("All 120 streams are complete")
    assert found[1].lead == "Phase load"
    assert found[1].text.startswith("Of 60 starts 6 came more than 1 ms late and none were dropped.")
    assert found[1].grave
    assert not any(f.lead == "Phase warm" for f in found)


@pytest.mark.parametrize("source", [None, "chat", "my scenarios/other.toml"])
def test_the_command_to_run_again_names_what_was_run(tmp_path: Path, source: str | None) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("unpaced",)))
    info = json.loads((folder / "run.json").read_text()) | ({"source": source} if source else {})
    (folder / "run.json").write_text(json.dumps(info))
    told = shlex.split(describe.command(summarize(read_run(folder))))
    assert told == ["tokenwire", "run", source or "chat", "--set", "experiment.blocks=1"]


def test_the_command_of_a_run_of_an_arm_against_itself_is_that_one(tmp_path: Path) -> None:
    summary = summary_of(tmp_path / "run", Synthetic(blocks=1, phases=("unpaced",)))
    summary.command = ["aa", "--arm", "sse-aiohttp"]
    assert describe.command(summary).startswith("tokenwire aa --arm sse-aiohttp chat --set")


def test_a_delay_before_the_first_token_is_told_though_gaps_have_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("unpaced",)))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["profiles"]["instant"]["first"]["ms"] = 80.0
    (folder / "run.json").write_text(json.dumps(info))
    text = rendered.text(summarize(read_run(folder)))
    assert "first token due after 80 ms each; gaps none" in text
    assert "without pacing" not in text


def test_a_run_with_a_phase_missing_still_reports(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(finished=1, phases=("unpaced",)))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["phases"]["cold"] = PHASES["cold"]
    (folder / "run.json").write_text(json.dumps(info))
    _, written = build(folder)
    assert "No finished trial holds the phase cold." in written["html"].read_text("utf-8")
    assert "1 trial, so no range" in written["markdown"].read_text("utf-8")


def test_no_trial_is_one_line_and_no_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(finished=0))
    with pytest.raises(Unfinished):
        build(folder)
    assert not (folder / "report.html").exists()


def test_the_terminal_gets_thirty_lines_of_eighty_columns(noisy: Summary) -> None:
    for terminal in (True, False):
        file = io.StringIO()
        print_summary(noisy, Console(file=file, width=80, force_terminal=terminal))
        assert ("\x1b" in file.getvalue()) is terminal
        lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
        assert len(lines) <= 32
        assert max(len(line) for line in lines) <= 80


@pytest.mark.parametrize(("steps_ms", "said"), [((0.9, 2.4, 4.0), "at least 8"), ((0.9, None, None), "no gaps")])
def test_capacity_says_what_it_is_not(tmp_path: Path, steps_ms: tuple[float | None, ...], said: str) -> None:
    summary = summary_of(tmp_path / "run", Synthetic(blocks=2, phases=("ladder",), steps_ms=steps_ms))
    file = io.StringIO()
    print_summary(summary, Console(file=file, width=80))
    assert said in file.getvalue()
    tables, found = rendered.text(summary), [f.text for f in figures(summary, summary.phases[0])]
    assert f"| {said}" in tables
    assert any(said in text for text in found)


@pytest.mark.parametrize("width", [40, 60, 72, 80, 120])
def test_no_width_of_a_terminal_cuts_a_figure(noisy: Summary, width: int) -> None:
    file = io.StringIO()
    print_summary(noisy, Console(file=file, width=width))
    assert max(len(line) for line in file.getvalue().splitlines()) <= width
    assert "\u2026" not in file.getvalue()
    for arm in noisy.arms:
        for phase in ("cold", "load"):
            value = noisy.get(phase, arm.name, "all", "cpu_server_stream" if phase == "cold" else "cpu_server")
            assert value is not None
            middle, reach = spread(value, 2)
            assert middle in file.getvalue()
            assert f"({reach.replace(' to ', '–')})" in file.getvalue()


def test_markdown_tables_have_a_cell_per_arm(tmp_path: Path) -> None:
    text = rendered.text(summary_of(tmp_path / "run", Synthetic(blocks=1, phases=("warm", "ladder"))))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    assert {line.count("|") for line in rows} == {len(ARMS) + 2}


def test_text_from_a_scenario_is_never_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Synthetic(blocks=1, phases=("unpaced",)))
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["title"] = "<script>alert(1)</script> & more"
    (folder / "run.json").write_text(json.dumps(info))
    page = build(folder)[1]["html"].read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_arms_keep_their_looks_and_no_two_are_alike() -> None:
    alone = looks(["ws-websockets"])["ws-websockets"]
    several = looks(["sse-tuned", "ws-websockets", "other", "sse-aiohttp"])
    assert several["ws-websockets"] == alone
    assert len({look.colour for look in several.values()}) == len({look.marker for look in several.values()}) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4234, "0.423"),
        (1.0, "1.00"),
        (31.94, "31.9"),
        (12345.6, "12\u202f346"),
        (-0.0001, "0.000"),
        (-0.5, "\u22120.500"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_the_package_is_cheap_to_import() -> None:
    code = "import sys, bench.report; print([m for m in ('pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
