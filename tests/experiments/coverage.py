"""Which interval to trust at few blocks, and whether stopping by width spoils the test: by simulation.

    python -m tests.experiments.coverage

Prints, for differences of several shapes, how often a 95 % interval holds the truth and how wide it is, for the
interval that is used (Hodges-Lehmann), the paired t and the percentile bootstrap of the mean; then how often a run that
stops when its interval is narrow finds a difference where there is none. The same figures every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from bench.paired import FEWEST_BLOCKS, interval, sign_flip_p
from bench.precision import NARROW

Floats = npt.NDArray[np.float64]
EXPERIMENTS = 4000
MOST = 60

SHAPES: dict[str, Callable[[Any, Any], Floats]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "heavy tails (t, 2 df)": lambda rng, size: rng.standard_t(2, size),
    "one block in ten disturbed": lambda rng, size: rng.standard_normal(size) * (1 + 9 * (rng.random(size) < 0.1)),
    "skewed (centred lognormal)": lambda rng, size: rng.lognormal(0, 0.8, size) - 1.0,
}
"""Differences around a median of zero (the last: not symmetric, which no arm against itself is)."""


def by_t(d: Floats) -> tuple[float, float]:
    half = student.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return float(d.mean() - half), float(d.mean() + half)


def by_bootstrap(d: Floats, rng: Any) -> tuple[float, float]:
    low, high = np.quantile(rng.choice(d, (1000, len(d))).mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print both tables."""
    rng = np.random.default_rng(1)
    print("Share of 95 % intervals that hold the truth, and their median width\n")
    print(f"{'shape':28} {'blocks':>6}   {'Hodges-Lehmann':>16} {'paired t':>16} {'bootstrap':>16}")
    for shape, make in SHAPES.items():
        for n in (6, 8, 10, 20):
            samples = make(rng, (EXPERIMENTS, n))
            methods: tuple[Callable[[Floats], tuple[float, float] | None], ...] = (
                lambda d: interval(d, 0.95),
                by_t,
                lambda d: by_bootstrap(d, rng),
            )
            cells = []
            for method in methods:
                # The bootstrap is slow, and needs no more to be seen for what it is.
                some = samples if method is not methods[2] else samples[:1000]
                bounds = np.array([method(d) for d in some])
                # A mean estimates a mean, which the last shape does not have at zero.
                truth = float(np.exp(0.32) - 1) if "lognormal" in shape and method is not methods[0] else 0.0
                held = float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))
                cells.append(f"{held:8.1%} {np.median(bounds[:, 1] - bounds[:, 0]):7.2f}")
            print(f"{shape:28} {n:6}   " + " ".join(cells))
    print(
        "\nA run that stops when its 90 % interval is narrow, between an arm and itself: p of 0.05 or less at the end\n"
    )
    print(f"{'shape':28} {'found':>7} {'median blocks':>14}")
    for shape, make in list(SHAPES.items())[:3]:
        found, lengths = 0, []
        for _ in range(EXPERIMENTS):
            d = make(rng, MOST)
            n = FEWEST_BLOCKS
            while n < MOST:
                low, high = interval(d[:n], 0.90) or (-9.0, 9.0)
                if (high - low) / 2 <= NARROW * 1.0:
                    break
                n += 1
            lengths.append(n)
            found += sign_flip_p(d[:n]) <= 0.05
        print(f"{shape:28} {found / EXPERIMENTS:7.1%} {np.median(lengths):14.0f}")


if __name__ == "__main__":
    main()
