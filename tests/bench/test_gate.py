"""The gate's judgement, on figures with a known answer, and a whole gate on real servers."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from bench import experiment, floor, machine
from bench.cli import app
from bench.gate import run as gating
from bench.gate import sides, thresholds
from bench.gate.judge import Judge, arm_of, confirm, decide, finding_of, ordered, suspects, told_differently
from bench.gate.result import Gate, Row
from bench.gate.sides import Built, Side
from bench.gate.thresholds import read, scenario_of
from bench.metrics import Account, Arm, Comparison, Value
from bench.scenario import Contrast, Scenario
from bench.scenario_toml import ScenarioError, load
from bench.server_settings import server_settings
from bench.verdict import conclude
from servers.plant import Plant

NAMES = ("sse-aiohttp", "ws-aiohttp")


def value(arm: str, phase: str, measure: str, statistic: str, figures: Any, temperature: Any = "warm") -> Value:
    figures = [float(one) for one in figures]
    return Value(
        phase=phase, arm=arm, temperature=temperature, users=0, measure=measure, statistic=statistic, unit="",
        median=float(np.median(figures)), min=min(figures), max=max(figures), per_trial=figures,
        blocks=list(range(1, len(figures) + 1)), per_slice=[], samples=10_000,
    )  # fmt: skip


class Phase(msgspec.Struct):
    """Of a phase, what judgement asks for."""

    name: str
    paced: bool
    settings: dict[str, str]


class Run:
    """As much of a summary as the gate judges: both sides the same, but for noise and what is changed."""

    def __init__(self, scenario: Scenario, rng: np.random.Generator, change: dict[tuple[str, str], float]) -> None:
        blocks = scenario.experiment.blocks
        self.values: list[Value] = []
        self.phases = [
            Phase(name, name != "firehose", {"connections": phase.connections})
            for name, phase in scenario.phases.items()
        ]
        self.accounts: dict[tuple[str, str], Account] = {}
        for name in scenario.arms:
            for side in ("base", "head"):
                head = {key: by for (on, key), by in change.items() if on == name and side == "head"}

                def noisy(typical: float, spread: float) -> Any:
                    return typical * np.exp(rng.normal(0, spread, blocks))

                arm = arm_of(name, side)
                first = noisy(0.7, 0.05) + head.get("ttft_excess", 0)
                cpu = noisy(11.0, 0.012) * (1 + head.get("cpu_server", 0))
                self.values += [
                    value(arm, "cold", "ttft_excess", "p50", first, "cold"),
                    value(arm, "chat", "gap_excess", "p99", noisy(1.5, 0.2) + head.get("gap_excess", 0)),
                    value(arm, "firehose", "cpu_server", "value", cpu, "all"),
                    value(arm, "firehose", "throughput", "value", 1e6 / cpu, "all"),
                    value(arm, "chat", "segments", "value", [1.0 + head.get("segments", 0)] * blocks),
                    value(arm, "chat", "wire_bytes", "value", [230.0 + head.get("wire_bytes", 0)] * blocks),
                    value(
                        arm, "firehose", "segments", "value", rng.uniform(0.2, 0.4, blocks) + head.get("segments", 0)
                    ),
                ]
                for phase in scenario.phases:
                    self.accounts[phase, arm] = Account(
                        phase,
                        arm,
                        streams=100,
                        tokens=500_000,
                        lost=int(head.get("lost", 0) + change.get((name, "base lost"), 0)),
                    )
        contrasts = {name: Contrast(arm_of(name, "base"), arm_of(name, "head")) for name in scenario.arms}
        me: Any = self
        self.conclusions = conclude(me, contrasts, scenario.primary, set(range(1, blocks + 1)))

    def get(self, phase: str, arm: str, temperature: str, measure: str, statistic: str) -> Value | None:
        wanted = (phase, arm, temperature, measure, statistic)
        found = (v for v in self.values if (v.phase, v.arm, v.temperature, v.measure, v.statistic) == wanted)
        return next(found, None)

    def account(self, phase: str, arm: str) -> Account | None:
        return self.accounts.get((phase, arm))


SCENARIO = scenario_of(read(), "small", ["experiment.blocks=10"])
JUDGE = Judge(read(), SCENARIO, {})


def rows(seed: int = 1, **change: float) -> list[Row]:
    """What is found of a run where head of the first arm differs by so much."""
    made: Any = Run(
        SCENARIO, np.random.default_rng(seed), {(NAMES[0], key.replace("__", " ")): by for key, by in change.items()}
    )
    return JUDGE.rows(made)


def found(some: list[Row], name: str) -> Row:
    return next(row for row in some if row.name == name)


# Judgement.


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"ttft_excess": 2.0}, "first-token/sse-aiohttp"),
        ({"gap_excess": 5.0}, "gaps/sse-aiohttp"),
        ({"cpu_server": 0.1}, "cpu/sse-aiohttp"),
        ({"segments": 1.0}, "segments/chat/sse-aiohttp/warm"),
        ({"wire_bytes": 10.0}, "wire_bytes/chat/sse-aiohttp/warm"),
        ({"lost": 1.0}, "lost/chat/sse-aiohttp"),
    ],
)
def test_what_is_worse_is_named_and_nothing_else(change: dict[str, float], name: str) -> None:
    judged = rows(**change)
    worse = {row.name for row in judged if row.decides and row.finding == "regression"}
    assert name in worse
    assert all(row.arm == NAMES[0] for row in judged if row.finding == "regression")
    if "lost" not in change:
        assert worse == {name}
    decision, reasons = decide(judged)
    assert decision == "regression"
    assert found(judged, name).sentence in reasons


def test_the_same_fails_hardly_ever() -> None:
    decisions = [decide(rows(seed))[0] for seed in range(100)]
    assert decisions.count("regression") == 0
    assert decisions.count("pass") > 60


def test_better_passes_and_is_told() -> None:
    judged = rows(cpu_server=-0.2)
    decision, reasons = decide(judged)
    assert decision == "pass"
    assert found(judged, "cpu/sse-aiohttp").finding == "improvement"
    assert any("better" in reason for reason in reasons)


def test_more_throughput_is_better() -> None:
    assert found(rows(cpu_server=-0.2), "throughput/sse-aiohttp").finding == "improvement"
    assert found(rows(cpu_server=0.2), "throughput/sse-aiohttp").finding == "regression"


def test_advice_never_fails() -> None:
    judged = [msgspec.structs.replace(row, decides=False) for row in rows(cpu_server=0.2, lost=3)]
    assert decide(judged)[0] == "pass"
    assert suspects(judged) == []


def test_a_count_that_varies_is_told_only() -> None:
    assert not any(row.name.startswith("segments/firehose") for row in rows(segments=1.0)), "writes run together there"
    assert found(rows(wire_bytes=1.0), "wire_bytes/chat/sse-aiohttp/warm").finding == "same", "within the tolerance"
    assert found(rows(wire_bytes=-50.0), "wire_bytes/chat/sse-aiohttp/warm").finding == "improvement"


@pytest.mark.parametrize(
    ("base", "head", "finding"),
    [
        (0, 0, "same"),
        (0, 1, "regression"),
        (5, 5, "same"),
        (5, 8, "inconclusive"),
        (5, 40, "regression"),
        (9, 2, "same"),
    ],
)
def test_tokens_amiss_in_both(base: int, head: int, finding: str) -> None:
    # "base lost" is in both sides.
    judged = rows(lost=head - base, base__lost=base)
    assert found(judged, "lost/chat/sse-aiohttp").finding == finding


def comparison(
    low90: float, high90: float, *, verdict: Any = "none", more_is_better: bool = False, blocks: int = 10
) -> Comparison:
    return Comparison(
        contrast="a", baseline="a-base", other="a-head", phase="p", temperature="all", measure="cpu_server",
        statistic="value", scale="ratio", unit="", more_is_better=more_is_better, estimate=(low90 + high90) / 2,
        low=low90 - 0.001, high=high90 + 0.001, low90=low90, high90=high90, per_block=[0.0] * blocks,
        blocks=list(range(blocks)), primary="cpu", verdict=verdict,
    )  # fmt: skip


def test_not_worse_is_one_sided() -> None:
    assert finding_of(comparison(-0.5, 0.01), 0.03) == "same"
    assert finding_of(comparison(-0.01, 0.5), 0.03) == "inconclusive"
    assert finding_of(comparison(-0.5, 0.01, more_is_better=True), 0.03) == "inconclusive"
    assert finding_of(comparison(-0.01, 0.5, more_is_better=True), 0.03) == "same"
    assert finding_of(comparison(-0.01, 0.01, blocks=7), 0.03) == "inconclusive", "too few blocks"


@pytest.mark.parametrize(
    ("gone", "decision", "words"),
    [
        (("head",), "regression", "no figure of head."),
        (("base", "head"), "inconclusive", "no figure of base and head; leave the arm out"),
        (("base",), "inconclusive", "no figure of base; leave the arm out"),
    ],
)
def test_what_was_not_there_to_compare_does_not_pass(gone: tuple[str, ...], decision: str, words: str) -> None:
    made: Any = Run(SCENARIO, np.random.default_rng(1), {})
    away = {arm_of(NAMES[1], side) for side in gone}
    made.values = [v for v in made.values if v.arm not in away]
    contrasts = {name: Contrast(arm_of(name, "base"), arm_of(name, "head")) for name in NAMES}
    made.conclusions = conclude(made, contrasts, SCENARIO.primary, set(range(1, 11)))
    decided, reasons = decide(JUDGE.rows(made))
    assert decided == decision
    assert words in reasons[0]


# The second run.


def test_what_a_second_run_does_not_find_passes() -> None:
    first, again = rows(cpu_server=0.1), rows(seed=2)
    judged = confirm(first, again)
    row = found(judged, "cpu/sse-aiohttp")
    assert (row.finding, row.again) == ("same", "same")
    assert "did not find it" in row.sentence
    assert decide(judged)[0] == "pass"


def test_what_is_found_twice_fails() -> None:
    judged = confirm(rows(cpu_server=0.1), rows(seed=2, cpu_server=0.1))
    row = found(judged, "cpu/sse-aiohttp")
    assert (row.finding, row.again) == ("regression", "regression")
    assert [one.again for one in judged if one.name != row.name] == [None] * (len(judged) - 1)


def test_a_second_run_that_cannot_tell_leaves_it_open() -> None:
    again = [
        msgspec.structs.replace(row, finding="inconclusive") if row.name == "cpu/sse-aiohttp" else row
        for row in rows(seed=2)
    ]
    assert decide(confirm(rows(cpu_server=0.1), again))[0] == "inconclusive"


def test_lost_tokens_are_facts() -> None:
    judged = confirm(rows(lost=1), rows(seed=2))
    assert decide(judged)[0] == "regression"
    assert "A second run had 0." in found(judged, "lost/chat/sse-aiohttp").sentence


def test_without_a_second_run_only_facts_stand() -> None:
    assert decide(confirm(rows(cpu_server=0.1), []))[0] == "inconclusive"
    judged = confirm(rows(cpu_server=0.1, lost=1), [])
    assert decide(judged)[0] == "regression"
    assert found(judged, "cpu/sse-aiohttp").finding == "inconclusive"
    assert found(judged, "lost/chat/sse-aiohttp").again is None


def test_the_worst_comes_first() -> None:
    some = ordered(rows(cpu_server=0.1))
    assert some[0].name == "cpu/sse-aiohttp"
    deciding = [row.decides for row in some]
    assert deciding == sorted(deciding, reverse=True)
    both = rows(cpu_server=0.1, lost=1)
    assert ordered(both)[0].measure == "lost"
    assert decide(both)[1][0].startswith("Tokens lost")


def test_settings_that_servers_told_differently() -> None:
    def arm(name: str, **settings: Any) -> Arm:
        return Arm(name, name, "websocket", "aiohttp", 10, {"aiohttp": "3"}, settings, {})

    class Told:
        arms = (
            arm("a-base", compression={"websocket": False}, loop="uvloop"),
            arm("a-head", compression={"websocket": True}, loop="uvloop"),
            arm("b-base", x=1),
            arm("b-head", x=1),
        )

    told: Any = Told
    assert told_differently(told, ["a", "b"]) == [
        "Head's server says of itself setting compression.websocket: on, base off (on a)."
    ]


def test_a_plant_of_nothing_is_told_to_the_server() -> None:
    """It is the control of planted changes: without it, what a plant costs by its presence would be in the change."""
    arms = {"none": SCENARIO.arms[NAMES[0]], "control": msgspec.structs.replace(SCENARIO.arms[NAMES[0]], plant=Plant())}
    scenario = msgspec.structs.replace(SCENARIO, arms=arms)
    assert server_settings(scenario, "control", None)["plant"] == {}
    assert "plant" not in server_settings(scenario, "none", None)


# Thresholds.


def test_the_thresholds_that_come_with_it_can_be_used() -> None:
    for size in read().sizes:
        scenario = scenario_of(read(), size, [])
        assert set(scenario.primary) == {"first-token", "gaps", "cpu"}
        # What Holm's correction leaves of so many tests must be in reach of so few blocks.
        assert 2 / 2**scenario.experiment.blocks < 0.05 / (3 * len(scenario.arms))


def test_a_size_has_smallest_effects_of_its_own() -> None:
    default, small = (thresholds.sized(read(), size).timing for size in ("default", "small"))
    assert (default["cpu"].smallest_effect, small["cpu"].smallest_effect) == (0.03, 0.05)
    assert small["gaps"] == default["gaps"]
    assert scenario_of(read(), "small", []).primary["cpu"].smallest_effect == 0.05


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "not a TOML file"),
        ("colour = 1", "unknown key 'colour'"),
        ("", "sizes: at least one table"),
        ("[sizes.default]\nblocks = 4", "sizes.default.blocks = 4"),
        ("[sizes.default]\nblocks = 10", "timing: at least one table"),
        ('[sizes.default]\nblocks = 10\n[timing.a]\nrole = "maybe"', "timing.a"),
        (
            "[sizes.default]\nblocks = 10\n[timing.a]\n"
            'role = "advise"\nphase = "cold"\nmeasure = "ttft"\nsmallest_effect = 1',
            "0 with role = 'gate'",
        ),
    ],
)  # fmt: skip
def test_thresholds_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(ScenarioError) as raised:
        read(file)
    message = str(raised.value)
    assert message.startswith(str(file))
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('phase = "cold"', 'phase = "warm"', "timing.first-token.phase: 'warm' is no phase of gate"),
        ('measure = "gap_excess"', 'measure = "gap"', "timing.gaps.measure = 'gap'"),
        ('statistic = "p90"', 'statistic = "p42"', "timing.first-token-tail.statistic = 'p42'"),
        ("{ cpu = 0.05 }", "{ memmory = 0.06 }", "sizes.small.smallest_effect.memmory: no such timing; did you mean"),
        ('"sse-aiohttp", "ws-aiohttp"', '"sse"', "sizes.small.arms: 'sse' is no arm of gate"),
        ('scenario = "gate"', 'scenario = "none"', "none: no such scenario"),
    ],
)
def test_thresholds_that_do_not_fit_the_scenario(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(thresholds.DEFAULT.read_text().replace(old, new))
    with pytest.raises(ScenarioError) as raised:
        scenario_of(read(file), "small", [])
    assert words in str(raised.value)


def test_a_threshold_below_the_noise_floor_is_refused(tmp_path: Path) -> None:
    """The floor that `tokenwire aa gate` would have left, of differences of 5 % either way."""
    work = floor.work_of(floor.against_itself(load("gate"), None, "gate"))
    key = floor.key_of("firehose", "all", "cpu_server", "value")
    floor.remember(tmp_path, floor.Noise("aa-gate", machine.describe(), work, "sse-aiohttp", {key: [0.05, -0.05] * 5}))
    request = gating.Request(read(), "default", [], tmp_path, base="HEAD")
    with pytest.raises(ScenarioError, match=r"timing\.cpu\.smallest_effect = 0\.03: .* or more blocks") as raised:
        gating.run(request, print)
    lowest = float(str(raised.value).partition("use at least ")[2].partition(",")[0])
    assert 0.03 < lowest < 0.06
    assert [path.name for path in tmp_path.iterdir()] == [floor.FILE]


# The command.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "what is compared?"),
        (["--base", "HEAD", "--base-cmd", "x"], "give one or the other"),
        (["--base-cmd", "x {port}"], "what is compared?"),
        (["--base-cmd", "x --port {port}", "--head-cmd", "y"], "--head-cmd: command"),
        (["--base-cmd", "x {port}", "--head-cmd", "y {port}", "--set", "experiment.tls=true"], "tls"),
        (["--base", "HEAD", "--size", "huge"], "--size huge: thresholds.toml has no such size"),
        (["--base", "HEAD", "--thresholds", "/none/such"], "/none/such: cannot be read"),
        (["--base", "HEAD", "--set", "experiment.blocks=3"], "experiment.blocks = 3"),
        (["--base", "HEAD", "--set", 'experiment.networks=["lan","4g"]'], "over one network"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["gate", "--results", str(tmp_path), *arguments])
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# A whole gate.

TINY = """
title = "Tiny"

[arms.sse]
protocol = "sse"
stack = "aiohttp"

[arms.ws]
protocol = "websocket"
stack = "aiohttp"

[experiment]
roofline = false

[phases.only]
load = "closed"
users = 4
turns = 2
connections = "warm"
profile = "quick"

[profiles.quick]
first = { dist = "constant", ms = 1 }
gap = { dist = "constant", ms = 1 }
length = { dist = "fixed", tokens = 25 }
"""
OWN = """
scenario = "{scenario}"
[sizes.default]
blocks = 8
[timing.first-token]
role = "gate"
phase = "only"
measure = "ttft_excess"
statistic = "p50"
smallest_effect = 1000
[micro]
role = "off"
"""


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> gating.Request:
    """A gate of one block, which decides by what is counted; this checkout on both sides, whatever else runs here."""
    scenario = tmp_path / "tiny.toml"
    scenario.write_text(TINY)
    own = tmp_path / "own.toml"
    own.write_text(OWN.format(scenario=scenario))
    monkeypatch.setattr(thresholds, "FEWEST_BLOCKS", 1)
    monkeypatch.setattr(experiment, "breaches", lambda *_: [])
    monkeypatch.setattr(sides, "same_program", lambda *_: False)
    return gating.Request(read(own), "default", ["experiment.blocks=1"], tmp_path / "results", base="HEAD")


def with_head(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Have this checkout as base, and as head with other arms."""
    top, python = Path(__file__).parents[2], Path(sys.executable)
    pair = Built(Side("base", "this"), top, python), Built(Side("head", "this, changed"), top, python)

    class Both:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> tuple[Built, Built]:
            return pair

        def __exit__(self, *_: Any) -> None: ...

    monkeypatch.setattr(sides, "trees", Both)
    real = gating._arm

    def arm(one: Any, built: Any, side: str, command: str) -> Any:
        found = real(one, built, side, command)
        return msgspec.structs.replace(found, **changed) if built is pair[1] else found

    monkeypatch.setattr(gating, "_arm", arm)


@pytest.mark.parametrize(
    ("change", "measure", "decision"),
    [({"lost": 1.0}, "lost", "regression"), ({"cpu_server": 0.1}, "cpu_server", "invalid")],
)
def test_only_facts_stand_when_the_second_run_is_invalid(
    change: dict[str, float],
    measure: str,
    decision: str,
    request_: gating.Request,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_head(monkeypatch)
    monkeypatch.setattr(gating, "told_differently", lambda *_: [])
    arm = next(iter(gating.scenario_of(request_.thresholds, request_.size, request_.overrides).arms))
    first = [msgspec.structs.replace(row, arm=arm) for row in rows(**change) if row.measure == measure]

    def once(*_: Any, again: bool = False) -> Any:
        if again:
            raise gating._Failed("invalid", "Every block was void.")
        return SimpleNamespace(blocks_whole=1, arms=[]), first

    monkeypatch.setattr(gating, "_experiment", once)
    gate, _ = gating.run(request_, lambda _: None)
    assert gate.decision == decision
    assert any("Every block was void." in text for text in (*gate.notes, *gate.reasons))


def test_a_head_that_loses_tokens_fails(request_: gating.Request, monkeypatch: pytest.MonkeyPatch) -> None:
    with_head(monkeypatch, plant=Plant(drop_every=100))
    gate, folder = gating.run(request_, lambda _: None)
    assert (gate.decision, gate.exit_code) == ("regression", 1)
    worse = [row for row in gate.rows if row.finding == "regression"]
    assert {(row.measure, row.arm, row.base, row.head) for row in worse} == {
        ("lost", arm, 0, 2) for arm in ("sse", "ws")
    }
    assert all(row.again == "regression" for row in worse)
    assert any("plant.drop_every" in reason for reason in gate.reasons), "named for what it is"
    assert len(gate.runs) == 2
    assert (folder / "report.html").exists()
    assert gate.base.versions["aiohttp"]


def test_a_head_that_does_not_start_fails(
    request_: gating.Request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "servers"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "__main__.py").write_text("raise SystemExit('the import that is missing')")
    with_head(monkeypatch)
    for head, decision in (("head", "regression"), ("base", "invalid")):
        top = Path(__file__).parents[2]
        trees = {"base": top, "head": top} | {head: broken.parent}
        built = [Built(Side(name, name), tree, Path(sys.executable)) for name, tree in trees.items()]

        class Both:
            pair = tuple(built)

            def __init__(self, *_: Any) -> None: ...

            def __enter__(self) -> Any:
                return self.pair

            def __exit__(self, *_: Any) -> None: ...

        monkeypatch.setattr(sides, "trees", Both)
        gate, _ = gating.run(request_, lambda _: None)
        assert gate.decision == decision
        assert "the import that is missing" in gate.reasons[0]
        assert gate.rows == []


def test_nothing_that_is_measured_differs(request_: gating.Request, monkeypatch: pytest.MonkeyPatch) -> None:
    with_head(monkeypatch)
    monkeypatch.setattr(sides, "same_program", lambda *_: True)
    monkeypatch.setattr(experiment, "run", lambda *_, **__: pytest.fail("nothing is to be run"))
    gate, _ = gating.run(request_, lambda _: None)
    assert (gate.decision, gate.exit_code, gate.rows) == ("pass", 0, [])
    assert msgspec.json.decode(msgspec.json.encode(gate), type=Gate) == gate


@pytest.mark.parametrize(("counted", "code"), [("report", 4), ("pass", 0), ("fail", 1)])
def test_what_cannot_be_told_is_counted_as_asked(
    request_: gating.Request, monkeypatch: pytest.MonkeyPatch, counted: str, code: int
) -> None:
    with_head(monkeypatch)
    row = msgspec.structs.replace(rows()[0], finding="inconclusive")
    monkeypatch.setattr(gating, "_measure", lambda *_: (*decide([row]), [row], {}))
    gate, _ = gating.run(dataclasses.replace(request_, inconclusive=counted), lambda _: None)
    assert (gate.decision, gate.exit_code) == ("inconclusive", code)
    assert math.isfinite(gate.seconds)
