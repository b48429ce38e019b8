"""One trial's records as two frames: a row per stream and a row per content chunk, with every measure as a column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.measures import FEWEST_BEYOND

Floats = npt.NDArray[np.float64]


class Step(NamedTuple):
    """A stretch of time: what passes in it, what has happened at its end, and whether excess counts it."""

    label: str
    milestone: str
    excess: bool = True


STEPS: dict[str, Step] = {
    "part_wait": Step("wait before the start", "started", excess=False),
    "part_connect": Step("connect", "TCP connected"),
    "part_tls": Step("TLS handshake", "secured"),
    "part_upgrade": Step("upgrade", "upgraded"),
    "part_send": Step("until the request is written", "request written"),
    "part_takeup": Step("request to handler", "handler entered"),
    "part_model": Step("the model's own delay", "token due", excess=False),
    "part_late": Step("first token written late", "written"),
    "part_delivery": Step("delivery", "received"),
}
"""From when a stream should have started to its first token, in order of time.

All steps of a stream add up to `ttft_intended`, those of the excess to `ttft_excess`, exactly.
"""

PARTS: dict[str, str] = {key: step.label for key, step in STEPS.items() if step.excess}
"""What `ttft_excess` is made of, in order of time."""

GAP_STEPS: dict[str, Step] = {
    "gap_due": Step("gap as it was due", "token due", excess=False),
    "gap_late": Step("change of lateness", "written"),
    "gap_delivery": Step("change of delivery", "received"),
}
"""What a received gap is made of. The changes are from the chunk before to this one, so they may be negative."""

ALL_STEPS = STEPS | GAP_STEPS

_MIDDLE, _NEAR_P99 = (0.45, 0.55), (0.986, 0.993)
"""Around p99 as far up as down in rarity (a factor of 1.4), so that the longest gaps do not draw the mean up."""


def floats(values: pd.Series[Any]) -> Floats:
    """Numbers with NaN where the record has none, whatever kind of column they came in."""
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _ms(frame: pd.DataFrame, later: str, earlier: str) -> Floats:
    """`later` less `earlier` in ms; subtracted as they are recorded, so that large clocks lose no digits."""
    return floats(frame[later] - frame[earlier]) / 1e6


def chunks_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per content chunk of the window, in order, with its gap's measures and `GAP_STEPS`, and its own (all ms).

    What is between neighbours only is NaN for a stream's first chunk and after a chunk that is missing.
    """
    rows = frame[frame["window"].astype(bool) & frame["chunk"].notna() & frame["received_ns"].notna()]
    rows = rows.sort_values(["stream", "chunk"], kind="stable").drop_duplicates(["stream", "chunk"])
    rows = rows.reset_index(drop=True)
    stream, chunk = rows["stream"].to_numpy(), floats(rows["chunk"])
    neighbours = np.zeros(len(rows), dtype=bool)
    neighbours[1:] = (stream[1:] == stream[:-1]) & (chunk[1:] == chunk[:-1] + 1)
    gap_ns, due_ns, late_ns = rows["received_ns"].diff(), rows["due_ns"].diff(), rows["written_ns"] - rows["due_ns"]

    def between(ns: pd.Series[Any]) -> Floats:
        return np.where(neighbours, floats(ns) / 1e6, np.nan)

    return rows.assign(
        icl=between(gap_ns),
        gap_excess=between(gap_ns - due_ns),
        gap_due=between(due_ns),
        gap_late=between(late_ns.diff()),
        gap_delivery=between((rows["received_ns"] - rows["written_ns"]).diff()),
        lateness=_ms(rows, "written_ns", "due_ns"),
        delivery=_ms(rows, "received_ns", "written_ns"),
    )


def streams_of(frame: pd.DataFrame, chunks: pd.DataFrame, *, websocket: bool) -> pd.DataFrame:
    """A row per stream of the window, with the measures of a stream and its `STEPS` (all ms).

    A stream that got no content has no latency: its columns are NaN, and its outcome is counted elsewhere.
    """
    rows = frame[frame["window"].astype(bool)].drop_duplicates("stream").set_index("stream", drop=False)
    first = chunks[chunks["chunk"] == 0].drop_duplicates("stream").set_index("stream")
    for column in ("received_ns", "due_ns", "written_ns"):
        rows[column] = first[column].reindex(rows.index)
    by_stream = chunks.groupby("stream", sort=False)
    span = floats((by_stream["received_ns"].max() - by_stream["received_ns"].min()).reindex(rows.index)) / 1e6
    tokens = floats(by_stream["tokens"].sum().reindex(rows.index))
    stall = floats(by_stream["icl"].max().reindex(rows.index))
    cold = rows["cold"].to_numpy(dtype=bool)
    complete = (rows["outcome"].astype(str) == "complete").to_numpy()
    taken_ns, model_ns = rows["received_ns"] - rows["started_ns"], rows["due_ns"] - rows["taken_up_ns"]
    # A file from before there was TLS lacks the column, when it is not `read_trial` that reads it.
    secured_ns = rows.get("secured_ns", pd.Series(pd.NA, rows.index, "Int64"))
    encrypted = cold & secured_ns.notna().to_numpy()
    # Where there is TLS, an upgrade begins when its handshake is done.
    upgrade_ns = rows["ready_ns"] - secured_ns.where(encrypted, rows["connected_ns"])
    ready = np.where(cold, _ms(rows, "ready_ns", "started_ns"), 0.0)
    connect = np.where(cold, _ms(rows, "connected_ns", "started_ns"), 0.0)
    handshake = np.where(encrypted, floats(secured_ns - rows["connected_ns"]) / 1e6, 0.0)
    upgrade = np.where(cold, floats(upgrade_ns) / 1e6, 0.0)
    return rows.assign(
        got_tokens=np.nan_to_num(tokens),
        ttft=floats(taken_ns) / 1e6,
        ttft_intended=_ms(rows, "received_ns", "intended_ns"),
        ttft_excess=floats(taken_ns - model_ns) / 1e6,
        ttfb=_ms(rows, "first_byte_ns", "started_ns"),
        connect=np.where(cold, connect, np.nan),
        tls=np.where(encrypted, handshake, np.nan),
        upgrade=np.where(cold & websocket, upgrade, np.nan),
        tpot=np.where(tokens > 1, span / np.maximum(tokens - 1, 1), np.nan),
        max_stall=stall,
        e2e=np.where(complete, _ms(rows, "ended_ns", "started_ns"), np.nan),
        part_wait=_ms(rows, "started_ns", "intended_ns"),
        part_connect=connect,
        part_tls=handshake,
        part_upgrade=upgrade,
        part_send=_ms(rows, "requested_ns", "started_ns") - ready,
        part_takeup=_ms(rows, "taken_up_ns", "requested_ns"),
        part_model=floats(model_ns) / 1e6,
        part_late=_ms(rows, "written_ns", "due_ns"),
        part_delivery=_ms(rows, "received_ns", "written_ns"),
    )


def breakdowns(streams: pd.DataFrame, chunks: pd.DataFrame) -> dict[str, dict[str, float]]:
    """One trial's first token, median gap and gap at p99, each as its mean steps (ms); without what cannot be known.

    Means over the streams or gaps around that percentile of the excess: the middle tenth, or p98.6 to p99.3. Means
    because those of steps add up to that of the whole, which medians do not; around it to stay by the percentile.
    """
    enough = 0.01 * chunks["gap_excess"].notna().sum() >= FEWEST_BEYOND
    found = {
        "first": first_token(streams),
        "gap": _around(chunks, "gap_excess", GAP_STEPS, *_MIDDLE),
        "gap_p99": _around(chunks, "gap_excess", GAP_STEPS, *_NEAR_P99) if enough else None,
    }
    return {whole: steps for whole, steps in found.items() if steps is not None}


def first_token(streams: pd.DataFrame) -> dict[str, float] | None:
    """The first of `breakdowns`, of some streams of one trial."""
    return _around(streams, "ttft_excess", STEPS, *_MIDDLE)


def excess_of(steps: Mapping[str, float]) -> float:
    """The excess (ms) that the steps of a first token or of a gap add up to."""
    return sum(value for key, value in steps.items() if ALL_STEPS[key].excess)


def _around(frame: pd.DataFrame, whole: str, steps: Iterable[str], low: float, high: float) -> dict[str, float] | None:
    """Means of the steps over the rows from `low` to `high` (fractions) by `whole`; None when no row has them all."""
    table = np.column_stack([floats(frame[column]) for column in (whole, *steps)])
    table = table[~np.isnan(table).any(axis=1)]
    if not len(table):
        return None
    first, last = int(np.floor(len(table) * low)), int(np.ceil(len(table) * high - 1e-9))
    near = table[np.argsort(table[:, 0], kind="stable")[first : max(last, first + 1)]]
    return {step: float(mean) for step, mean in zip(steps, near[:, 1:].mean(axis=0), strict=True)}
