"""One figure a trial, over all trials of an arm: the median, the lowest and the highest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta


class OverTrials(msgspec.Struct, frozen=True):
    """In the unit of the field it stands in, which that one's name ends with."""

    median: Annotated[
        float, Meta(description="Median over trials", extra_json_schema={"unit": "that of the field it stands in"})
    ]
    min: Annotated[
        float, Meta(description="Lowest trial", extra_json_schema={"unit": "that of the field it stands in"})
    ]
    max: Annotated[
        float, Meta(description="Highest trial", extra_json_schema={"unit": "that of the field it stands in"})
    ]
    trials: Annotated[int, Meta(description="Trials that have it", extra_json_schema={"unit": "trials"})]


def over_trials(figures: Sequence[float]) -> OverTrials | None:
    """What the figures of trials come to; None of none."""
    known = [figure for figure in figures if np.isfinite(figure)]
    if not known:
        return None
    return OverTrials(float(np.median(known)), min(known), max(known), len(known))
