"""What a connection costs, from made-up trials: every step and byte known, cold and warm, over TLS and in the clear."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rendered
from rich.console import Console
from synthetic import (
    ARMS,
    CONNECT_MS,
    DELIVERY_MS,
    EXCESS_MS,
    FIRST_RECEIVED,
    FIRST_SENT,
    LATE_MS,
    TLS_MS,
    TLS_RECEIVED,
    TLS_SENT,
    UPGRADE_MS,
    Synthetic,
    write_run,
)

from bench.metrics import Summary, chunks_of, streams_of, summarize
from bench.metrics.opening import Bytes, Opening
from bench.metrics.trial import PARTS, STEPS, excess_of
from bench.record import read_run, read_trial
from bench.report import describe, instrument
from bench.report.charts import drawn
from bench.report.sections import opening
from bench.report.terminal import print_summary

SSE, AIOHTTP, WEBSOCKETS = ARMS
STREAMS = 10


def run(folder: Path, *phases: str, tls: tuple[str, ...] | None = (), resumed: tuple[str, ...] = ()) -> Summary:
    what = Synthetic(blocks=2, streams=STREAMS, tokens=4, phases=phases, tls=tls, resumed=resumed)
    return summarize(read_run(write_run(folder / "run", what)))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """SSE in the clear, WebSocket over TLS on two libraries, with a phase of kept connections."""
    return run(tmp_path_factory.mktemp("both"), "cold", "warm", tls=(AIOHTTP, WEBSOCKETS))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return run(tmp_path_factory.mktemp("resumed"), "cold", tls=(SSE, AIOHTTP), resumed=("cold",))


def entries(summary: Summary) -> dict[tuple[str, str, str], Opening]:
    found: dict[tuple[str, str, str], Opening] = {
        (one.arm, one.temperature, one.handshake): one for one in summary.openings
    }
    assert len(found) == len(summary.openings)
    return found


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("temperature", ["cold", "warm"])
def test_every_step_is_what_was_put_in(both: Summary, arm: str, temperature: str) -> None:
    cold, websocket = temperature == "cold", ARMS[arm]["protocol"] == "websocket"
    one = entries(both)[arm, temperature, "fresh" if cold and websocket else "none"]
    assert (one.phase, one.trials, one.streams, one.share) == (temperature, 2, 2 * STREAMS, 1.0)
    expected = {
        "part_connect": CONNECT_MS * cold,
        "part_tls": TLS_MS["fresh"] * (cold and websocket),
        "part_upgrade": UPGRADE_MS * (cold and websocket),
        "part_send": 0.0,
        "part_takeup": EXCESS_MS[arm] - LATE_MS - DELIVERY_MS,
        "part_late": LATE_MS,
        "part_delivery": DELIVERY_MS,
    }
    assert list(one.steps_ms) == list(PARTS) == list(expected)
    assert {k: v.median for k, v in one.steps_ms.items()} == pytest.approx(expected, abs=2e-6)
    assert one.mean_steps_ms == pytest.approx(expected, abs=2e-6)
    assert one.excess_ms is not None
    assert one.excess_ms.median == pytest.approx(sum(expected.values()))
    assert excess_of(one.mean_steps_ms) == pytest.approx(one.excess_ms.median), "steps of a bar add up"
    assert one.first_token_ms is not None
    assert one.first_token_ms.median == pytest.approx(one.excess_ms.median + 120, abs=30)
    assert (one.setup_ms is None) is not cold
    if one.setup_ms is not None:
        assert one.setup_ms.median == expected["part_tls"] + expected["part_upgrade"]
    assert (one.head_ms is None) is websocket
    if one.head_ms is not None:
        assert one.head_ms.median == pytest.approx(0.3)


@pytest.mark.parametrize("arm", [SSE, AIOHTTP])
def test_bytes_are_given_as_one_number_or_as_a_range(both: Summary, arm: str) -> None:
    protocol = ARMS[arm]["protocol"]
    handshake = "fresh" if arm == AIOHTTP else "none"
    cold, warm = entries(both)[arm, "cold", handshake], entries(both)[arm, "warm", "none"]
    sent = FIRST_SENT[protocol] + TLS_SENT.get(handshake, 0)
    received = FIRST_RECEIVED[protocol] + TLS_RECEIVED.get(handshake, 0)
    assert (cold.sent, cold.received) == (Bytes(sent, sent), Bytes(received, received + 1))
    assert (warm.sent, warm.received) == (
        Bytes(FIRST_SENT[protocol] // 2, FIRST_SENT[protocol] // 2),
        Bytes(FIRST_RECEIVED[protocol] // 2, FIRST_RECEIVED[protocol] // 2 + 1),
    )


def test_full_and_resumed_handshakes_are_never_pooled(resumed: Summary) -> None:
    found = entries(resumed)
    for arm in (SSE, AIOHTTP):
        full, again = found[arm, "cold", "fresh"], found[arm, "cold", "resumed"]
        assert (full.streams, again.streams) == (2, 2 * STREAMS - 2)
        assert (full.steps_ms["part_tls"].median, again.steps_ms["part_tls"].median) == (1.5, 0.75)
        assert (full.share, again.share) == (0.1, 0.9)
    assert found[WEBSOCKETS, "cold", "none"].steps_ms["part_tls"].median == 0.0
    assert {one.handshake for one in resumed.openings if one.arm == WEBSOCKETS} == {"none"}


@pytest.mark.parametrize("websocket", [False, True])
def test_steps_of_every_stream_add_up_over_tls_too(tmp_path: Path, websocket: bool) -> None:
    arm = AIOHTTP if websocket else SSE
    what = Synthetic(blocks=1, noise=True, phases=("cold",), arms=(arm,), tls=(arm,), resumed=("cold",))
    frame = read_trial(read_run(write_run(tmp_path, what)).trials[0].path)
    streams = streams_of(frame, chunks_of(frame), websocket=websocket)
    assert np.allclose(streams[list(STEPS)].sum(axis=1), streams["ttft_intended"], atol=1e-9)
    assert np.allclose(streams[list(PARTS)].sum(axis=1), streams["ttft_excess"], atol=1e-9)
    assert streams["tls"].tolist() == [1.5] + [0.75] * 19
    assert (streams["connect"] == CONNECT_MS).all()
    assert streams["upgrade"].isna().all() if not websocket else (streams["upgrade"] == UPGRADE_MS).all()


def test_the_handshake_is_a_measure_of_cold_streams_over_tls(both: Summary) -> None:
    value = both.get("cold", AIOHTTP, "cold", "tls", "p50")
    assert value is not None
    assert value.median == TLS_MS["fresh"]
    assert both.get("warm", AIOHTTP, "warm", "tls", "p50") is None
    assert both.get("cold", SSE, "cold", "tls", "p50") is None


def test_what_the_numbers_say_in_words(both: Summary) -> None:
    section = opening.make(both)
    assert section is not None
    (finding,) = section.findings
    assert finding.lead == "Phase cold"
    assert finding.text.startswith(
        "A cold stream takes 0.25 ms for TCP connect, 1.50 ms for a full TLS handshake and over WebSocket 0.50 ms for "
        "the upgrade, which SSE does not need. Less the model's own delay, the first token comes after 1.25 ms cold "
        "and 1.00 ms warm with SSE on aiohttp, 3.05 ms cold and 0.80 ms warm with WebSocket on aiohttp"
    )
    assert "Bytes sent and received by then: 300 and 800 to 801 with SSE on aiohttp; 950 and" in finding.text


def test_what_resuming_saves(resumed: Summary) -> None:
    # One in ten handshakes is full: enough to be shown, and to be compared with.
    section = opening.make(resumed)
    assert section is not None
    text = section.findings[0].text
    assert "1.50 ms for a full TLS handshake, 0.75 ms for a TLS handshake that resumes a session" in text
    assert "Resuming saves 0.75 ms with SSE on aiohttp and 0.75 ms with WebSocket on aiohttp" in text
    assert "with SSE on aiohttp, TLS resumed" in text


def test_what_a_connection_has_not_is_not_shown_as_nothing(both: Summary) -> None:
    section = opening.make(both)
    assert section is not None
    cells = {(row[1], row[2]): row[4:8] for row in section.grids[0].rows}
    assert cells["SSE on aiohttp", "cold"] == ["0.250 ms", "–", "–", "0.00 ms"]
    assert cells["WebSocket on aiohttp", "cold, TLS fresh"] == ["0.250 ms", "1.50 ms", "0.500 ms", "0.00 ms"]
    assert cells["WebSocket on aiohttp", "warm"] == ["–", "–", "–", "–"]


def test_what_tls_adds_is_told_against_the_same_protocol_and_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both WebSocket arms on one library, one of them over TLS.
    monkeypatch.setitem(ARMS, WEBSOCKETS, ARMS[WEBSOCKETS] | {"stack": "aiohttp"})
    section = opening.make(run(tmp_path, "cold", tls=(SSE, WEBSOCKETS)))
    assert section is not None
    assert "TLS adds 1.50 ms with WebSocket on aiohttp (ws-websockets)." in section.findings[0].text


def test_rare_connections_are_in_the_tables_only(tmp_path: Path) -> None:
    what = Synthetic(blocks=1, streams=40, tokens=4, phases=("cold",), arms=(SSE,), tls=(SSE,), resumed=("cold",))
    section = opening.make(summarize(read_run(write_run(tmp_path, what))))
    assert section is not None
    times, sizes = section.grids
    assert [row[2:4] for row in times.rows] == [["cold, TLS fresh", "1"], ["cold, TLS resumed", "39"]]
    assert [row[2] for row in sizes.rows] == ["cold, TLS fresh", "cold, TLS resumed"]
    assert "full TLS handshake" not in section.findings[0].text
    assert "TLS fresh" not in section.charts[0].alt


def test_a_bar_per_arm_cold_and_warm(both: Summary) -> None:
    section = opening.make(both)
    assert section is not None
    (chart,) = section.charts
    assert chart.name == "cold-opening"
    assert chart.alt == (
        "SSE on aiohttp, cold 1.24 ms; SSE on aiohttp, warm 0.99 ms; "
        "WebSocket on aiohttp, cold, TLS fresh 3.04 ms; WebSocket on aiohttp, warm 0.79 ms; "
        "WebSocket on websockets, cold, TLS fresh 2.94 ms; WebSocket on websockets, warm 0.69 ms."
    ), "sums of what is printed"
    drawing = drawn(chart).inline
    for name in ("TCP connect", "TLS handshake", "upgrade", "delivery"):
        assert f">{name}<" in drawing
    assert "#9c86b5" not in drawing, "every colour is a variable"


def test_the_section_is_in_every_output(both: Summary) -> None:
    page, text, out = rendered.page(both), rendered.text(both), io.StringIO()
    print_summary(both, Console(file=out, width=80))
    assert "What a connection costs" in page
    assert "### What a connection costs" in text
    assert "1.50 ms for a full TLS handshake" in " ".join(out.getvalue().split())


@pytest.mark.parametrize("phases", [("warm",), ("unpaced",), ("ladder",)])
def test_without_cold_streams_there_is_no_section(tmp_path: Path, phases: tuple[str, ...]) -> None:
    summary = run(tmp_path, *phases)
    assert opening.make(summary) is None
    assert bool(summary.openings) is (phases == ("warm",))


def test_records_from_before_there_was_tls(tmp_path: Path) -> None:
    summary = run(tmp_path, "cold", tls=None)
    assert {one.handshake for one in summary.openings} == {"none"}
    assert all(one.sent is None and one.received is None for one in summary.openings)
    section = opening.make(summary)
    assert section is not None
    assert "Bytes" not in section.findings[0].text
    assert all(row[3:] == ["–", "–"] for row in section.grids[1].rows)
    assert "without TLS" in describe.what_was_run(summary)


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ((), "without TLS"),
        (tuple(ARMS), "over TLS 1.2 or newer"),
        ((SSE, AIOHTTP), "over TLS 1.2 or newer with SSE on aiohttp and WebSocket on aiohttp"),
    ],
)
def test_which_arms_spoke_tls_is_told(tmp_path: Path, tls: tuple[str, ...], said: str) -> None:
    summary = run(tmp_path, "cold", tls=tls)
    assert f"all over HTTP/1.1, {said}, on loopback, load by asyncio;" in describe.what_was_run(summary)
    assert dict(instrument.facts(summary))["Transport"] == f"HTTP/1.1 and WebSocket over TCP, {said}, on loopback"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("none", "on loopback"),
        ("packets", "over network 4g (50 ms round trip), delayed packet by packet"),
        ("modelled", "over network 4g (50 ms round trip), NETWORK MODELLED ON STREAMS, NOT PACKETS"),
    ],
)
def test_what_lay_between_is_told(tmp_path: Path, kind: str, said: str) -> None:
    between = {"name": "4g", "kind": kind, "network": {"rtt_ms": 50.0}, "seed": 1}
    what = Synthetic(blocks=1, streams=2, tokens=4, phases=("cold",), network=between)
    summary = summarize(read_run(write_run(tmp_path, what)))
    assert f", {said}, load by asyncio;" in describe.what_was_run(summary)
    assert dict(instrument.facts(summary))["Transport"].endswith(f", {said}")
    assert summary.network == {"name": "4g", "kind": kind, "network": {"rtt_ms": 50.0}}
