"""Runs over time: what is kept of them, which of them a line may join, and where a level is said to have changed."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gates
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from stored_runs import BASE, MACHINE, OTHER, VERSIONS, figures, write_stored

from bench.history import History, history
from bench.history.changes import ALPHA, FEWEST, FEWEST_BESIDE, changes
from bench.history.series import Group, groups, told
from bench.history.show import print_history
from bench.history.store import FILE, SCHEMA, gather
from bench.record import RecordError


def commit_of(n: int) -> str:
    return hashlib.sha1(str(n).encode()).hexdigest()


def add(root: Path, n: int, settings: Sequence[str] = (), *, cpu: float = 1.0, **info: Any) -> Path:
    """The n-th run of a project, three a day, each of a commit of its own."""
    kept = {
        "created": f"2026-11-{1 + n // 3:02d}T{10 + 3 * (n % 3)}:00:00+00:00",
        "revision": {"commit": commit_of(n), "changed": False},
    }
    return write_stored(root / f"duel-{n:03d}", figures(n, cpu=cpu), settings, info=kept | info)


def grouped(root: Path, output: Path) -> list[Group]:
    return groups(gather([root], output).table)


def printed(found: History) -> str:
    out = io.StringIO()
    print_history(found, Console(file=out, width=200))
    return " ".join(out.getvalue().split())


# --- change points ---


@pytest.mark.parametrize(("n", "at"), [(12, 6), (20, 4), (20, 10), (20, 17), (40, 20), (40, 37)])
def test_a_step_of_five_sigma_is_found_where_it_is(n: int, at: int) -> None:
    """At the very run, or one beside it where chance moved that one over."""
    rng = np.random.default_rng(n + at)
    found = [changes(rng.normal(size=n) + 5.0 * (np.arange(n) >= at)) for _ in range(20)]
    places = [[change.at for change in own or ()] for own in found]
    assert sum(own == [at] for own in places) >= 18
    assert all(any(abs(place - at) <= 1 for place in own) for own in places)
    for own in found:
        assert own
        assert all(change.p <= ALPHA for change in own)


def test_levels_are_medians_of_what_lies_between_changes() -> None:
    series = [*[10.0, 11.0, 12.0] * 5, *[20.0, 21.0, 22.0] * 5, *[5.0, 6.0, 7.0] * 5]
    found = changes(series)
    assert found is not None
    assert [(c.at, c.before, c.after) for c in found] == [(15, 11.0, 21.0), (30, 21.0, 6.0)]


def test_parts_are_searched_to_the_last() -> None:
    stairs = [level + wobble for level in (0, 1000, 1300, 1400) for wobble in [0, 1, 2] * 5]
    assert [change.at for change in changes(stairs) or ()] == [15, 30, 45]


@pytest.mark.parametrize(
    ("draw", "n"),
    [("standard_normal", FEWEST), ("standard_normal", 20), ("standard_exponential", 16), ("standard_cauchy", 16)],
)
def test_noise_has_change_points_no_more_often_than_is_stated(draw: str, n: int) -> None:
    """Stated per series: the chance of any change point in one whose figures could have come in any order."""
    rng = np.random.default_rng(17)
    series, wrong = 200, 0
    for _ in range(series):
        wrong += bool(changes(getattr(rng, draw)(n)))
    # 2 are expected at most; 8 or more are rarer than 1 in 900.
    assert wrong <= 7


def test_too_few_points_are_not_looked_at() -> None:
    step = [0.0] * (FEWEST // 2) + [100.0] * (FEWEST // 2)
    assert changes(step[1:]) is None
    assert [change.at for change in changes(step) or ()] == [FEWEST // 2]


def test_what_never_moves_has_no_change() -> None:
    assert changes([3.0] * 30) == []


def test_one_wild_run_is_no_level() -> None:
    rng = np.random.default_rng(2)
    series = rng.normal(size=30)
    for place in (0, 12, 29):
        wild = series.copy()
        wild[place] = 1000
        found = changes(wild)
        assert found == []
    assert FEWEST_BESIDE > 1


def test_the_same_series_has_the_same_answer() -> None:
    series = np.random.default_rng(4).normal(size=25) + 2 * (np.arange(25) > 12)
    assert changes(series) == changes(series)


# --- what is kept ---


def test_a_row_says_what_how_where_and_when(tmp_path: Path) -> None:
    add(tmp_path / "runs", 4, revision={"commit": commit_of(4), "changed": True})
    table = gather([tmp_path / "runs"], tmp_path / "out").table
    (row,) = (r for r in table.to_pylist() if (r["arm"], r["measure"]) == (BASE, "cpu_server"))
    own = figures(4)[BASE, "cpu_server"]
    assert (row["value"], row["lowest"], row["highest"]) == (float(np.median(own)), min(own), max(own))
    assert (row["trials"], row["unit"], row["statistic"], row["phase"]) == (8, "µs", "value", "firehose")
    assert (row["run"], row["created"]) == ("duel-004", "2026-11-02T13:00:00+00:00")
    assert (row["commit"], row["changed"], row["tokenwire"]) == (commit_of(4), True, "0.1.0")
    assert (row["scenario"], row["mode"], row["network"], row["primary"]) == ("duel", "equal", "loopback", "cpu")
    assert json.loads(row["machine"])["cpu"] == MACHINE["cpu"]
    assert json.loads(row["software"])["aiohttp"] == VERSIONS["aiohttp"]


def test_a_second_time_adds_what_is_new_and_nothing_twice(tmp_path: Path) -> None:
    runs, output = tmp_path / "runs", tmp_path / "out"
    add(runs, 0)
    add(runs, 1)
    first = gather([runs], output)
    assert (first.runs, first.added, first.known) == (2, 2, 0)
    before = (output / FILE).read_bytes()
    again = gather([runs, runs / "duel-000"], output)
    assert (again.runs, again.added, again.known) == (2, 0, 2)
    assert (output / FILE).read_bytes() == before
    add(runs, 2)
    shutil.rmtree(runs / "duel-000")
    third = gather([runs], output)
    assert (third.runs, third.added, third.known) == (3, 1, 1)
    kept = pq.read_table(output / FILE)
    assert kept.slice(0, first.table.num_rows).equals(first.table), "rows of a run that is gone stay as they were"
    assert sorted(set(kept["run"].to_pylist())) == ["duel-000", "duel-001", "duel-002"]


def test_runs_of_one_name_and_second_on_two_machines_are_two(tmp_path: Path) -> None:
    add(tmp_path / "a", 0)
    add(tmp_path / "b", 0, machine=MACHINE | {"cores": 64})
    assert gather([tmp_path / "a", tmp_path / "b"], tmp_path / "out").runs == 2


def _garbage(file: Path) -> None:
    file.write_bytes(b"PAR1 no")


def _another_format(file: Path) -> None:
    pq.write_table(SCHEMA.with_metadata({"tokenwire": '{"format": 9, "what": "history"}'}).empty_table(), file)


def _another_table(file: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), file)


@pytest.mark.parametrize("break_it", [_garbage, _another_format, _another_table])
def test_a_history_that_cannot_be_added_to_is_left_as_it_is(tmp_path: Path, break_it: Any) -> None:
    output = tmp_path / "out"
    output.mkdir()
    break_it(output / FILE)
    before = (output / FILE).read_bytes()
    add(tmp_path / "runs", 0)
    with pytest.raises(RecordError, match=re.escape(str(output / FILE))) as caught:
        gather([tmp_path / "runs"], output)
    assert "\n" not in str(caught.value)
    assert (output / FILE).read_bytes() == before


def test_a_write_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, output = tmp_path / "runs", tmp_path / "out"
    add(runs, 0)
    gather([runs], output)
    before = (output / FILE).read_bytes()
    add(runs, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        gather([runs], output)
    assert (output / FILE).read_bytes() == before
    assert sorted(p.name for p in output.iterdir()) == [".lock", FILE]


def test_runs_that_do_not_count_are_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    add(runs, 0)
    add(runs, 1, state="invalid")
    add(runs, 2, state="interrupted")
    add(runs, 3, command=["gate", "--base", "main"])
    (add(runs, 4) / "summary.json").write_text("{")
    found = gather([runs], tmp_path / "out")
    assert found.runs == 1
    said = "\n".join(found.left_out)
    assert len(found.left_out) == len(said.splitlines()) == 4
    for part in ("duel-001: the run is invalid", "duel-002: the run is interrupted", "duel-003: a run of a gate"):
        assert part in said
    assert "duel-004/summary.json: not JSON" in said


def test_runs_are_found_in_folders_and_in_sets(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    add(runs, 0)
    inside = runs / "duel-set"
    add(inside, 1)
    add(inside, 2)
    (inside / "set.json").write_text("{}")
    (inside / "summary.json").write_text('{"of": "a set"}')
    assert gather([runs], tmp_path / "out").runs == 3
    assert gather([inside], tmp_path / "other").runs == 2


@pytest.mark.parametrize("name", ["empty", "not there"])
def test_a_folder_without_runs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=name) as caught:
        gather([tmp_path / name], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_of_a_gate_the_head_is_kept(tmp_path: Path) -> None:
    rows = [
        gates.timing(), gates.timing(name="cpu/ws-aiohttp", arm="ws-aiohttp", head=50.0), gates.exact(), gates.micro(),
        gates.latency(head=None, decides=False),
    ]  # fmt: skip
    gate = gates.passing(rows=rows)
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "gate.json").write_bytes(msgspec.json.encode(gate))
    found = gather([tmp_path / "gate"], tmp_path / "out")
    kept = {row["title"] + row["arm"]: row for row in found.table.to_pylist()}
    assert len(kept) == 4, "what head has no figure of has no row"
    cpu = kept["Server CPU per tokenws-aiohttp"]
    assert (cpu["source"], cpu["value"], cpu["commit"], cpu["primary"]) == ("gate", 50.0, gates.HEAD_COMMIT, "cpu")
    assert {row["primary"] for row in kept.values()} == {"cpu", ""}, "counts and advice are kept, and not drawn"
    (group,) = groups(found.table)
    (panel,) = group.panels
    assert [series.arm for series in panel.series] == ["sse-aiohttp", "ws-aiohttp"]


# --- what a line joins ---


def test_machines_are_never_joined(tmp_path: Path) -> None:
    for n in range(14):
        add(tmp_path / "runs", n, machine=MACHINE | ({"cores": 64} if n % 2 else {}))
    found = grouped(tmp_path / "runs", tmp_path / "out")
    assert [len(group.runs) for group in found] == [7, 7]
    assert {group.machine["cores"] for group in found} == {2, 64}
    names = {p.run for group in found for s in group.panels[0].series[:1] for p in s.points}
    assert len(names) == 14
    for group in found:
        parity = {int(p.run[-3:]) % 2 for panel in group.panels for s in panel.series for p in s.points}
        assert len(parity) == 1


def test_a_new_kernel_or_library_does_not_break_a_line(tmp_path: Path) -> None:
    """Whether it moved a level is what a history is asked."""
    for n in range(4):
        add(tmp_path / "runs", n, machine=MACHINE | {"kernel": f"6.{n}", "memory_bytes": (8 << 30) - n})
    (group,) = grouped(tmp_path / "runs", tmp_path / "out")
    assert [len(series.points) for panel in group.panels for series in panel.series] == [4] * 4


def test_other_work_begins_a_line_of_its_own(tmp_path: Path) -> None:
    add(tmp_path / "runs", 0)
    add(tmp_path / "runs", 1, ["phases.chat.users=50"])
    add(tmp_path / "runs", 2, ['experiment.networks=["wifi"]'])
    add(tmp_path / "runs", 3, ["experiment.mode=as-deployed"])
    add(tmp_path / "runs", 4, ["experiment.blocks=20"])
    found = grouped(tmp_path / "runs", tmp_path / "out")
    assert sorted(len(group.runs) for group in found) == [1, 1, 1, 2]
    names = [group.name for group in found]
    assert {"duel over wifi", "duel, as-deployed"} < set(names)
    assert sum(name.startswith("duel, settings ") for name in names) == 2
    assert len(set(names)) == 4


def test_an_arm_that_is_set_otherwise_begins_a_line_of_its_own(tmp_path: Path) -> None:
    add(tmp_path / "runs", 0)
    add(tmp_path / "runs", 1, [f"arms.{OTHER}.compression=true"])
    (group,) = grouped(tmp_path / "runs", tmp_path / "out")
    lines = [(s.arm, [p.place for p in s.points]) for s in group.panels[0].series]
    assert lines == [(BASE, [0, 1]), (OTHER, [0]), (OTHER, [1])]


def test_runs_stand_in_the_order_they_were_measured_in(tmp_path: Path) -> None:
    for n in (5, 1, 3):
        add(tmp_path / "runs", n)
        gather([tmp_path / "runs"], tmp_path / "out")
    (group,) = grouped(tmp_path / "runs", tmp_path / "out")
    assert group.runs == [commit_of(n)[:7] for n in (1, 3, 5)]


# --- the page ---


def test_a_step_is_on_the_page_and_on_the_terminal(tmp_path: Path) -> None:
    for n in range(16):
        changed = {"versions": VERSIONS | {"aiohttp": "3.15.0"}} if n >= 10 else {}
        add(tmp_path / "runs", n, cpu=1.2 if n >= 10 else 1.0, **changed)
    add(tmp_path / "runs", 16, machine=MACHINE | {"cpu": "Other CPU"}, revision=None)
    found = history([tmp_path / "runs"], tmp_path / "out")
    assert [path.name for path in found.written] == ["history.parquet", "history.html"]
    points = list(told(found.groups))
    assert [(t.what, t.arm) for t in points] == [
        ("duel: Server CPU per token, firehose", BASE),
        ("duel: Server CPU per token, firehose", OTHER),
    ]
    between = f"{commit_of(9)[:7]} and {commit_of(10)[:7]}"
    assert {(t.between, t.also) for t in points} == {(between, "aiohttp 3.14.5 → 3.15.0")}
    assert all(18 < float(t.moved.strip("+ %")) < 22 for t in points)
    page = (tmp_path / "out" / "history.html").read_text("utf-8")
    assert page.count("<figure>") == 4, "two measures on two machines"
    assert between in page
    assert "too few runs to look for changes: 1, where it takes 12" in page
    assert "with a chance of at most 1 %" in " ".join(page.split())
    assert not re.search(r'(?:src|href)="(?!#)', page), "nothing is fetched"
    text = printed(found)
    assert f"{between} " in text
    assert "17 runs in the history: 17 added." in text
    assert "too few runs to look for changes: 1, where it takes 12" in text


def test_names_in_a_page_are_text(tmp_path: Path) -> None:
    add(tmp_path / "runs", 0, machine=MACHINE | {"cpu": "<script>alert(1)</script>"})
    history([tmp_path / "runs"], tmp_path / "out")
    page = (tmp_path / "out" / "history.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_runs_without_primary_measures_are_kept_and_not_drawn(tmp_path: Path) -> None:
    write_stored(tmp_path / "runs" / "a", figures(1), conclusions=None)
    found = history([tmp_path / "runs"], tmp_path / "out")
    assert found.runs == 1
    assert found.groups == []
    assert "nothing is drawn" in printed(found)
