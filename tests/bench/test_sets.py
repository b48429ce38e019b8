"""A scenario over several networks: a run each, an overview of them, and every way that it can stop in between."""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pyarrow.parquet as pq
import pytest
import synthetic
from rich.console import Console
from scipy.stats import linregress, t
from synthetic import Synthetic, write_run
from typer.testing import CliRunner

from bench import experiment, floor, netset_run
from bench.cli import app
from bench.metrics import Summary, Unfinished, summarize
from bench.netset import NetSet, read_set, state_of, worst, write_set
from bench.record import RecordError, read_run
from bench.report import overview
from bench.report.charts import distance, drawn
from bench.report.overview import data, words
from bench.report.overview.slope import fitted
from bench.report.overview.terminal import print_overview
from bench.scenario import Scenario
from bench.scenario_toml import ScenarioError, load
from bench.trial import TrialError
from bench.verdict import conclude_run

ROUND_TRIP_MS = {"loopback": 0.0, "wifi": 9.0, "4g": 60.0, "transpacific": 162.0}
"""Of shipped networks, with the mean of their jitter."""
SCENARIO = """
title = "Near and a little farther"
[arms.sse-aiohttp]
protocol = "sse"
stack = "aiohttp"
[arms.ws-aiohttp]
protocol = "websocket"
stack = "aiohttp"
[primary.first-token]
phase = "cold"
measure = "ttft_excess"
statistic = "p50"
smallest_effect = 5
[networks.near]
rtt_ms = 4
[experiment]
blocks = 1
roofline = false
networks = ["loopback", "near"]
network_by = "proxy"
[phases.cold]
load = "closed"
users = 2
turns = 2
connections = "cold"
profile = "p"
[profiles.p]
first = { dist = "constant", ms = 1 }
gap = { dist = "constant", ms = 1 }
length = { dist = "fixed", tokens = 2 }
"""


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    path = tmp_path / "near.toml"
    path.write_text(SCENARIO)
    return path


def write_synthetic_set(folder: Path, kinds: dict[str, str | None], file: Path, blocks: int = 8) -> Path:
    """A set of made-up runs over the networks in `kinds`, in each of which a WebSocket upgrades in one round trip.

    Where the kind is None there is no run.
    """
    scenario = load(str(file), [f"experiment.networks={json.dumps(list(kinds))}", f"experiment.blocks={blocks}"])
    folder.mkdir(parents=True)
    for name, kind in kinds.items():
        if kind is not None:
            _write_over(folder / name, name, kind, blocks)
    kept = NetSet(
        tokenwire="0.1.0", set=folder.name, created="2026-11-22T14:40:00+00:00", state="finished", source=str(file),
        overrides=["experiment.blocks=8"], networks=list(kinds), scenario=scenario,
        machine={"cpu": "Example CPU 3.0 GHz", "cores": 2},
    )  # fmt: skip
    write_set(folder, kept)
    return folder


def _write_over(folder: Path, name: str, kind: str, blocks: int) -> None:
    what = Synthetic(
        blocks=blocks, streams=6, tokens=4, noise=True, phases=("cold",), arms=("sse-aiohttp", "ws-aiohttp"),
        primary=("first-token",),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "UPGRADE_MS", ROUND_TRIP_MS[name] + 0.2)
        patch.setattr(synthetic, "PRIMARY", {"first-token": synthetic.PRIMARY["first-token"] | {"smallest_effect": 5}})
        patch.setattr(synthetic, "CONTRASTS", {"ws-aiohttp-against-sse-aiohttp": synthetic.CONTRASTS["protocol"]})
        write_run(folder, what)
    for file in (folder / "trials").iterdir():
        table = pq.read_table(file)
        kept = json.loads(table.schema.metadata[b"tokenwire"])
        kept["trial"]["network"] = {"name": name, "kind": kind}
        pq.write_table(table.replace_schema_metadata({"tokenwire": json.dumps(kept)}), file)


def shown(found: data.Overview) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_overview(found, console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


SUMMED: dict[tuple[str, int], Summary] = {}
KINDS: dict[str, str | None] = dict(zip(ROUND_TRIP_MS, ("none", "packets", "modelled", "packets"), strict=True))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of runs are not written, and runs with the same trials summed up once: both take seconds."""

    def summed_up(folder: Path) -> tuple[Summary, dict[str, Path]]:
        run = read_run(folder)
        key = folder.name, len(run.trials)
        if key not in SUMMED:
            SUMMED[key] = summarize(run)
            SUMMED[key].conclusions = conclude_run(SUMMED[key], run.info["scenario"])
        summary = copy.copy(SUMMED[key])
        summary.state = run.info["state"]
        return summary, {}

    monkeypatch.setattr(data, "build", summed_up)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set over four networks, one of them modelled."""
    folder = tmp_path_factory.mktemp("set")
    file = folder / "near.toml"
    file.write_text(SCENARIO)
    return write_synthetic_set(folder / "near-1", KINDS, file)


def edit_run(folder: Path, **changes: Any) -> None:
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | changes))


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / folder.name))


@pytest.mark.usefixtures("quick")
def test_an_overview_tells_every_verdict_and_that_distance_costs_a_round_trip(four: Path) -> None:
    found, written = overview.build(four)
    (effect,) = found.effects
    assert [p.network for p in effect.points] == list(ROUND_TRIP_MS)
    assert words.verdicts(effect) == "equivalent over loopback; slower over wifi, 4g and transpacific"
    assert effect.slope is not None
    assert effect.slope.per_ms == pytest.approx(1, abs=0.02)
    assert "adds 1.00 ms to this difference" in words.growth(effect.slope)
    assert words.growth(effect.slope).endswith("one more round trip.")
    page, markdown, lines = written["html"].read_text(), written["markdown"].read_text(), shown(found)
    for text in (page, markdown, " ".join(lines.split())):
        assert "4g is modelled" in text
        assert "one more round trip" in text
        assert "equivalent" in text
    for name in ROUND_TRIP_MS:
        assert f'href="{name}/report.html"' in page
    assert all(len(line.rstrip()) <= 80 for line in lines.splitlines())
    assert [leg.kind for leg in found.networks] == list(KINDS.values())
    assert set(written) == {"json", "markdown", "html"} | {
        f"charts/distance-ws-aiohttp-against-sse-aiohttp-first-token.{kind}" for kind in ("svg", "png")
    }
    assert all(path.stat().st_size for path in written.values())
    schema = json.loads(resources.files("bench.report").joinpath("overview.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(written["json"].read_bytes()), schema, jsonschema.Draft202012Validator)


@pytest.mark.usefixtures("quick")
def test_what_is_not_modelled_raises_no_alarm(four: Path, tmp_path: Path) -> None:
    folder = copy_of(four, tmp_path)
    shutil.rmtree(folder / "4g")
    found, written = overview.build(folder)
    assert words.alarm(found) is None
    assert "MODELLED" not in shown(found)
    assert 'class="alarm"' not in written["html"].read_text()
    assert found.state == "interrupted"
    assert [leg.state for leg in found.networks] == ["finished", "finished", "not run", "finished"]
    assert "4g: not run." in shown(found)


@pytest.mark.usefixtures("quick")
def test_invalid_and_failed_networks_say_so_and_are_in_no_slope(four: Path, tmp_path: Path) -> None:
    folder = copy_of(four, tmp_path)
    edit_run(folder / "wifi", state="invalid")
    edit_run(folder / "4g", state="failed")
    kept = read_set(folder)
    kept.failures = {"4g": "the driver fell asleep", "wifi": "long ago"}
    write_set(folder, kept)
    found = data.gather(folder)
    (effect,) = found.effects
    assert found.state == "failed"
    assert words.verdicts(effect).startswith("equivalent over loopback; invalid over wifi; slower over 4g")
    assert effect.slope is not None
    assert effect.slope.networks == 3
    (chart,) = distance.make(found)
    assert "wifi, 9 ms: +8.9 ms" in chart.alt
    assert ", invalid." in chart.alt
    assert drawn(chart).inline.startswith("<svg")
    said = " ".join(shown(found).split())
    assert "wifi: invalid: too many blocks were void" in said
    assert "4g: failed after 8 blocks: the driver fell asleep." in said
    assert "long ago" not in said


@pytest.mark.usefixtures("quick")
def test_few_blocks_give_no_verdict_and_no_report_gives_one_line(scenario_file: Path, tmp_path: Path) -> None:
    kinds: dict[str, str | None] = {"loopback": "none", "wifi": "packets", "4g": "packets"}
    folder = write_synthetic_set(tmp_path / "set", kinds, scenario_file, blocks=2)
    found = data.gather(folder)
    assert "Under 8 blocks no verdict is given: there are fewer over loopback, wifi and 4g." in " ".join(
        shown(found).split()
    )
    assert found.effects[0].slope is None
    assert drawn(distance.make(found)[0]).inline.startswith("<svg")
    for name in ("loopback", "4g"):
        shutil.rmtree(folder / name)
    shutil.rmtree(folder / "wifi" / "trials")
    with pytest.raises(Unfinished, match="no trial has finished on any network"):
        data.gather(folder)


def test_the_shipped_schema_is_that_of_the_types_and_describes_every_field() -> None:
    shipped = json.loads(resources.files("bench.report").joinpath("overview.schema.json").read_text("utf-8"))
    assert shipped == data.schema(), "print it anew: python -m bench.report.overview.data"
    jsonschema.Draft202012Validator.check_schema(shipped)
    for kind, definition in shipped["$defs"].items():
        assert definition["description"], kind
        if kind != "Network":  # a scenario's own, whose units are in its names
            assert all(field.get("description") for field in definition["properties"].values()), kind


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0, 0.1), (10, 20.0), (50, 100.2), (100, 200.1)], "adds 2.00 ms to this difference"),
        ([(0, 0.1), (10, 20.0), (50, 100.2), (100, 200.1)], "): two more round trips."),
        ([(0, 0.1), (10, -9.9), (50, -50.2), (100, -100.1)], "takes 1.00 ms off this difference"),
        ([(0, 0.1), (10, -9.9), (50, -50.2), (100, -100.1)], "): one fewer round trip."),
        ([(0, 0.1), (10, 5.0), (50, 25.2), (100, 50.1)], "; 4 networks)."),
        ([(0, 0.1), (10, 0.2), (50, -0.1), (100, 0.1)], "no further round trip"),
    ],
)
def test_growth_is_put_in_round_trips_where_the_interval_allows(points: list[tuple[float, float]], said: str) -> None:
    assert said in words.growth(fitted(points))


@pytest.mark.parametrize(
    "points",
    [
        [(0.0, 0.0), (50.0, 50.0)],
        [(0.0, 0.0), (50.0, 50.0), (50.0, 51.0)],
        [(0.0, 0.0), (50.0, 90.0), (100.0, 40.0)],
    ],
    ids=["two networks", "two round-trip times", "no line"],
)
def test_nothing_is_said_of_growth_without_support(points: list[tuple[float, float]]) -> None:
    assert words.growth(fitted(points)) == ""


def test_a_line_and_its_interval_are_those_of_the_textbook() -> None:
    points = [(0.0, 1.0), (10.0, 12.5), (50.0, 49.0), (160.0, 163.0)]
    line = linregress(*zip(*points, strict=True))
    half = t.ppf(0.975, 2) * line.stderr
    found = fitted(points)
    assert found is not None
    assert (found.per_ms, found.at_zero) == pytest.approx((line.slope, line.intercept))
    assert (found.low, found.high) == pytest.approx((line.slope - half, line.slope + half))


@pytest.mark.usefixtures("quick")
def test_names_above_a_chart_touch_none_in_their_row(four: Path) -> None:
    (effect,) = data.gather(four).effects
    point = effect.points[0]
    crowd = [msgspec.structs.replace(point, network="transpacific", round_trip_ms=ms) for ms in (0, 0.5, 150, 155, 160)]
    rows = distance._rows(crowd)
    assert len(set(rows[2:])) == 3
    assert rows[0] != rows[1]
    assert rows[0] == 0


# --- running ---


class Fake:
    """Stands in for `experiment`: runs that end as told, at once."""

    RESUMABLE = experiment.RESUMABLE
    new_folder = staticmethod(experiment.new_folder)

    def __init__(self, **ends: str) -> None:
        self.ends = ends
        self.ran: list[str] = []
        self.asked: dict[str, tuple[Scenario, list[str], Any]] = {}

    def run(
        self, scenario: Scenario, _named: str, overrides: Any, folder: Path, watcher: Any, *, floors: Any = None
    ) -> str:
        self.asked[folder.name] = (scenario, list(overrides), floors)
        return self._end(folder, watcher)

    def resume(self, folder: Path, watched: Any) -> str:
        with watched(load("duel")) as watcher:
            return self._end(folder, watcher)

    def _end(self, folder: Path, watcher: Any) -> str:
        self.ran.append(folder.name)
        end = self.ends.get(folder.name, "finished")
        if end == "stopped between":
            raise KeyboardInterrupt
        state = "finished" if end == "stopped at its end" else end
        (folder / "run.json").write_text(json.dumps({"state": state}))
        if end == "stopped at its end":
            watcher.stopping()
        if end == "failed":
            raise TrialError("the driver fell asleep")
        return state


class Nobody:
    def begins(self, *_: Any) -> None: ...
    def heard(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...
    def stopping(self) -> None: ...


@contextmanager
def watched(_scenario: Scenario) -> Iterator[Nobody]:
    yield Nobody()


def started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...] = (), **ends: str
) -> tuple[str, Path, Fake]:
    fake = Fake(**ends)
    monkeypatch.setattr(netset_run, "experiment", fake)
    overrides = ['experiment.networks=["loopback", "wifi", "4g"]', *settings]
    scenario = load("duel", overrides)
    folder = netset_run.new_folder(tmp_path, scenario)
    state = netset_run.run(scenario, "duel", overrides, folder, watched, floors={"wifi": {"cpu": 0.01}})
    assert read_set(folder).state == state
    return state, folder, fake


def test_networks_run_in_order_each_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, folder, fake = started(tmp_path, monkeypatch, ("experiment.budget_s=600", "phases.chat.users=7"))
    assert state == "finished"
    assert fake.ran == ["loopback", "wifi", "4g"]
    assert sorted(p.name for p in folder.iterdir()) == ["4g", "loopback", "scenario.toml", "set.json", "wifi"]
    scenario, overrides, floors = fake.asked["wifi"]
    assert scenario.experiment.networks == ["wifi"]
    assert scenario.experiment.budget_s == 200, "a budget is shared evenly"
    assert load("duel", overrides) == scenario, "a run's report names the command that runs it alone"
    assert sum("networks" in text for text in overrides) == 1
    assert floors == {"cpu": 0.01}


@pytest.mark.parametrize(
    ("ends", "state", "ran"),
    [
        ({"wifi": "failed"}, "failed", 3),
        ({"wifi": "invalid"}, "invalid", 3),
        ({"wifi": "invalid", "4g": "failed"}, "failed", 3),
        ({"wifi": "interrupted"}, "interrupted", 2),
        ({"loopback": "failed", "wifi": "interrupted"}, "interrupted", 2),
        ({"wifi": "stopped at its end"}, "interrupted", 2),
        ({"wifi": "stopped between"}, "interrupted", 2),
        ({"4g": "stopped at its end"}, "finished", 3),
    ],
)
def test_a_failure_keeps_the_others_and_a_stop_ends_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: dict[str, str], state: str, ran: int
) -> None:
    ended, folder, fake = started(tmp_path, monkeypatch, (), **ends)
    assert (ended, len(fake.ran)) == (state, ran)
    failed = [name for name, end in ends.items() if end == "failed"]
    assert read_set(folder).failures == dict.fromkeys(failed, "the driver fell asleep")


def test_a_set_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder, fake = started(tmp_path, monkeypatch, (), loopback="failed", wifi="interrupted")
    fake.ends, fake.ran = {}, []
    assert netset_run.resume(folder, watched) == "finished"
    assert fake.ran == ["loopback", "wifi", "4g"]
    assert fake.asked["4g"][0].experiment.networks == ["4g"]
    assert read_set(folder).failures == {}
    with pytest.raises(RecordError, match="the set is finished; there is no network to go on with"):
        netset_run.resume(folder, watched)


def test_a_set_does_not_go_on_with_another_scenario_machine_or_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, _ = started(tmp_path, monkeypatch, (), wifi="interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netset_run.machine, "describe", lambda: {"cpu": "another"})
        with pytest.raises(RecordError, match="another machine began this set"):
            netset_run.resume(folder, watched)
    (folder / "scenario.toml").write_text("title = 'Another'")
    with pytest.raises(RecordError, match=r"^duel: not what it was when this set began"):
        netset_run.resume(folder, watched)


def test_a_set_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for content, message in (
        ("{", "not JSON"), ("[]", "Expected `object`"), ('{"format": 2}', "format 2; this version"),
        ('{"format": 1}', "missing required field"),
    ):  # fmt: skip
        (tmp_path / "set.json").write_text(content)
        with pytest.raises(RecordError, match=re.escape(message)):
            read_set(tmp_path)


def test_what_a_set_comes_to_is_the_worst_of_its_runs() -> None:
    assert worst(["finished", "invalid", "failed", "interrupted"]) == "interrupted"
    assert worst(["finished", "invalid", "failed"]) == "failed"
    assert worst(["finished", "invalid"]) == "invalid"
    assert worst(["finished", "not run"]) == "interrupted"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("interrupted", 130, "to go on: tokenwire run --resume"),
        ("failed", 1, "failed over wifi. To go on: tokenwire run --resume"),
        ("invalid", 3, "too many blocks were void over wifi, so there is no verdict"),
    ],
)
def test_the_exit_code_is_that_of_the_worst(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, code: int, said: str
) -> None:
    folder = copy_of(four, tmp_path)
    edit_run(folder / "wifi", state=state)
    monkeypatch.setattr(netset_run, "resume", lambda *_: state)
    done = CliRunner().invoke(app, ["run", "--resume", str(folder)])
    assert done.exit_code == code
    assert said in done.output


# --- before anything runs ---


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netset_run, "permitted", lambda: "Operation not permitted")


def test_packets_that_are_not_permitted_are_refused_before_anything_runs(
    tmp_path: Path, scenario_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    command = ["run", str(scenario_file), "--set", "experiment.network_by=packets", "--results", str(tmp_path / "r")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "network_by = 'packets': not permitted here: Operation not permitted; run as root" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_auto_warns_in_a_line_where_packets_are_not_permitted(
    scenario_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    scenario = load(str(scenario_file), ["experiment.network_by=auto"])
    assert netset_run.check_permitted(scenario, "x").startswith("near: modelled by a proxy on streams, as delaying")
    assert netset_run.check_permitted(load("duel"), "duel") == ""
    monkeypatch.setattr(netset_run, "permitted", lambda: "")
    assert netset_run.check_permitted(scenario, "x") == ""


def test_an_arm_against_itself_takes_one_network(tmp_path: Path, scenario_file: Path) -> None:
    done = CliRunner().invoke(app, ["aa", str(scenario_file), "--results", str(tmp_path / "r")])
    assert done.exit_code == 2
    assert "over one network at a time; name one: --set 'experiment.networks=[\"near\"]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "change",
    ['experiment.networks=["wifi"]', "experiment.network_by=proxy", "experiment.tls=true"],
)
def test_noise_is_of_one_network(change: str) -> None:
    assert floor.work_of(load("duel", [change])) != floor.work_of(load("duel"))


def test_noise_of_a_model_is_not_that_of_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load("duel", ['experiment.networks=["wifi"]'])
    monkeypatch.setattr(floor, "permitted", lambda: "")
    packets = floor.work_of(scenario)
    monkeypatch.setattr(floor, "permitted", lambda: "Operation not permitted")
    assert floor.work_of(scenario) != packets
    with pytest.raises(ScenarioError, match="one network at a time"):
        floor.against_itself(load("duel", ['experiment.networks=["wifi", "4g"]']), None, "duel")


# --- for real ---


def test_a_set_of_two_networks_runs_and_is_reported_again(
    tmp_path: Path, scenario_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line, with real servers; not judged, as a test may share its machine."""
    monkeypatch.setattr(experiment, "breaches", lambda *_: [])
    monkeypatch.setattr("bench.report.write.charts_of", lambda _: [])
    done = CliRunner().invoke(app, ["run", str(scenario_file), "--results", str(tmp_path / "r")])
    assert done.exit_code == 0, done.stderr
    (folder,) = (tmp_path / "r").iterdir()
    assert [state_of(folder, name) for name in ("loopback", "near")] == ["finished", "finished"]
    found = json.loads((folder / "summary.json").read_bytes())
    assert [leg["kind"] for leg in found["networks"]] == ["modelled", "modelled"]
    assert [(p["network"], p["round_trip_ms"]) for p in found["effects"][0]["points"]] == [("loopback", 0), ("near", 4)]
    values = json.loads((folder / "near" / "summary.json").read_bytes())["values"]
    (upgrade,) = (v["median"] for v in values if v["measure"] == "upgrade")
    assert upgrade >= 4, "it takes a round trip, and nothing passes a network faster than that"
    assert "loopback and near are modelled" in " ".join(done.stdout.split())
    assert "near over near, 4 ms round trip" in done.stderr
    for name in ("loopback", "near"):
        assert (folder / name / "report.html").is_file()
    before = (folder / "summary.json").read_bytes()
    (folder / "report.html").unlink()
    again = CliRunner().invoke(app, ["report", str(folder)])
    assert again.exit_code == 0
    assert (folder / "report.html").is_file()
    assert (folder / "summary.json").read_bytes() == before
    over = CliRunner().invoke(app, ["run", "--resume", str(folder)])
    assert over.exit_code == 2
    assert "the set is finished" in over.stderr
