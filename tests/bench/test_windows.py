"""Figures of whole windows, and of their slices, from facts alone."""

from __future__ import annotations

from typing import Any

import pytest

from bench.metrics.windows import stream_costs, window_measures


def facts(*slices: tuple[int, int, int], tokens_a_chunk: int = 1, **more: Any) -> dict[str, Any]:
    """Facts of a phase whose slices took so many ms, brought so many chunks and cost so many µs of server CPU."""
    made = [
        {
            "start_ns": i * 10**9,
            "end_ns": i * 10**9 + ms * 10**6,
            "chunks": chunks,
            "server_cpu_ns": us * 1000,
            "driver_cpu_ns": us * 500,
        }
        for i, (ms, chunks, us) in enumerate(slices)
    ]
    return {
        "tokens": tokens_a_chunk * sum(chunks for _, chunks, _ in slices),
        "window_ns": sum(ms for ms, _, _ in slices) * 10**6,
        "server_cpu_ns": sum(one["server_cpu_ns"] for one in made),
        "driver_cpu_ns": sum(one["driver_cpu_ns"] for one in made),
        "peak_open": 16,
        "slices": made,
        **more,
    }


def test_the_whole_is_the_total_and_slices_are_in_its_unit() -> None:
    found = {one.key: one for one in window_measures(facts((50, 1000, 10_000), (100, 1000, 20_000)))}
    assert found["cpu_server"].value == pytest.approx(15.0)  # µs per token
    assert found["cpu_server"].slices == pytest.approx([10.0, 20.0])
    assert found["cpu_driver"].slices == pytest.approx([5.0, 10.0])
    assert found["throughput"].value == pytest.approx(2000 / 0.15)
    assert found["throughput"].slices == pytest.approx([20_000, 10_000])


def test_chunks_of_several_tokens_count_by_their_tokens() -> None:
    found = {one.key: one for one in window_measures(facts((50, 250, 10_000), (50, 250, 10_000), tokens_a_chunk=4))}
    assert found["cpu_server"].value == pytest.approx(10.0)
    assert found["cpu_server"].slices == pytest.approx([10.0, 10.0])
    assert found["throughput"].slices == pytest.approx([20_000, 20_000])


def test_streams_cost_what_their_tokens_do() -> None:
    server, driver = stream_costs(facts((50, 80, 8_000), (50, 80, 16_000)), 20)
    assert server.value == pytest.approx(1.2)  # ms per stream
    assert server.slices == pytest.approx([0.8, 1.6])
    assert driver.value == pytest.approx(0.6)


@pytest.mark.parametrize(
    "record",
    [facts((50, 1000, 10_000)), facts((50, 1000, 10_000), (50, 0, 5)), facts((50, 1000, 10_000), slices=[])],
    ids=["one", "an empty one", "none recorded"],
)
def test_where_slices_cannot_be_told_there_is_the_whole_alone(record: dict[str, Any]) -> None:
    found = {one.key: one for one in window_measures(record)}
    assert found["cpu_server"].slices == []
    assert found["cpu_server"].value > 0


def test_without_tokens_there_is_no_rate() -> None:
    assert [one.key for one in window_measures(facts((50, 0, 10)) | {"loop_lag_max_ns": 5})] == ["loop_lag_max"]
