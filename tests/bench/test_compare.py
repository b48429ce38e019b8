"""Two stored runs beside each other: what is compared, what is not and why, and what the intervals promise."""

from __future__ import annotations

import io
import json
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from stored_runs import BASE, MACHINE, OTHER, VERSIONS, figures, write_stored

from bench.compare import Compared, Shift, compare
from bench.compare.shift import estimate, interval
from bench.compare.show import as_json, print_compared
from bench.floor import work_of
from bench.record import RecordError
from bench.scenario_toml import load
from bench.stored import lean, work


def told(compared: Compared, width: int = 100) -> str:
    """What is printed, without line breaks."""
    out = io.StringIO()
    print_compared(compared, Console(file=out, width=width))
    return " ".join(out.getvalue().split())


def shift(compared: Compared, arm: str, measure: str) -> Shift:
    return next(s for s in compared.shifts if (s.arm, s.measure) == (arm, measure))


# --- what is compared ---


def test_a_run_is_within_its_own_scatter(tmp_path: Path) -> None:
    run = write_stored(tmp_path / "a", figures(1))
    found = compare(run, run)
    assert found.facts == []
    assert found.full == [BASE, OTHER]
    assert {(s.estimate, s.beyond) for s in found.shifts} == {(0.0, False)}
    assert {c.finding for c in found.counters} == {"same"}
    assert found.ratios == []
    text = told(found)
    assert text.startswith("The two runs were not interleaved, so that a drift of the machine")
    assert "0 of 4" in text
    assert "What is not the same" not in text


def test_a_shift_is_found_with_its_size_and_nothing_else_is(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    second = write_stored(tmp_path / "b", figures(2, cpu=1.2))
    found = compare(first, second)
    for arm in (BASE, OTHER):
        cpu, token = shift(found, arm, "cpu_server"), shift(found, arm, "ttft_excess")
        assert cpu.beyond
        assert cpu.low is not None
        assert cpu.high is not None
        assert cpu.low < 0.2 < cpu.high, "a share"
        assert cpu.scale == "ratio"
        assert token.beyond is False
        assert token.scale == "difference"
    text = told(found)
    assert "2 of 4" in text
    assert not {"faster", "slower", "regression", "better", "worse"} & {word.strip(".,") for word in text.split()}


def test_a_constant_shift_is_told_exactly(tmp_path: Path) -> None:
    given = figures(1)
    moved = {key: [v + 0.5 for v in own] if key[1] == "ttft_excess" else own for key, own in given.items()}
    found = compare(write_stored(tmp_path / "a", given), write_stored(tmp_path / "b", moved))
    assert shift(found, BASE, "ttft_excess").estimate == pytest.approx(0.5)
    assert shift(found, BASE, "ttft_excess").beyond


def test_three_blocks_are_too_few_for_an_interval(tmp_path: Path) -> None:
    first, second = write_stored(tmp_path / "a", figures(1, 3)), write_stored(tmp_path / "b", figures(2, 3, cpu=2))
    found = compare(first, second)
    assert {(s.low, s.high, s.beyond) for s in found.shifts} == {(None, None, None)}
    assert "Too few blocks for intervals" in told(found)


def test_what_is_installed_is_named_and_compared(tmp_path: Path) -> None:
    """That may be just what is to be compared."""
    first = write_stored(tmp_path / "a", figures(1))
    info = {
        "tokenwire": "0.2.0", "versions": VERSIONS | {"aiohttp": "3.15.0"},
        "machine": MACHINE | {"kernel": "6.2.0", "python": "CPython 3.13.1", "memory_bytes": (8 << 30) - 4096},
    }  # fmt: skip
    found = compare(first, write_stored(tmp_path / "b", figures(2), info=info))
    assert found.full == [BASE, OTHER]
    assert [(f.kind, f.name, f.first, f.second) for f in found.facts] == [
        ("software", "versions.tokenwire", "0.1.0", "0.2.0"),
        ("software", "versions.kernel", "6.1.0", "6.2.0"),
        ("software", "versions.python", "CPython 3.11.9", "CPython 3.13.1"),
        ("software", "versions.aiohttp", "3.14.5", "3.15.0"),
    ]
    assert "versions.aiohttp: 3.14.5 → 3.15.0" in told(found)


def test_another_machine_leaves_counters_and_ratios(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    second = write_stored(tmp_path / "b", figures(2, cpu=0.5), info={"machine": MACHINE | {"cpu": "Other CPU"}})
    found = compare(first, second)
    assert (found.full, found.shifts) == ([], [])
    assert [(f.kind, f.name, f.first, f.second) for f in found.facts] == [
        ("machine", "machine.cpu", "Example CPU 3.0 GHz", "Other CPU")
    ]
    assert {c.measure for c in found.counters} == {"wire_bytes", "lost", "repeated", "reordered", "corrupted", "failed"}
    (ratio,) = found.ratios
    assert (ratio.measure, ratio.baseline, ratio.other) == ("cpu_server", BASE, OTHER)
    assert ratio.first == pytest.approx(-0.2, abs=0.02)
    assert ratio.second == pytest.approx(-0.2, abs=0.02), "half the CPU on either arm is the same ratio"
    assert ratio.first_interval == (-0.3, -0.1)
    text = told(found)
    assert "machine.cpu: Example CPU 3.0 GHz → Other CPU" in text
    assert "As the machine is another, only what must be exact is compared" in text


@pytest.mark.parametrize(
    ("setting", "name", "values"),
    [
        ("phases.chat.users=50", "phases.chat.users", ("100", "50")),
        ("experiment.mode=as-deployed", "experiment.mode", ("equal", "as-deployed")),
        ("experiment.tls=true", "experiment.tls", ("false", "true")),
        ("experiment.driver=locust", "experiment.driver", ("asyncio", "locust")),
        ('experiment.networks=["wifi"]', "experiment.networks", ('["loopback"]', '["wifi"]')),
        ("timeouts.gap_s=5", "timeouts.gap_s", ("30.0", "5.0")),
    ],
)
def test_other_work_is_not_compared_in_full(tmp_path: Path, setting: str, name: str, values: tuple[str, str]) -> None:
    first, second = write_stored(tmp_path / "a", figures(1)), write_stored(tmp_path / "b", figures(2), [setting])
    found = compare(first, second)
    assert found.shifts == []
    assert ("work", name, *values) in [(f.kind, f.name, f.first, f.second) for f in found.facts]
    assert "what was measured is not the same" in told(found)


def test_what_only_asks_is_named_and_compared(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    second = write_stored(tmp_path / "b", figures(2), ["experiment.blocks=12", "primary.cpu.smallest_effect=0.1"])
    found = compare(first, second)
    assert found.full == [BASE, OTHER]
    assert {(f.kind, f.name) for f in found.facts} == {
        ("scenario", "experiment.blocks"),
        ("scenario", "primary.cpu.smallest_effect"),
    }


def test_only_what_is_measured_counts_as_other_work(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    both = write_stored(tmp_path / "b", figures(2), ["experiment.blocks=12", "phases.chat.users=50"])
    assert {(f.kind, f.name) for f in compare(first, both).facts} == {
        ("scenario", "experiment.blocks"),
        ("work", "phases.chat.users"),
    }
    unused = write_stored(tmp_path / "c", figures(2), ["networks={ far = { rtt_ms = 90 } }"])
    found = compare(first, unused)
    assert {f.kind for f in found.facts} == {"scenario"}, "nothing ran over it"
    assert found.full == [BASE, OTHER]


def test_other_cores_are_another_machine(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    found = compare(first, write_stored(tmp_path / "b", figures(2), info={"pinning": None}))
    assert ("machine", "pinning.server", "[0]", "none") in [(f.kind, f.name, f.first, f.second) for f in found.facts]
    assert found.full == []


def test_an_arm_that_is_set_otherwise_is_left_out_alone(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    second = write_stored(tmp_path / "b", figures(2), [f"arms.{OTHER}.compression=true"])
    found = compare(first, second)
    assert found.full == [BASE]
    assert {s.arm for s in found.shifts} == {BASE}
    assert [(f.name, f.first, f.second) for f in found.facts] == [(f"arms.{OTHER}.compression", "none", "true")]
    assert f"Not compared in full, as they are not the same in both: {OTHER}." in told(found)


def test_what_lay_between_counts_as_it_really_was(tmp_path: Path) -> None:
    """`auto` makes packets for who may, and a model for others."""
    packets, model = ({"name": "wifi", "kind": kind, "network": {}} for kind in ("packets", "modelled"))
    first = write_stored(tmp_path / "a", figures(1), network=packets)
    found = compare(first, write_stored(tmp_path / "b", figures(2), network=model))
    assert [(f.kind, f.name) for f in found.facts] == [("work", "network.kind")]
    assert found.full == []


def test_exact_counters_tell_a_single_token(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    more = {key: [v + 1 for v in own] if key == (BASE, "wire_bytes") else own for key, own in figures(2).items()}
    found = compare(first, write_stored(tmp_path / "b", more, lost=1))
    loud = {(c.arm, c.measure, c.first, c.second, c.finding) for c in found.counters if c.finding != "same"}
    assert loud == {
        (BASE, "wire_bytes", 210.0, 211.0, "more"),
        (BASE, "lost", 0.0, 1.0, "more"),
        (OTHER, "lost", 0.0, 1.0, "more"),
    }
    assert "chunks lost 0 in 8 trials 1 in 8 trials more" in told(found)


def test_bytes_that_vary_are_no_exact_counter(tmp_path: Path) -> None:
    varied = {key: [*own[:-1], own[-1] + 1] if key[1] == "wire_bytes" else own for key, own in figures(2).items()}
    first, second = write_stored(tmp_path / "a", figures(1)), write_stored(tmp_path / "b", varied)
    assert "wire_bytes" not in {c.measure for c in compare(first, second).counters}


def test_one_block_has_none_to_agree_with(tmp_path: Path) -> None:
    first, second = write_stored(tmp_path / "a", figures(1, 1)), write_stored(tmp_path / "b", figures(2, 1))
    assert "wire_bytes" not in {c.measure for c in compare(first, second).counters}


def test_what_is_over_all_trials_is_compared_by_trial(tmp_path: Path) -> None:
    first, second = (
        write_stored(tmp_path / "a", figures(1, 8), lost=6),
        write_stored(tmp_path / "b", figures(2, 4), lost=3),
    )
    (lost,) = (c for c in compare(first, second).counters if (c.arm, c.measure) == (BASE, "lost"))
    assert (lost.first, lost.second, lost.trials, lost.finding) == (6, 3, (8, 4), "same")


def test_an_invalid_run_is_named_so(tmp_path: Path) -> None:
    first = write_stored(tmp_path / "a", figures(1))
    found = compare(first, write_stored(tmp_path / "b", figures(2), info={"state": "invalid"}))
    assert "b is invalid" in told(found)


def test_the_json_is_what_was_compared(tmp_path: Path) -> None:
    revision = {"commit": "9a1e" * 10, "changed": True}
    first = write_stored(tmp_path / "a", figures(1), info={"revision": revision})
    found = compare(first, write_stored(tmp_path / "b", figures(2, cpu=1.2)))
    assert msgspec.json.decode(as_json(found), type=Compared) == found
    assert found.first.revision == "9a1e" * 10 + "+"


# --- what is no run ---


def _gone(folder: Path) -> None:
    (folder / "run.json").unlink()


def _without_summary(folder: Path) -> None:
    (folder / "summary.json").unlink()


def _of_another_format(folder: Path) -> None:
    (folder / "summary.json").write_text('{"format": 9}')


def _unknown_scenario(folder: Path) -> None:
    info = json.loads((folder / "run.json").read_text())
    info["scenario"]["phases"]["chat"]["colour"] = "red"
    (folder / "run.json").write_text(json.dumps(info))


def _a_set(folder: Path) -> None:
    (folder / "set.json").write_text("{}")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (_gone, "no run here"),
        (_without_summary, "`tokenwire report"),
        (_of_another_format, "format 9; this version reads format 1"),
        (_unknown_scenario, "not one that this version knows"),
        (_a_set, "give one of the runs inside it"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path: Path, break_it: object, says: str) -> None:
    good, bad = write_stored(tmp_path / "a", figures(1)), write_stored(tmp_path / "b", figures(2))
    assert callable(break_it)
    break_it(bad)
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(RecordError, match=says) as caught:
            compare(*pair)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)


# --- the same work ---


@pytest.mark.parametrize(
    "setting",
    ["experiment.blocks=3", "experiment.seed=7", "phases.cold.rate=81", "experiment.tls=true", "timeouts.gap_s=5",
     "profiles.chat.first.median_ms=90", f"arms.{OTHER}.compression=true", "primary.cpu.smallest_effect=0.1"],
)  # fmt: skip
def test_work_is_the_same_for_a_history_and_for_the_noise(setting: str) -> None:
    plain, other = load("duel"), load("duel", [setting])
    assert (work(plain) == work(other)) == (work_of(plain) == work_of(other))


def test_work_leaves_out_what_has_its_default() -> None:
    """A key that a later version adds must not begin every history anew."""
    kept = lean(load("duel").phases["chat"])
    assert kept["users"] == 100
    assert not {"retry", "think_s", "resume_tls"} & set(kept)
    assert kept[""] == "closed", "of two loads with equal keys"


# --- statistics ---


def test_the_interval_is_the_rank_sum_tests_by_counting_all_ways() -> None:
    """At every level at once: the bounds are those differences below which so many ways of dealing leave so many."""
    first, second = np.array([1.0, 4.0, 6.5, 9.0, 13.0]), np.array([2.5, 7.0, 11.0, 17.0])
    differences = sorted(b - a for a in first for b in second)
    dealt = [sum(places) - 6 for places in combinations(range(9), 4)]
    for confidence in (0.5, 0.8, 0.9, 0.95):
        outside = max(u for u in range(21) if sum(d <= u for d in dealt) / len(dealt) <= (1 - confidence) / 2)
        assert interval(first, second, confidence) == (differences[outside], differences[-1 - outside])
    assert interval(first, second, 0.995) is None
    assert estimate(first, second) == np.median(differences)


@pytest.mark.parametrize(("n", "m", "draw"), [(8, 8, "normal"), (10, 6, "normal"), (8, 8, "exponential")])
def test_the_interval_holds_the_shift_as_often_as_it_says(n: int, m: int, draw: str) -> None:
    rng = np.random.default_rng(7)
    sample = getattr(rng, draw)
    shift, held, experiments = 0.7, 0, 2000
    for _ in range(experiments):
        found = interval(sample(size=n), sample(size=m) + shift, 0.95)
        assert found is not None
        held += found[0] <= shift <= found[1]
    assert 0.95 - 3 * (0.95 * 0.05 / experiments) ** 0.5 <= held / experiments < 0.98, "nor much wider than it need be"


def test_swapping_the_runs_swaps_the_interval() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=7), rng.normal(size=9)
    low, high = interval(a, b, 0.95) or (np.nan, np.nan)
    assert interval(b, a, 0.95) == (-high, -low)
    assert estimate(b, a) == -estimate(a, b)


def test_ties_do_not_make_an_interval_narrower_than_it_may_be() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(1000):
        found = interval(rng.integers(0, 3, 8).astype(float), rng.integers(0, 3, 8).astype(float), 0.95)
        assert found is not None
        held += found[0] <= 0 <= found[1]
    assert held >= 950
