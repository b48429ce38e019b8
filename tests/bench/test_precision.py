"""How wide the intervals are while a run goes on, from trials on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import synthetic
from scipy.stats import binomtest

from bench.metrics import values_of
from bench.paired import FEWEST_BLOCKS, interval, sign_flip_p
from bench.precision import NARROW, Precision
from bench.record import read_run
from bench.scenario import Contrast, Primary, Scenario

BLOCKS = FEWEST_BLOCKS + 1


def scenario_of(run: Path, *, smallest_ms: float) -> Scenario:
    plain = read_run(run).info["scenario"] | {
        "contrasts": {"protocol": Contrast("sse-aiohttp", "ws-aiohttp")},
        "primary": {
            "first": Primary("cold", "ttft_excess", smallest_ms, "p50"),
            "cpu": Primary("warm", "cpu_server", 0.2),
        },
    }
    return msgspec.convert(msgspec.to_builtins(plain), Scenario)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    what = synthetic.Synthetic(
        blocks=BLOCKS, streams=6, tokens=8, noise=True, phases=("cold", "warm"), arms=("sse-aiohttp", "ws-aiohttp")
    )
    return synthetic.write_run(tmp_path_factory.mktemp("run"), what)


@pytest.fixture(scope="module", autouse=True)
def each_trial_is_read_once(run: Path) -> Iterator[None]:
    """Reading a trial takes longer than all that is looked at here."""
    plain = msgspec.to_builtins(scenario_of(run, smallest_ms=1.0))
    known = {trial.path: values_of(trial, plain) for trial in read_run(run).trials}
    with pytest.MonkeyPatch.context() as patch:
        # Copies, as what is given is added to.
        patch.setattr("bench.precision.values_of", lambda trial, _: copy.deepcopy(known[trial.path]))
        yield


def after(run: Path, blocks: int, *, smallest_ms: float = 2.0) -> Precision:
    trials = read_run(run).trials
    precision = Precision(scenario_of(run, smallest_ms=smallest_ms))
    for block in sorted({trial.facts["block"] for trial in trials})[:blocks]:
        precision.add([trial for trial in trials if trial.facts["block"] == block])
    return precision


def test_every_primary_measure_has_a_width_in_every_contrast(run: Path) -> None:
    first, cpu = after(run, BLOCKS).widths()
    assert (first.primary, first.unit, first.contrast) == ("first", "ms", "protocol")
    assert (cpu.primary, cpu.unit) == ("cpu", "")
    assert first.estimate == pytest.approx(0.3, abs=0.15)  # the upgrade, less what the handler is faster by
    assert cpu.estimate == pytest.approx(30 / 32 - 1, abs=0.05)
    assert first.half90 is not None


def test_widths_come_with_the_blocks_and_shrink_with_them(run: Path) -> None:
    assert all(width.half90 is None for width in after(run, 4).widths())
    few, many = (after(run, n).widths()[0].half90 for n in (5, BLOCKS))
    assert few is not None
    assert many is not None
    assert many < few


@pytest.mark.parametrize(
    ("blocks", "smallest_ms", "narrow"),
    [(FEWEST_BLOCKS, 2.0, True), (FEWEST_BLOCKS - 1, 2.0, False), (FEWEST_BLOCKS, 1e-4, False)],
)
def test_narrow_takes_both_blocks_and_width(run: Path, blocks: int, smallest_ms: float, narrow: bool) -> None:
    assert after(run, blocks, smallest_ms=smallest_ms).narrow is narrow


def test_stopping_by_width_finds_nothing_where_there_is_nothing() -> None:
    rng = np.random.default_rng(4)
    wrong, lengths = 0, []
    for _ in range(600):
        differences = rng.standard_normal(40)
        n = FEWEST_BLOCKS
        while n < 40:
            low, high = interval(differences[:n], 0.90) or (-9.0, 9.0)
            if (high - low) / 2 <= NARROW * 1.1:
                break
            n += 1
        lengths.append(n)
        wrong += sign_flip_p(differences[:n]) <= 0.05
    assert FEWEST_BLOCKS < np.median(lengths) < 40  # it does stop, and not at once
    assert binomtest(wrong, 600, 0.05, alternative="greater").pvalue > 0.01
