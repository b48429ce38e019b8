"""A gate's outputs, each as the tool that reads it takes it."""

from __future__ import annotations

import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import gates
import jsonschema
import junitparser
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from bench.gate.outputs import bencher, benchmark, figures, json_, junit, markdown, print_gate, prometheus, write_all
from bench.gate.result import Gate, Row

GATES = {
    "passing": gates.passing(),
    "regressed": gates.regressed(),
    "inconclusive": gates.inconclusive(),
    "invalid": gates.invalid(),
    "hostile": gates.hostile(),
    "empty": gates.passing(rows=[], machine={}, reasons=[]),
}
every_gate = pytest.mark.parametrize("gate", GATES.values(), ids=GATES)

SIZES = {"low": -0.008, "effect": 0.0033, "high": 0.0146, "smallest_effect": 0.03}


@pytest.mark.parametrize(
    ("low", "effect", "high", "drawn"),
    [
        (-0.03, 0.0, 0.03, "····┿━━━●━━━┿····"),
        (0.0375, 0.045, 0.0525, "····┊···│···┊━●━·"),
        (0.045, 0.09, 0.1, "····┊···│···┊·━━▶"),
        (0.08, 0.09, 0.1, "····┊···│···┊···▶"),
        (-0.1, -0.09, -0.08, "◀···┊···│···┊····"),
        (-0.2, 0.0, 0.2, "◀━━━┿━━━●━━━┿━━━▶"),
        (0.0, 0.0, 0.0, "····┊···●···┊····"),
    ],
)
def test_the_chart_goes_to_twice_the_smallest_effect(low: float, effect: float, high: float, drawn: str) -> None:
    row = gates.timing(low=low, effect=effect, high=high)
    assert figures.chart(row) == drawn
    turned = gates.timing(low=-high, effect=-effect, high=-low, more_is_better=True)
    assert figures.chart(turned) == drawn, "right is worse, whichever way that is"


@pytest.mark.parametrize("gone", ["low", "effect", "high", "smallest_effect"])
def test_no_chart_without_an_interval_or_a_scale(gone: str) -> None:
    assert figures.chart(gates.timing(**SIZES))
    assert figures.chart(gates.timing(**(SIZES | {gone: None}))) == ""
    assert figures.chart(gates.exact(**SIZES)) == ""


def test_numbers_are_in_the_unit_of_their_scale() -> None:
    ratio = gates.timing(base=61.25, head=5.0, effect=0.0931, low=-0.0712, high=0.1154)
    assert (figures.effect(ratio), figures.interval(ratio), figures.smallest(ratio)) == (
        "+9.3 %",
        "−7.1 to +11.5",
        "3 %",
    )
    assert figures.values(ratio) == ("61.25", "5.00")
    ms = gates.latency(effect=-0.0194, low=-0.0571, high=0.0182)
    assert (figures.effect(ms), figures.interval(ms), figures.smallest(ms)) == (
        "−0.019 ms",
        "−0.057 to +0.018",
        "0.1 ms",
    )
    lost = gates.exact(base=0.0, head=12000.0, effect=12000.0)
    assert (figures.effect(lost), figures.interval(lost), figures.values(lost)) == (
        "+12\u202f000",
        "",
        ("0", "12\u202f000"),
    )
    fine = gates.exact(base=212.4186, head=212.45, effect=0.0314, unit="B")
    assert (figures.effect(fine), figures.values(fine)) == ("+0.031 B", ("212.419", "212.450"))
    none = gates.timing(base=None, head=None, effect=None)
    assert (figures.effect(none), figures.values(none)) == ("–", ("–", "–"))


# gate.md


def _read(text: str) -> list[Token]:
    """What a reader of Markdown makes of it, links of bare addresses included."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def _inline(tokens: list[Token]) -> list[Token]:
    return [child for token in tokens for child in token.children or []]


def _table_rows(tokens: list[Token]) -> list[list[str]]:
    """The cells of every table's body rows, as the text that they show."""
    rows: list[list[str]] = []
    body = False
    for token in tokens:
        if token.type in ("tbody_open", "tbody_close"):
            body = token.type == "tbody_open"
        elif token.type == "tr_open" and body:
            rows.append([])
        elif token.type == "inline" and body:
            rows[-1].append("".join(c.content for c in token.children or [] if c.type != "html_inline"))
    return rows


def test_markdown_says_the_verdict_and_its_reason_first() -> None:
    for gate in (GATES["passing"], GATES["regressed"], GATES["inconclusive"], GATES["invalid"]):
        first, second, *_ = markdown.render(gate).splitlines()
        assert first == "<!-- tokenwire-gate -->"
        shown = "".join(t.content for t in _inline(_read(second)))
        assert shown == f"Gate: {gate.decision}. {gate.reasons[0]}"


def test_markdown_has_a_row_per_measure() -> None:
    gate = gates.regressed()
    rows = _table_rows(_read(markdown.render(gate)))
    assert len(rows) == len(gate.rows)
    assert rows[0] == [
        "Server CPU per tokenwarm, sse-aiohttp",
        "61.2\u00a0µs",
        "66.9\u00a0µs",
        "+9.3\u00a0%+7.1\u00a0to\u00a0+11.5",
        "3\u00a0%",
        "····┊···│···┊···▶",
        "regression",
    ]
    assert [row[-1] for row in rows] == [
        "regression",
        "regression",
        "inconclusive",
        "improvement",
        "not confirmed",
        "regression",
        "improvement",
        "same",
        "worse",
        "–",
    ]


def test_markdown_folds_away_what_does_not_decide() -> None:
    text = markdown.render(gates.regressed())
    outside = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "Server memory" in text
    assert "Server memory" not in outside
    assert "Parse an SSE event" not in outside
    assert "Tokens lost" in outside


def test_markdown_says_what_was_compared_and_how_to_do_it_again() -> None:
    text = markdown.render(gates.regressed())
    assert "**Head:** 9a1e9a1e9a1e Let the writer flush once a token, with changes that are in no commit" in text
    assert "aiohttp 3.14.1 → 3.14.3" in text
    assert "python 3.13" not in text.lower().split("**other versions:**")[1].splitlines()[0]
    assert "10 valid, 1 void, with a second run to confirm" in text
    assert "AMD EPYC 7763 64-Core Processor, 4 cores, 16 GiB, Linux 6.11.0" in text
    assert text.endswith("```\ntokenwire gate --base 0f3c0f3c0f3c --size small\n```\n")
    commands = gates.passing(
        base=gates.side("base", command="gateway --port {port}", revision=""),
        head=gates.side("head", command="new 'x y'", revision=""),
        size="mine",
        options=["--thresholds", "own thresholds.toml"],
    )
    again = markdown.render(commands).splitlines()[-2]
    assert again.startswith("""tokenwire gate --base-cmd 'gateway --port {port}' --head-cmd 'new '"'"'x y'"'"''""")
    assert again.endswith("--size mine --thresholds 'own thresholds.toml'")


def test_markdown_of_an_invalid_gate_judges_nothing() -> None:
    text = markdown.render(gates.invalid())
    assert not _table_rows(_read(text))
    assert "Nothing is judged" in text
    assert "busy for 94 %" in text


@pytest.mark.parametrize(("code", "said"), [(0, "counts as a pass"), (1, "counts as a failure"), (4, "")])
def test_markdown_says_what_inconclusive_was_told_to_count_as(code: int, said: str) -> None:
    text = markdown.render(gates.inconclusive(exit_code=code))
    assert said in text
    assert ("counts as" in text) == bool(said)


def test_markdown_lets_nobody_elses_text_be_more_than_text() -> None:
    text = markdown.render(gates.hostile())
    tokens = _read(text)
    tags = {t.content.strip() for t in [*tokens, *_inline(tokens)] if t.type in ("html_block", "html_inline")}
    ours = r"<br>|</?sub>|</?details>|<summary>[\w ,:-]+</summary>|<!-- tokenwire-gate -->"
    assert all(re.fullmatch(rf"(?:(?:{ours})\s*)+", tag) for tag in tags), tags
    assert not [t for t in _inline(tokens) if t.type in ("link_open", "image", "em_open", "s_open")]
    assert {t.tag for t in tokens if t.type == "heading_open"} == {"h3"}
    assert [len(row) for row in _table_rows(tokens)] == [7, 5, 7]
    shown = [t.content for t in tokens if t.type == "inline"]
    assert any("<img src=x onerror=alert(1)>" in "".join(c.content for c in t.children or []) for t in tokens)
    for line in shown:
        assert not re.search(r"@\w|#\d|GH-\d|://|www\.", line), "GitHub would mention or link it"
    # In a block of code nothing is a mention, and the block has to hold the text's own backticks.
    assert [t.content.count("octocat") for t in tokens if t.type == "fence"] == [3]


ITEMS = ["1. one", "- minus", "-", "+ plus", "# head", "> said", "12) x", "===", "---", "```", "\t* star", "~~~ x"]


@given(st.sampled_from(ITEMS) | st.text(min_size=1, max_size=80).filter(figures.plain))
def test_markdown_text_comes_out_as_it_went_in(text: str) -> None:
    tokens = _read("\n".join(markdown._items([text])))
    opened = [token.type for token in tokens if token.nesting == 1]
    assert opened == ["bullet_list_open", "list_item_open", "paragraph_open"], "it begins nothing else"
    shown = "".join(child.content for child in _inline(tokens)).replace("\u200b", "")
    assert shown.split() == figures.plain(text).split()


@pytest.mark.parametrize(("deciding", "advice"), [(3, 2_000), (800, 2_000), (40, 20)])
def test_markdown_fits_a_comment_and_says_what_is_left_out(deciding: int, advice: int) -> None:
    text = markdown.render(gates.large(deciding, advice))
    assert len(text.encode()) <= markdown.LIMIT
    rows = len(_table_rows(_read(text)))
    left = [int(n.replace("\u202f", "")) for n in re.findall(r"([\d\u202f]+) more rows? left out", text)]
    assert rows + sum(left) == 2 * deciding + advice
    assert bool(left) == (advice > 100)
    if deciding <= 40:
        assert f"arm-{deciding - 1}" in text, "what decides stays"


def test_markdown_fits_a_comment_whatever_others_say() -> None:
    long = "\U0001f600" * 2_000
    rows = [gates.timing(name=f"{n}", title=long, where=long, arm=long, unit=long) for n in range(50)]
    rows += [gates.exact(name=f"c{n}", title=long, head=n % 2, finding=f) for n in range(50) for f in ("same", "told")]
    side = gates.side("base", what=long, command=long, versions={long: long})
    gate = gates.regressed(
        reasons=[long] * 50,
        notes=[long] * 50,
        voids=[long] * 50,
        rows=rows,
        base=side,
        head=side,
        size=long,
        tokenwire=long,
        machine={"cpu": long},
    )
    assert len(markdown.render(gate).encode()) <= markdown.LIMIT


# gate-junit.xml, by Jenkins' schema junit-10

ATTRIBUTES = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "time", "classname"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase", "system-out"},
    "properties": {"property"},
    "testcase": {"failure", "error", "skipped"},
}


def _checked_junit(text: bytes) -> ElementTree.Element:
    """What junit-10 allows, and that its totals add up."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    for node in root.iter():
        assert set(node.attrib) == ATTRIBUTES[node.tag]
        assert {child.tag for child in node} <= CHILDREN.get(node.tag, set())
        if "time" in node.attrib:
            assert re.fullmatch(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?", node.attrib["time"])
    (suite,) = root
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) > 0
    for total, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[total]) == len(suite.findall(f"testcase/{tag}"))
    assert len({(case.attrib["classname"], case.attrib["name"]) for case in cases}) == len(cases)
    return suite


@every_gate
def test_junit_is_what_its_readers_know(gate: Gate) -> None:
    text = junit.render(gate)
    _checked_junit(text)
    assert junitparser.JUnitXml.fromstring(text).time == gate.seconds


def test_junit_has_a_case_per_row_that_decides() -> None:
    (suite,) = junitparser.JUnitXml.fromstring(junit.render(gates.regressed()))
    found = {case.name.partition(":")[0]: [(type(r).__name__, r.message) for r in case.result] for case in suite}
    rows = {row.name: row for row in gates.regressed().rows}
    assert set(found) == {name for name, row in rows.items() if row.decides}
    assert found["cpu/sse-aiohttp"] == [("Failure", rows["cpu/sse-aiohttp"].sentence)]
    assert found["gap/ws-aiohttp"] == [("Skipped", rows["gap/ws-aiohttp"].sentence)]
    assert found["cpu/ws-aiohttp"] == [], "a second run did not find it"
    assert (suite.failures, suite.skipped, suite.errors) == (3, 1, 0)
    assert {p.name: p.value for p in suite.properties()}["base.revision"] == gates.BASE_COMMIT
    assert {case.classname for case in suite} == {"gate.timing", "gate.count"}
    said = _checked_junit(junit.render(gates.regressed())).findtext("system-out", "").splitlines()
    assert [line for line in said if line.startswith("Advice: ")] == [f"Advice: {rows['memory/sse-aiohttp'].sentence}"]


def test_junit_fails_where_inconclusive_is_told_to() -> None:
    for code, tag in ((4, "skipped"), (0, "skipped"), (1, "failure")):
        suite = _checked_junit(junit.render(gates.inconclusive(exit_code=code)))
        assert [case[0].tag for case in suite.iter("testcase") if len(case)] == [tag]


def test_junit_of_an_invalid_gate_is_one_error() -> None:
    suite = _checked_junit(junit.render(gates.invalid()))
    (case,) = suite.findall("testcase")
    assert case[0].tag == "error"
    assert case[0].text == "Base lost tokens in every block. The driver was busy for 94 % of the time."


@settings(max_examples=50)
@given(st.text(st.characters(codec=None), max_size=30))
def test_any_text_makes_files_that_can_be_read(text: str) -> None:
    row = gates.timing(name=f"x{text}", title=text, where=text, arm=text, sentence=text, finding="regression")
    gate = gates.regressed(rows=[row], base=gates.side("base", what=text, command=text, revision=text))
    _checked_junit(junit.render(gate))
    assert list(text_string_to_metric_families(prometheus.render(gate)))
    for made in (benchmark.render(gate), bencher.render(gate), json_.render(gate)):
        assert json.loads(made)
    assert markdown.render(gate).encode()


# gate-benchmark.json


def _benchmarks(gate: Gate) -> dict[str, dict[str, object]]:
    """Held to what github-action-benchmark takes: an array of objects, names once, numbers that are numbers."""
    entries = json.loads(benchmark.render(gate))
    assert isinstance(entries, list)
    for entry in entries:
        assert {"name", "unit", "value"} <= set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert type(entry["value"]) in (int, float)
        assert all(isinstance(entry[key], str) and entry[key] for key in set(entry) - {"value"})
        if "range" in entry:
            # Behind its sign the tool turns all of the rest into a number.
            assert float(re.fullmatch(r"± (\d.*)", entry["range"])[1]) >= 0  # type: ignore[index]
    assert len({entry["name"] for entry in entries}) == len(entries)
    return {entry["name"]: entry for entry in entries}


@every_gate
def test_benchmark_json_is_what_its_reader_takes(gate: Gate) -> None:
    assert len(_benchmarks(gate)) == (0 if gate.decision == "invalid" else len(gate.rows))


def test_benchmark_json_holds_heads_values() -> None:
    found = _benchmarks(gates.regressed())
    cpu = found["cpu/sse-aiohttp"]
    assert (cpu["value"], cpu["unit"], cpu["range"]) == (66.9, "µs", "± 1.35")
    assert "base 61.2 µs\neffect against base +9.3 %, 95 % interval +7.1 to +11.5 %: regression" in str(cpu["extra"])
    assert (found["gap/ws-aiohttp"]["range"], found["lost/chat/ws-aiohttp"]["value"]) == ("± 0.0715", 3.0)


def test_benchmark_json_turns_round_what_is_better_when_more() -> None:
    found = _benchmarks(gates.regressed())["throughput/sse-aiohttp (reciprocal)"]
    assert found["value"] == pytest.approx(1 / 172_500)
    assert found["unit"] == "s"
    users = gates.throughput(unit="users", head=40.0)
    (entry,) = _benchmarks(gates.passing(rows=[users])).values()
    assert (entry["value"], entry["unit"]) == (0.025, "1/users")
    assert not _benchmarks(gates.passing(rows=[gates.throughput(head=0.0)]))


@pytest.mark.parametrize("head", [None, float("nan"), float("inf")])
def test_a_row_without_a_value_leaves_none(head: float | None) -> None:
    gate = gates.passing(rows=[gates.timing(head=head, effect=head, low=head, high=head)])
    assert not _benchmarks(gate)
    assert json.loads(bencher.render(gate)) == {}
    assert 'side="head"' not in prometheus.render(gate)


# gate-bencher.json

BMF = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 1024},
    "additionalProperties": {
        "type": "object",
        "minProperties": 1,
        # Bencher takes a measure for a slug where it is one, and makes it anew where it is not known.
        "propertyNames": {"pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 64},
        "additionalProperties": {
            "type": "object",
            "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
            "required": ["value"],
            "additionalProperties": False,
        },
    },
}


@every_gate
def test_bencher_json_is_what_its_reader_takes(gate: Gate) -> None:
    found = json.loads(bencher.render(gate))
    jsonschema.validate(found, BMF)
    assert len(found) == (0 if gate.decision == "invalid" else len(gate.rows))


def test_bencher_json_has_the_value_and_the_effect_with_its_interval() -> None:
    found = json.loads(bencher.render(gates.regressed()))
    assert found["cpu/sse-aiohttp"] == {
        "cpu-server-us": {"value": 66.9},
        "cpu-server-effect-ratio": {"value": 0.0931, "lower_value": 0.0712, "upper_value": 0.1154},
    }
    assert set(found["gap/ws-aiohttp"]) == {"gap-excess-ms", "gap-excess-effect-ms"}
    assert found["lost/chat/ws-aiohttp"] == {"lost": {"value": 3.0}}
    assert set(found["throughput/sse-aiohttp"]) == {"throughput-per-s", "throughput-effect-ratio"}
    assert set(found["micro/parse_sse"]) == {"micro-reference", "micro-effect-ratio"}


def test_bencher_json_keeps_names_as_short_as_they_must_be() -> None:
    row = gates.timing(name="é" * 2_000, measure="m" * 300)
    jsonschema.validate(json.loads(bencher.render(gates.passing(rows=[row]))), BMF)
    (name,) = json.loads(bencher.render(gates.passing(rows=[row])))
    assert len(name.encode()) <= 1024


# gate.prom

Sample = tuple[str, frozenset[tuple[str, str]]]


def _metrics(gate: Gate) -> dict[Sample, float]:
    """Held to what node_exporter's textfile collector takes."""
    text = prometheus.render(gate)
    assert text.endswith("\n")
    assert "\r" not in text
    found: dict[Sample, float] = {}
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.type == "gauge"
        assert family.documentation
        assert re.fullmatch("tokenwire_gate_[a-z_]+", family.name)
        for sample in family.samples:
            assert sample.timestamp is None, "the collector refuses them"
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def _of(found: dict[Sample, float], metric: str, **labels: str) -> float:
    (value,) = [v for (name, held), v in found.items() if name == metric and labels.items() <= dict(held).items()]
    return value


@every_gate
def test_prometheus_text_is_what_its_reader_takes(gate: Gate) -> None:
    found = _metrics(gate)
    decisions = {dict(labels)["decision"]: v for (name, labels), v in found.items() if name.endswith("_decision")}
    assert decisions == {d: float(d == gate.decision) for d in ("pass", "regression", "invalid", "inconclusive")}
    assert _of(found, "tokenwire_gate_timestamp_seconds") == 1795428900
    values = [name for name, _ in found if name.startswith("tokenwire_gate_value")]
    assert bool(values) == bool(gate.rows and gate.decision != "invalid")


def test_prometheus_text_is_in_base_units() -> None:
    found = _metrics(gates.regressed())
    cpu = {"name": "cpu/sse-aiohttp", "kind": "timing", "arm": "sse-aiohttp", "where": "warm"}
    assert _of(found, "tokenwire_gate_value_seconds", **cpu, side="head") == 66.9e-6
    assert _of(found, "tokenwire_gate_effect_ratio", **cpu) == 0.0931
    assert _of(found, "tokenwire_gate_effect_low_ratio", **cpu) == 0.0712
    assert _of(found, "tokenwire_gate_effect_smallest_ratio", **cpu) == 0.03
    assert _of(found, "tokenwire_gate_effect_high_seconds", name="gap/ws-aiohttp") == 131e-6
    assert _of(found, "tokenwire_gate_value_bytes", name="memory/sse-aiohttp", side="base") == 41.5 * 1024
    assert _of(found, "tokenwire_gate_value_ratio", name="micro/parse_sse", side="head") == 3.39
    assert _of(found, "tokenwire_gate_effect", name="lost/chat/ws-aiohttp") == 3
    assert _of(found, "tokenwire_gate_value_per_second", name="throughput/sse-aiohttp", side="head") == 172_500


def test_prometheus_text_tells_what_failed() -> None:
    found = _metrics(gates.regressed())
    failing = {dict(held)["name"] for (name, held), v in found.items() if name == "tokenwire_gate_regression" and v}
    assert failing == {"cpu/sse-aiohttp", "throughput/sse-aiohttp", "lost/chat/ws-aiohttp"}
    assert _of(found, "tokenwire_gate_inconclusive", name="gap/ws-aiohttp") == 1
    assert not [held for name, held in found if name == "tokenwire_gate_regression" and ("kind", "micro") in held]
    assert _of(found, "tokenwire_gate_info", base=gates.BASE_COMMIT, head=gates.HEAD_COMMIT, head_changed="true") == 1


def test_prometheus_labels_hold_any_text() -> None:
    found = _metrics(gates.hostile())
    assert "#" in gates.HOSTILE
    assert _of(found, "tokenwire_gate_info", base=figures.plain(gates.HOSTILE).replace("#", "")) == 1


# gate.json


def test_json_is_as_its_schema_says() -> None:
    shipped = json.loads(resources.files("bench.gate").joinpath("gate.schema.json").read_text("utf-8"))
    assert shipped == json_.schema(), "print it anew: python -m bench.gate.outputs.json_"
    jsonschema.Draft202012Validator.check_schema(shipped)
    for gate in GATES.values():
        jsonschema.validate(json.loads(json_.render(gate)), shipped, jsonschema.Draft202012Validator)


def test_json_can_be_read_again() -> None:
    gate = gates.regressed()
    assert msgspec.json.decode(json_.render(gate), type=Gate) == gate


# All of them


def test_all_are_written_and_the_same_each_time(tmp_path: Path) -> None:
    written = write_all(gates.regressed(), tmp_path / "new" / "folder")
    assert {name: path.name for name, path in written.items()} == {
        "json": "gate.json",
        "markdown": "gate.md",
        "junit": "gate-junit.xml",
        "benchmark": "gate-benchmark.json",
        "bencher": "gate-bencher.json",
        "prometheus": "gate.prom",
    }
    before = {path: path.read_bytes() for path in written.values()}
    assert set(before) == set((tmp_path / "new" / "folder").iterdir())
    write_all(gates.regressed(), tmp_path / "new" / "folder")
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a job of GitHub's."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_the_jobs_summary_is_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary"
    summary.write_text("before")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    written = write_all(gates.passing(), tmp_path)
    assert summary.read_text("utf-8") == "before\n" + written["markdown"].read_text("utf-8")


def test_a_summary_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert len(write_all(gates.passing(), tmp_path / "out")) == 6
    said = capsys.readouterr().err
    assert said.startswith(f"tokenwire: GITHUB_STEP_SUMMARY: {tmp_path}: ")
    assert said.count("\n") == 1


# The terminal


def _printed(gate: Gate, width: int, *, colour: bool = False) -> str:
    file = io.StringIO()
    colours: Literal["standard"] | None = "standard" if colour else None
    print_gate(gate, Console(file=file, width=width, highlight=False, force_terminal=colour, color_system=colours))
    return file.getvalue()


@every_gate
@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_the_verdict_first_and_fits(gate: Gate, width: int) -> None:
    text = _printed(gate, width)
    assert text.startswith(f"Gate: {gate.decision}.")
    assert "\x1b" not in text
    assert text.encode(), "no text that a terminal cannot be sent"
    if gate is not GATES["hostile"]:
        assert all(len(line) <= width for line in text.splitlines())


def test_the_terminal_shows_what_decides_and_why() -> None:
    text = _printed(gates.regressed(), 80)
    assert re.search(r"regression +Server CPU per token +61.2 → +\+9.3 % +3 %", text)
    assert re.search(r"warm, sse-aiohttp +66.9 µs +\+7.1 to \+11.5", text)
    assert re.search(r"not confirmed +Server CPU per token", text)
    assert "- Tokens lost in chat on ws-aiohttp: 3, base 0" in text
    assert "results/gate-20261123-101500" in text
    assert "│" not in text
    assert "····┊···│···┊···▶" in _printed(gates.regressed(), 120)
    assert "\x1b[1;31mGate: regression." in _printed(gates.regressed(), 120, colour=True)


def test_the_terminal_says_how_much_it_leaves_out() -> None:
    text = _printed(gates.large(), 80)
    assert text.count("same ") == 30
    assert "and 30 more rows, in gate.md" in text
    assert "60 timings and 60 exact counts decide: 120 same." in text


def test_words_for_findings() -> None:
    def word(row: Row) -> str:
        return figures.label(row)

    assert word(gates.timing(finding="regression")) == "regression"
    assert word(gates.timing(finding="regression", again="same")) == "regression", "tokens lost are, however often"
    assert word(gates.timing(finding="regression", decides=False)) == "worse"
    assert word(gates.timing(finding="inconclusive", again="inconclusive")) == "not confirmed"
    assert word(gates.timing(finding="told")) == "–"
