"""Hot paths of two revisions: judged on made-up multiples, and measured on two tiny trees with known ones."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from scipy.stats import binomtest

from bench.gate import micro
from bench.gate.micro import Code, HotPath, MicroError, fewest_rounds, judge, run

PATHS = 13
NOISE = 0.03


def measured(rng: np.random.Generator, rounds: int = 10, effect: float = 0.0) -> HotPath:
    """Multiples with noise of 3 % a process, head's slower by `effect`, a share."""
    base, head = np.exp(rng.normal(0.4, NOISE, (2, rounds)))
    return HotPath("A path", base.tolist(), (head * (1 + effect)).tolist(), {})


def gate(seed: int, rounds: int = 10, **effects: float) -> dict[str, HotPath]:
    """Paths p0, p1, ... with these effects."""
    rng = np.random.default_rng(seed)
    return {name: measured(rng, rounds, effects.get(name, 0.0)) for name in (f"p{i}" for i in range(PATHS))}


def found(paths: dict[str, HotPath], smallest_effect: float = 0.1) -> dict[str, str]:
    return {row.measure: row.finding for row in judge(paths, smallest_effect, decides=True)}


# What the multiples amount to.


def test_without_any_difference_at_most_one_gate_in_twenty_finds_one_on_any_path() -> None:
    gates = 200
    # With next to no smallest effect, only the test stands between noise and a finding.
    wrong = sum(bool({"regression", "improvement"} & set(found(gate(seed), 1e-9).values())) for seed in range(gates))
    assert wrong > 0
    assert binomtest(wrong, gates, micro.ALPHA, alternative="greater").pvalue > 0.01


def test_a_path_that_is_slower_is_named_and_no_other() -> None:
    effects = {"p3": 0.2, "p7": -0.2}
    for seed in range(20):
        expected = {f"p{i}": "same" for i in range(PATHS)} | {"p3": "regression", "p7": "improvement"}
        assert found(gate(seed, 12, **effects)) == expected


def test_a_difference_smaller_than_the_smallest_effect_is_none() -> None:
    paths = gate(1, 40, p3=0.05)
    assert found(paths, 0.1)["p3"] == "same"
    assert found(paths, 0.02)["p3"] == "regression"


def test_a_row_says_how_much_slower_and_how_surely() -> None:
    base = [1.0, 1.1, 1.2, 1.0, 1.1, 1.2, 1.0, 1.1, 1.2]
    (row,) = judge({"pacing": HotPath("Pacing", base, [1.25 * x for x in base], {})}, 0.1, decides=True)
    assert (row.name, row.kind, row.measure, row.finding, row.decides) == (
        "micro/pacing",
        "micro",
        "pacing",
        "regression",
        True,
    )
    assert (row.base, row.head, row.scale, row.blocks) == (1.1, 1.375, "ratio", 9)
    assert [row.effect, row.low, row.high] == pytest.approx([0.25] * 3)
    assert row.sentence == "Pacing: +25.0 % (95 % interval +25.0 % to +25.0 %), worse, by more than 10 %."


def test_fewer_rounds_than_a_verdict_needs_are_inconclusive() -> None:
    assert set(found(gate(1, 7, p3=0.5)).values()) == {"inconclusive"}
    assert found(gate(1, 0)) == {f"p{i}": "told" for i in range(PATHS)}


def test_as_few_rounds_as_cannot_make_any_of_so_many_paths_a_regression_say_so() -> None:
    rows = {row.measure: row for row in judge(gate(1, 8, p3=0.5), 0.1, decides=True)}
    assert rows["p3"].finding == "inconclusive"
    assert rows["p3"].sentence.endswith("whether it is worse by 10 % cannot be told from 8 rounds: it takes 10.")
    assert rows["p4"].finding == "same"


@pytest.mark.parametrize(("paths", "rounds"), [(1, 8), (6, 8), (7, 9), (12, 9), (13, 10), (25, 10), (26, 11)])
def test_the_fewest_rounds_are_those_that_all_of_one_sign_are_significant_in(paths: int, rounds: int) -> None:
    assert fewest_rounds(paths) == rounds
    every = {f"p{i}": HotPath("A path", [1.0] * rounds, [1.5] * rounds, {}) for i in range(paths)}
    assert set(found(every).values()) == {"regression"}


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_path_that_one_side_lacks_is_told_and_decides_nothing(side: str) -> None:
    there = [1.0, 2.0, 3.0]
    base, head = ([], there) if side == "base" else (there, [])
    paths = {**gate(1), "new": HotPath("New", base, head, {side: "no such thing"})}
    row = next(row for row in judge(paths, 0.1, decides=True) if row.measure == "new")
    assert (row.finding, row.decides, row.effect) == ("told", False, None)
    assert (row.base, row.head) == ((None, 2.0) if side == "base" else (2.0, None))
    assert row.sentence == f"New: not compared ({side}: no such thing)."


# How they are measured.

BENCHMARKS = """
    from pathlib import Path

    import pytest

    @pytest.mark.parametrize("path", ["old", "new", "broken"])
    @pytest.mark.parametrize("again", range(2))
    def test_path(benchmark, record_property, path, again):
        record_property("path", path)
        record_property("title", f"The {path} one")
        try:
            import bench
            multiple = getattr(bench, path)
        except AttributeError as error:
            pytest.skip(f"lacking: {error}")
        assert multiple, "it is\\nof no use"
        record_property("code", bench.__file__)
        benchmark.pedantic(lambda: None)
        if again:
            record_property("multiple", multiple)
"""


def tree(folder: Path, code: str) -> Code:
    """A tree whose `bench` holds the multiples."""
    (folder / "bench").mkdir(parents=True)
    (folder / "bench" / "__init__.py").write_text(code)
    # Nothing of this has a part in it.
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--no-such-option"\n')
    (folder / "conftest.py").write_text("raise RuntimeError")
    return Code(Path(sys.executable), folder)


def benchmarks(folder: Path, text: str = BENCHMARKS) -> Path:
    file = folder / "test_paths.py"
    file.write_text(dedent(text))
    return file


def test_either_tree_is_measured_by_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "head"))
    base = tree(tmp_path / "base", "old, broken = 1.5, 1.0")
    head = tree(tmp_path / "head", "old, new, broken = 1.75, 3.0, 0")
    file = benchmarks(head.tree)
    told: list[str] = []
    paths = run(base, head, file, rounds=1, told=told.append)
    assert paths == {
        "old": HotPath("The old one", [1.5], [1.75], {}),
        "new": HotPath("The new one", [], [3.0], {"base": "lacking: module 'bench' has no attribute 'new'"}),
        "broken": HotPath("The broken one", [1.0], [], {"head": "AssertionError: it is"}),
    }
    assert told == ["hot paths, round 1 of 1"]
    left = {path.name for path in (*base.tree.iterdir(), *head.tree.iterdir())} - {"__pycache__"}
    assert left == {"bench", "pyproject.toml", "conftest.py", file.name}


def test_code_from_elsewhere_is_not_taken_for_a_side_s(tmp_path: Path) -> None:
    base = tree(tmp_path / "base", f"old = new = broken = 1.5\n__file__ = {str(tmp_path / 'installed.py')!r}")
    with pytest.raises(MicroError) as error:
        run(base, base, benchmarks(tmp_path), rounds=1)
    assert str(error.value) == f"base: {tmp_path / 'installed.py'} was measured, which is not in {base.tree}"


def test_a_process_that_fails_as_a_whole_is_one_line(tmp_path: Path) -> None:
    head = tree(tmp_path / "head", "")
    with pytest.raises(MicroError, match=r"^base: exit code 4: .*not found.*missing.py$"):
        run(head, head, tmp_path / "missing.py", rounds=1)
    with pytest.raises(MicroError) as error:
        run(head, head, benchmarks(tmp_path, "import no_such_thing"), rounds=1)
    assert str(error.value) == "base: exit code 2: ModuleNotFoundError: No module named 'no_such_thing'"
    nowhere = Code(tmp_path / "python", head.tree)
    with pytest.raises(MicroError, match=r"^base: .*/python: No such file or directory$"):
        run(nowhere, head, benchmarks(tmp_path), rounds=1)


class Fake:
    """Processes that take 4 s of a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.sides: list[str] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(micro, "_process", self.process)

    def process(self, _code: Code, _benchmarks: Path, side: str) -> dict[str, micro._Seen]:
        self.now += 4
        self.sides.append(side)
        return {"path": micro._Seen("A path", float(len(self.sides)), "")}


def test_sides_take_turns_in_being_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, code = Fake(monkeypatch), Code(Path(), Path())
    paths = run(code, code, Path(), rounds=3)
    assert fake.sides == ["base", "head", "head", "base", "base", "head"]
    assert paths == {"path": HotPath("A path", [1.0, 4.0, 5.0], [2.0, 3.0, 6.0], {})}


@pytest.mark.parametrize(("seconds", "rounds"), [(15.9, 1), (16, 2), (1000, 9)])
def test_no_round_begins_that_would_not_end_in_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, rounds: int
) -> None:
    fake, code = Fake(monkeypatch), Code(Path(), Path())
    run(code, code, Path(), rounds=9, seconds=seconds)
    assert len(fake.sides) == 2 * rounds


@pytest.mark.parametrize("end", ["time is up", "Ctrl-C"])
def test_no_process_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if self not in started:
                started.append(self)
                if end == "Ctrl-C":
                    raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    monkeypatch.setattr(micro, "TIMEOUT_S", 0.05)
    code = Code(python, tmp_path)
    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else MicroError):
        run(code, code, benchmarks(tmp_path), rounds=1)
    assert [process.returncode for process in started] == [-signal.SIGKILL]
