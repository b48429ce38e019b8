"""Where the time goes: steps that add up, drawn so that they can be read, and put into words."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib as mpl
import msgspec
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from synthetic import ARMS, CONNECT_MS, DELIVERY_MS, EXCESS_MS, LATE_MS, UPGRADE_MS, Synthetic, write_run

from bench.metrics import Group, Shapes, Summary, chunks_of, streams_of, summarize
from bench.metrics.trial import ALL_STEPS, GAP_STEPS, PARTS, STEPS, breakdowns, excess_of
from bench.record import read_run, read_trial
from bench.report.causes import _WORDS, cause, gap_cause
from bench.report.charts import Chart, drawn, waterfall

SSE, AIOHTTP, WEBSOCKETS = ARMS
COLD = Group("cold", AIOHTTP, "cold")


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return summarize(read_run(write_run(tmp_path_factory.mktemp("run") / "run", Synthetic(phases=("cold", "warm")))))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A trial of WebSocket over cold connections, as varied as a real one."""
    what = Synthetic(blocks=1, noise=True, phases=("cold",), arms=(AIOHTTP,))
    return read_trial(read_run(write_run(tmp_path_factory.mktemp("noisy") / "run", what)).trials[0].path)


def taken_apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    chunks = chunks_of(frame)
    return streams_of(frame, chunks, websocket=True), chunks


def test_steps_of_every_stream_and_gap_add_up(noisy: pd.DataFrame) -> None:
    streams, chunks = taken_apart(noisy)
    assert np.allclose(streams[list(STEPS)].sum(axis=1), streams["ttft_intended"], atol=1e-9)
    assert np.allclose(streams[list(PARTS)].sum(axis=1), streams["ttft_excess"], atol=1e-9)
    gaps = chunks.dropna(subset=["icl"])
    assert len(gaps) == 20 * 39
    assert np.allclose(gaps[list(GAP_STEPS)].sum(axis=1), gaps["icl"], atol=1e-9)
    assert np.allclose(gaps["gap_late"] + gaps["gap_delivery"], gaps["gap_excess"], atol=1e-9)


@pytest.mark.parametrize(
    ("whole", "measure", "low", "high"),
    [("first", "ttft_excess", 9, 11), ("gap", "gap_excess", 351, 429), ("gap_p99", "gap_excess", 769, 775)],
)
def test_steps_of_a_trial_add_up_to_the_mean_around_the_percentile(
    noisy: pd.DataFrame, whole: str, measure: str, low: int, high: int
) -> None:
    streams, chunks = taken_apart(noisy)
    values = np.sort((streams if whole == "first" else chunks)[measure].dropna())
    assert excess_of(breakdowns(streams, chunks)[whole]) == pytest.approx(values[low:high].mean(), abs=1e-9)


@pytest.mark.parametrize("arm", ARMS)
def test_steps_are_what_was_put_in(summary: Summary, arm: str) -> None:
    upgrade = UPGRADE_MS if ARMS[arm]["protocol"] == "websocket" else 0.0
    for phase, opening in (("cold", (CONNECT_MS, 0.0, upgrade)), ("warm", (0.0, 0.0, 0.0))):
        steps = summary.shapes.typical(Group(phase, arm, phase), "first")
        assert steps is not None
        assert steps["part_model"] > 120
        takeup = EXCESS_MS[arm] - LATE_MS - DELIVERY_MS
        expected = [0.0, *opening, 0.0, takeup, steps["part_model"], LATE_MS, DELIVERY_MS]
        assert list(steps.values()) == pytest.approx(expected, abs=2e-6)


def test_a_wait_before_the_start_is_apart_from_the_excess(noisy: pd.DataFrame) -> None:
    before = breakdowns(*taken_apart(noisy))["first"]
    after = breakdowns(*taken_apart(noisy.assign(intended_ns=noisy["intended_ns"] - 300_000)))["first"]
    assert (before["part_wait"], after["part_wait"]) == (0.0, pytest.approx(0.3))
    assert excess_of(before) == excess_of(after)


def test_a_long_gap_is_told_apart_into_lateness_and_delivery(noisy: pd.DataFrame) -> None:
    # Every chunk punctual but one of fifty: that one 2 ms late and 0.5 ms longer on its way.
    slow = (noisy["chunk"] == 20) | ((noisy["chunk"] == 30) & (noisy["ordinal"] == 0))
    written = noisy["due_ns"] + slow * 2_000_000
    exact = noisy.assign(written_ns=written, received_ns=written + 100_000 + slow * 500_000)
    found = breakdowns(*taken_apart(exact))
    assert (found["gap_p99"]["gap_late"], found["gap_p99"]["gap_delivery"]) == pytest.approx((2.0, 0.5))
    assert excess_of(found["gap"]) == pytest.approx(0.0)
    assert found["gap"]["gap_due"] > 5


def test_what_cannot_be_known_is_left_out(noisy: pd.DataFrame) -> None:
    assert set(breakdowns(*taken_apart(noisy))) == {"first", "gap", "gap_p99"}
    few = breakdowns(*taken_apart(noisy[noisy["chunk"].isna() | (noisy["chunk"] < 5)]))
    assert set(few) == {"first", "gap"}, "80 gaps: too few beyond p99"
    assert "first" not in breakdowns(*taken_apart(noisy.assign(taken_up_ns=pd.NA)))
    assert not breakdowns(*taken_apart(noisy.assign(written_ns=pd.NA)))


def test_one_disturbed_trial_does_not_carry_the_picture() -> None:
    shapes = Shapes()
    shapes.steps[COLD, "gap"] = {b: {"gap_due": 20.0, "gap_late": ms, "gap_delivery": 0.5 * ms} for b, ms in
                                 enumerate((0.2, 90.0, 0.4, 0.0))}  # fmt: skip
    typical = shapes.typical(COLD, "gap")
    assert typical == pytest.approx({"gap_due": 20.0, "gap_late": 0.3, "gap_delivery": 0.15})
    assert shapes.typical(COLD, "first") is None


def charts(summary: Summary, **steps: dict[str, float]) -> dict[str, Chart]:
    """The charts by name, with other steps for some arms (`_` for `-`) in the phase cold."""
    own = dict(summary.shapes.steps)
    for arm, parts in steps.items():
        key = Group("cold", arm.replace("_", "-"), "cold"), "first"
        own[key] = {block: trial | parts for block, trial in own[key].items()}
    altered = Shapes(steps=own)
    made = type(summary)(**{f: getattr(summary, f) for f in summary.__struct_fields__} | {"shapes": altered})
    return {c.name: c for phase in made.phases for c in waterfall.make(made, phase)}


def figure_of(chart: Chart) -> Figure:
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(4.8, chart.height), layout="constrained")
        chart.draw(figure)
        figure.draw_without_rendering()
    return figure


def test_milestones_are_named_where_they_happen(summary: Summary) -> None:
    made = charts(summary)
    assert set(made) == {"cold-waterfall", "warm-waterfall"}
    cold, warm = (drawn(made[name]).inline for name in ("cold-waterfall", "warm-waterfall"))
    assert all(name in cold for name in ("TCP connected", "upgraded", "handler entered", "token due", "received"))
    assert all(name in warm for name in ("request written", "handler entered"))
    assert not any(name in warm for name in ("TCP connected", "upgraded"))
    assert "secured" not in cold, "in the clear"
    assert "secured" in drawn(charts(summary, ws_aiohttp={"part_tls": 1.5})["cold-waterfall"]).inline
    alt = made["cold-waterfall"].alt
    assert "SSE on aiohttp 0.250 + " in alt
    assert "WebSocket on aiohttp 0.250 + 0.500 + " in alt


@pytest.mark.parametrize("wait", [0.0, 0.3, 40.0])
@pytest.mark.parametrize(("upgrade", "tls"), [(0.0, 0.0), (0.5, 1.5), (300.0, 0.0)])
def test_nothing_leaves_the_picture_and_no_label_hides_another(
    summary: Summary, wait: float, upgrade: float, tls: float
) -> None:
    tiny = dict.fromkeys(("part_connect", "part_send", "part_takeup", "part_late", "part_delivery"), 0.001)
    parts = {"part_wait": wait, "part_tls": tls, "part_upgrade": upgrade} | tiny
    figure = figure_of(charts(summary, ws_aiohttp=parts)["cold-waterfall"])
    (axes,) = figure.axes
    right = axes.get_xlim()[1]
    boxes = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert boxes
    assert all(b.get_x() >= -1e-9 and b.get_x() + b.get_width() <= right + 1e-9 for b in boxes)
    lines: dict[float, list[tuple[float, float]]] = {}
    for text in (t for t in axes.texts if t.get_rotation() == 0 and t.get_text()):
        extent = text.get_window_extent()
        lines.setdefault(round(text.get_position()[1], 6), []).append((extent.x0, extent.x1))
    for line in lines.values():
        assert all(a[1] <= b[0] for a, b in pairwise(sorted(line)))
    labels = [t.get_text() for t in axes.texts]
    assert ("40.0 ms" in labels) is (wait == 40.0 and upgrade < 300), "a wait that dwarfs the rest is cut as well"


def test_a_long_name_makes_room_for_the_figures(summary: Summary) -> None:
    fields = {f: getattr(summary, f) for f in summary.__struct_fields__}
    arms = [msgspec.structs.replace(a, label=f"{a.label} ({a.name}-with-deflate-as-deployed)") for a in summary.arms]
    (axes,) = figure_of(charts(type(summary)(**fields | {"arms": arms}))["cold-waterfall"]).axes
    names = [t for t in axes.texts if "as-deployed" in t.get_text()]
    assert len(names) == 3 * len(arms)
    for name in names:
        y = name.get_position()[1] - 0.01
        (figures,) = (t for t in axes.texts if t.get_ha() == "right" and t.get_position()[1] == pytest.approx(y))
        assert name.get_window_extent().x1 < figures.get_window_extent().x0


def test_what_is_printed_adds_up(summary: Summary) -> None:
    thirds = {
        "part_connect": 0.1004,
        "part_upgrade": 0.1004,
        "part_takeup": 0.1004,
        "part_late": 0.0,
        "part_delivery": 0.0,
    }
    assert (
        "WebSocket on aiohttp 0.100 + 0.100 + 0.100 = 0.300 ms"
        in charts(summary, ws_aiohttp=thirds)["cold-waterfall"].alt
    )


def test_a_phase_without_the_servers_log_has_no_chart(summary: Summary) -> None:
    bare = type(summary)(**{f: getattr(summary, f) for f in summary.__struct_fields__} | {"shapes": Shapes()})
    assert not [c for phase in bare.phases for c in waterfall.make(bare, phase)]


def contrast(summary: Summary, whole: str, one: list[dict[str, float]], other: list[dict[str, float]]) -> Summary:
    """Two arms of the phase cold with these steps, trial by trial; steps that are not named are nothing."""
    table = STEPS if whole == "first" else GAP_STEPS
    steps = {
        (Group("cold", arm, "cold"), whole): {b: dict.fromkeys(table, 0.0) | trial for b, trial in enumerate(trials)}
        for arm, trials in ((SSE, one), (AIOHTTP, other))
    }
    fields = {f: getattr(summary, f) for f in summary.__struct_fields__}
    return type(summary)(**fields | {"shapes": replace(Shapes(), steps=steps)})


WHO = "with WebSocket on aiohttp than with SSE on aiohttp"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (
            {}, {"part_upgrade": 0.31, "part_late": 0.015, "part_delivery": 0.015},
            f"The first token comes 0.34 ms later {WHO}; nearly all of it (0.31 ms) is the upgrade.",
        ),
        (
            {"part_upgrade": 0.2}, {"part_upgrade": 0.45, "part_connect": 0.1},
            f"The first token comes 0.35 ms later {WHO}; most of it (0.25 ms) is a longer upgrade.",
        ),
        (
            {"part_takeup": 0.3}, {"part_upgrade": 0.52, "part_takeup": 0.12},
            f"The first token comes 0.34 ms later {WHO}; the upgrade adds 0.52 ms, of which a shorter way to the "
            "handler takes back 0.18 ms.",
        ),
        (
            {}, {"part_tls": 1.2},
            f"The first token comes 1.20 ms later {WHO}; it is the TLS handshake.",
        ),
        (
            {"part_takeup": 0.3}, {"part_takeup": 0.15},
            f"The first token comes 0.15 ms earlier {WHO}; it is a shorter way to the handler.",
        ),
        (
            {"part_upgrade": 0.5, "part_delivery": 0.1}, {"part_late": 0.2, "part_delivery": 0.1},
            f"The first token comes 0.30 ms earlier {WHO}; having no upgrade saves 0.50 ms, of which a less punctual "
            "first write takes back 0.20 ms.",
        ),
        (
            {}, {"part_late": 0.1, "part_delivery": 0.1, "part_connect": 0.1},
            f"The first token comes 0.30 ms later {WHO}; a longer connect adds 0.10 ms, a less punctual first write "
            "0.10 ms and a longer delivery 0.10 ms.",
        ),
        (
            {"part_late": 0.006}, {"part_takeup": 0.106},
            f"The first token comes 0.10 ms later {WHO}; a longer way to the handler adds 0.11 ms, of which other "
            "steps take back 0.01 ms.",
        ),
        ({}, {"part_upgrade": 0.019}, None),
        ({"part_wait": 5.0, "part_model": 20.0}, {"part_wait": 1.0, "part_model": 90.0}, None),
    ],
)  # fmt: skip
def test_the_step_that_makes_the_difference(
    summary: Summary, one: dict[str, float], other: dict[str, float], said: str | None
) -> None:
    assert cause(contrast(summary, "first", [one] * 3, [other] * 3), "cold", "cold", SSE, AIOHTTP) == said


@pytest.mark.parametrize(
    ("late", "delivery", "said"),
    [
        (0.5, 0.02, "0.52 ms longer", ),
        (-0.5, 0.2, "0.30 ms shorter"),
    ],
)  # fmt: skip
def test_the_step_that_makes_a_long_gap(summary: Summary, late: float, delivery: float, said: str) -> None:
    one, other = {"gap_due": 20.0, "gap_late": 1.0}, {"gap_due": 21.0, "gap_late": 1.0 + late, "gap_delivery": delivery}
    text = gap_cause(contrast(summary, "gap_p99", [one] * 2, [other] * 2), "cold", "cold", SSE, AIOHTTP)
    ending = {
        "0.52 ms longer": "nearly all of it (0.50 ms) is less punctual writes of the server.",
        "0.30 ms shorter": "more punctual writes of the server saves 0.50 ms, of which less even delivery takes back "
        "0.20 ms.",
    }
    assert text == f"The gap at p99, less the gap as it was due, is {said} {WHO}; {ending[said]}"


def test_a_difference_is_paired_within_blocks(summary: Summary) -> None:
    # Blocks differ by far more than arms do, and alike on both: that is no spread of the difference.
    blocks = (0.1, 5.0, 1.0, 9.0)
    one = [{"part_takeup": ms} for ms in blocks]
    other = [{"part_takeup": ms + extra} for ms, extra in zip(blocks, (0.1, 0.11, 0.1, 0.09), strict=True)]
    text = cause(contrast(summary, "first", one, other), "cold", "cold", SSE, AIOHTTP)
    assert text == f"The first token comes 0.10 ms later {WHO}; it is a longer way to the handler."


@pytest.mark.parametrize("differences", [(0.3, -0.3, 0.5, -0.1), (0.3,), ()])
def test_nothing_is_said_of_noise_or_of_a_single_block(summary: Summary, differences: tuple[float, ...]) -> None:
    one, other = [{"part_takeup": 1.0}] * len(differences), [{"part_takeup": 1.0 + ms} for ms in differences]
    assert cause(contrast(summary, "first", one, other), "cold", "cold", SSE, AIOHTTP) is None


def test_a_whole_run_in_words(summary: Summary) -> None:
    later = "The first token comes 0.30 ms later"
    assert cause(summary, "cold", "cold", SSE, AIOHTTP) == (
        f"{later} {WHO}; the upgrade adds 0.50 ms, of which a shorter way to the handler takes back 0.20 ms."
    )
    assert gap_cause(summary, "cold", "cold", SSE, AIOHTTP) is None
    assert cause(summary, "cold", "warm", SSE, AIOHTTP) is None
    assert cause(summary, "cold", "cold", SSE, "no-such-arm") is None


def test_every_step_of_the_excess_has_words() -> None:
    assert set(_WORDS) == {key for key, step in ALL_STEPS.items() if step.excess}
