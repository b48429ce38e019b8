"""How narrow the intervals of the primary measures are so far: what a run shows while it goes, and stops by.

The width of an interval says nothing of where it lies: shift all differences and it stays. So a run that ends when its
intervals are narrow enough does not end because of what they show, and its verdicts keep their error rate; one that
ended when it had a verdict would not (Anscombe 1954).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from bench.measures import MEASURES, streams_of
from bench.metrics import Value, values_of
from bench.paired import FEWEST_BLOCKS, estimate, interval
from bench.record import Trial
from bench.scenario import Scenario
from bench.verdict import paired

NARROW = 0.5
"""A 90 % interval is narrow enough when it reaches no further from its middle than this share of the smallest effect:
an estimate that is nearer to zero than the other half is then called equivalent."""


class Width(NamedTuple):
    """One primary measure in one contrast so far; in ms, or as a share for a ratio."""

    contrast: str
    primary: str
    unit: str
    estimate: float
    half90: float | None
    """Half the width of the 90 % interval; None while there are too few blocks for one."""
    smallest_effect: float

    @property
    def narrow(self) -> bool:
        """Whether the interval is narrow enough."""
        return self.half90 is not None and self.half90 <= NARROW * self.smallest_effect


class Precision:
    """Takes in valid blocks and tells the widths."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._plain = msgspec.to_builtins(scenario)
        self._found: dict[tuple[str, str], Value] = {}
        self.blocks = 0

    def add(self, trials: Iterable[Trial]) -> None:
        """Take in the trials of a valid block."""
        self.blocks += 1
        for trial in trials:
            values = values_of(trial, self._plain)
            for name, primary in self._scenario.primary.items():
                connections = self._scenario.phases[primary.phase].connections
                where = streams_of(primary.measure, primary.temperature, connections)
                wanted = (primary.phase, where, primary.measure, primary.statistic, 0)
                for v in values:
                    if (v.phase, v.temperature, v.measure, v.statistic, v.users) == wanted:
                        self._append(trial.facts["arm"], name, v)

    def _append(self, arm: str, name: str, value: Value) -> None:
        known = self._found.get((arm, name))
        if known is None:
            self._found[arm, name] = value
        else:
            known.per_trial.extend(value.per_trial)
            known.per_slice.extend(value.per_slice)
            known.blocks.extend(value.blocks)

    def widths(self) -> list[Width]:
        """Every primary measure in every contrast, as far as there are figures."""
        found = []
        for contrast_name, contrast in self._scenario.contrasts.items():
            for name, primary in self._scenario.primary.items():
                a, b = (self._found.get((arm, name)) for arm in (contrast.baseline, contrast.other))
                scale = MEASURES[primary.measure].scale
                if a is None or b is None or (scale != "difference" and scale != "ratio"):
                    continue
                blocks, differences = paired(a, b, set(a.blocks), scale)
                if blocks:
                    narrow = interval(differences, 0.90)
                    half = None if narrow is None else (narrow[1] - narrow[0]) / 2
                    middle = estimate(differences)
                    if scale == "ratio":
                        middle = math.expm1(middle)
                    unit = MEASURES[primary.measure].unit if scale == "difference" else ""
                    found.append(Width(contrast_name, name, unit, middle, half, primary.smallest_effect))
        return found

    @property
    def narrow(self) -> bool:
        """Whether there are blocks enough for a verdict and every interval is narrow."""
        widths = self.widths()
        return self.blocks >= FEWEST_BLOCKS and bool(widths) and all(width.narrow for width in widths)
