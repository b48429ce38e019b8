"""What became of streams that broke off: how long each part of getting them back took, and what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta
from scipy.stats import CensoredData, ecdf

from bench.metrics.outages import NO_BREAK, PARTS, outages
from bench.metrics.over_trials import OverTrials, over_trials
from bench.metrics.seen import Seen
from bench.metrics.trial import Floats, floats
from servers.emitter import Profile, schedule

_PERCENTS = 101
_MOST_STEPS = 300
"""Of a survival curve; one with more is thinned, its last step kept."""
_TIMES = (*PARTS, "outage")

_Streams = {"unit": "streams"}
_Chunks = {"unit": "chunks"}


class Recovery(msgspec.Struct, frozen=True):
    """Of one arm in one phase, over all trials. Counts are exact."""

    phase: Annotated[str, Meta(description="Phase")]
    arm: Annotated[str, Meta(description="Arm")]
    policy: Annotated[
        Literal["resume", "start again", "none"],
        Meta(description="What clients ask for when their stream breaks off: the rest, all of it, or nothing more"),
    ]
    trials: Annotated[int, Meta(description="Trials", extra_json_schema={"unit": "trials"})]
    streams: Annotated[int, Meta(description="Streams of the phase", extra_json_schema=_Streams)]
    interrupted: Annotated[int, Meta(description="Of those, broken off at least once", extra_json_schema=_Streams)]
    breaks: Annotated[
        int,
        Meta(
            description="Breaks: a stream can break off again once it has got a new token",
            extra_json_schema={"unit": "breaks"},
        ),
    ]
    reasons: Annotated[
        dict[str, int], Meta(description="Breaks by how the client saw them", extra_json_schema={"unit": "breaks"})
    ]
    recovered: Annotated[
        int, Meta(description="Breaks after which a new token came", extra_json_schema={"unit": "breaks"})
    ]
    tries: Annotated[
        int,
        Meta(
            description="Requests after a break until one brought a new token, or the last was in vain",
            extra_json_schema={"unit": "tries"},
        ),
    ]
    never_finished: Annotated[
        int, Meta(description="Interrupted streams that did not come to their end", extra_json_schema=_Streams)
    ]
    in_flight: Annotated[
        int,
        Meta(
            description="Chunks that a server had handed over when the stream broke off and that did not arrive then",
            extra_json_schema=_Chunks,
        ),
    ]
    lost: Annotated[
        int,
        Meta(
            description="Chunks handed over and never received, by whatever request; of a complete stream, of all",
            extra_json_schema=_Chunks,
        ),
    ]
    repeated: Annotated[
        int, Meta(description="Chunks received again without being asked for", extra_json_schema=_Chunks)
    ]
    reordered: Annotated[int, Meta(description="Chunks out of order", extra_json_schema=_Chunks)]
    corrupted: Annotated[int, Meta(description="Chunks with another text", extra_json_schema=_Chunks)]
    missing: Annotated[
        int,
        Meta(description="Chunks that streams which never finished were still to receive", extra_json_schema=_Chunks),
    ]
    made_again: Annotated[
        int,
        Meta(
            description="Chunks that the client had and received once more because it started again",
            extra_json_schema=_Chunks,
        ),
    ]
    p50_ms: Annotated[
        dict[str, OverTrials],
        Meta(
            description="notice, reconnect, renew and outage: median within each trial; parts without any are absent",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    waited_p50_ms: Annotated[
        OverTrials | None,
        Meta(
            description="Of reconnect, what the policy had the client wait: median within each trial",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    curves_ms: Annotated[
        dict[str, list[float]],
        Meta(
            description="notice, reconnect, renew and outage at 0, 1, ... 100 % of the breaks, all trials pooled",
            extra_json_schema={"unit": "ms"},
        ),
    ]
    survival_ms: Annotated[
        list[float],
        Meta(description="Steps of the survival curve, since the break", extra_json_schema={"unit": "ms"}),
    ]
    survival: Annotated[
        list[float],
        Meta(
            description="Share of the breaks without a new token after each step (Kaplan-Meier: a stream that is given "
            "up is no longer at risk)",
            extra_json_schema={"unit": "a share"},
        ),
    ]


class _Trial(msgspec.Struct):
    outages: pd.DataFrame
    counts: Counter[str]


class Recoveries:
    """Collects it, trial by trial."""

    def __init__(self) -> None:
        self._trials: dict[tuple[str, str], list[_Trial]] = {}
        self._policies: dict[str, Literal["resume", "start again", "none"]] = {}

    def add(self, seen: Seen) -> None:
        """Take in one phase of one trial, if something is to break off in it, or to be retried."""
        settings = seen.settings
        if not any(settings.get(key) for key in ("retry", "restart", "fault")):
            return
        retry = settings.get("retry")
        self._policies[seen.phase] = "none" if not retry else "resume" if retry.get("resume", True) else "start again"
        profile = msgspec.convert(seen.scenario["profiles"][settings["profile"]], Profile)
        breaks = outages(seen.streams, seen.rows, seen.facts)
        trial = _Trial(breaks, _counts(seen.streams, seen.rows, profile))
        self._trials.setdefault((seen.phase, seen.arm), []).append(trial)

    def found(self) -> list[Recovery]:
        """One entry per phase and arm in which anything broke off."""
        found = [_recovery(phase, arm, self._policies[phase], some) for (phase, arm), some in self._trials.items()]
        return [one for one in found if one.breaks]


def _counts(streams: pd.DataFrame, rows: pd.DataFrame, profile: Profile) -> Counter[str]:
    """What one trial's streams and chunks add up to."""
    begun = streams[streams["outcome"].astype(str) != "dropped"]
    last = begun.sort_values("attempt", kind="stable").drop_duplicates(["step", "ordinal"], keep="last")
    broken = begun[~begun["outcome"].astype(str).isin(NO_BREAK)]
    interrupted = last[_places(last).isin(_places(broken))]
    never = interrupted[interrupted["outcome"].astype(str) != "complete"]
    chunks = rows[rows["chunk"].notna()]
    got = chunks[chunks["received_ns"].notna()].sort_values("attempt", kind="stable")
    once = got.drop_duplicates(["step", "ordinal", "chunk"])
    cut_off = chunks[chunks["stream"].isin(broken["stream"]) & chunks["received_ns"].isna()]
    return Counter(
        streams=len(last),
        interrupted=len(interrupted),
        never_finished=len(never),
        in_flight=len(cut_off),
        made_again=int((got["resumed_from"] < 0).sum() - (once["resumed_from"] < 0).sum()),
        missing=sum(len(schedule(profile, int(seed)).texts) for seed in never["seed"])
        - int(_places(once).isin(_places(never)).sum()),
        **{flaw: int(last[flaw].sum()) for flaw in ("lost", "repeated", "reordered", "corrupted")},
    )


def _places(frame: pd.DataFrame) -> pd.MultiIndex:
    """Which stream each row is about, whatever the attempt."""
    return pd.MultiIndex.from_frame(frame[["step", "ordinal"]].astype("int64"))


def _recovery(
    phase: str, arm: str, policy: Literal["resume", "start again", "none"], trials: Sequence[_Trial]
) -> Recovery:
    breaks = pd.concat([trial.outages for trial in trials], ignore_index=True)
    counts: Counter[str] = Counter()
    for trial in trials:
        counts.update(trial.counts)
    steps, shares = _survival(breaks)
    return Recovery(
        phase,
        arm,
        policy,
        trials=len(trials),
        streams=counts["streams"],
        interrupted=counts["interrupted"],
        breaks=len(breaks),
        reasons={str(reason): int(n) for reason, n in breaks["reason"].value_counts().items()},
        recovered=int(breaks["recovered"].sum()),
        tries=int(breaks["tries"].sum()),
        never_finished=counts["never_finished"],
        in_flight=counts["in_flight"],
        lost=counts["lost"],
        repeated=counts["repeated"],
        reordered=counts["reordered"],
        corrupted=counts["corrupted"],
        missing=counts["missing"],
        made_again=counts["made_again"],
        p50_ms={key: middle for key in _TIMES if (middle := _median(trials, key))},
        waited_p50_ms=_median(trials, "waited"),
        curves_ms={key: _curve(values) for key in _TIMES if len(values := _known(breaks, key))},
        survival_ms=steps,
        survival=shares,
    )


def _known(breaks: pd.DataFrame, key: str) -> Floats:
    values = floats(breaks[key])
    return values[~np.isnan(values)]


def _median(trials: Sequence[_Trial], key: str) -> OverTrials | None:
    return over_trials([float(np.median(some)) for trial in trials if len(some := _known(trial.outages, key))])


def _curve(values: Floats) -> list[float]:
    return [float(v) for v in np.quantile(values, np.linspace(0, 1, _PERCENTS))]


def _survival(breaks: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Kaplan and Meier's estimate of how many breaks last longer, by those whose beginning is known."""
    known = breaks[breaks["lasted"].notna()]
    if not len(known):
        return [], []
    over = known["recovered"].astype(bool).to_numpy()
    lasted = floats(known["lasted"])
    curve = ecdf(CensoredData(uncensored=lasted[over], right=lasted[~over])).sf
    keep = np.unique(np.linspace(0, len(curve.quantiles) - 1, _MOST_STEPS).astype(int))
    return [float(v) for v in curve.quantiles[keep]], [float(v) for v in curve.probabilities[keep]]
