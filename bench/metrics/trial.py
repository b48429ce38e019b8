"""One trial's records as two frames: a row per stream and a row per content chunk, with every measure as a column."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]

PARTS: dict[str, str] = {
    "part_connect": "connect",
    "part_upgrade": "upgrade",
    "part_send": "until the request is written",
    "part_takeup": "request to handler",
    "part_late": "first token written late",
    "part_delivery": "delivery",
}
"""What `ttft_excess` is made of, in order of time; the parts of a stream add up to it exactly."""


def floats(values: pd.Series[Any]) -> Floats:
    """Numbers with NaN where the record has none, whatever kind of column they came in."""
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _ms(frame: pd.DataFrame, later: str, earlier: str) -> Floats:
    """`later` less `earlier` in ms; subtracted as they are recorded, so that large clocks lose no digits."""
    return floats(frame[later] - frame[earlier]) / 1e6


def chunks_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per content chunk of the window, in order, with `icl`, `gap_excess`, `lateness`, `delivery` (ms).

    The two gaps are NaN for a stream's first chunk and after a chunk that is missing: they are between neighbours only.
    """
    rows = frame[frame["window"].astype(bool) & frame["chunk"].notna() & frame["received_ns"].notna()]
    rows = rows.sort_values(["stream", "chunk"], kind="stable").drop_duplicates(["stream", "chunk"])
    rows = rows.reset_index(drop=True)
    stream, chunk = rows["stream"].to_numpy(), floats(rows["chunk"])
    neighbours = np.zeros(len(rows), dtype=bool)
    neighbours[1:] = (stream[1:] == stream[:-1]) & (chunk[1:] == chunk[:-1] + 1)
    gap_ns = rows["received_ns"].diff()
    icl = np.where(neighbours, floats(gap_ns) / 1e6, np.nan)
    gap_excess = np.where(neighbours, floats(gap_ns - rows["due_ns"].diff()) / 1e6, np.nan)
    return rows.assign(
        icl=icl,
        gap_excess=gap_excess,
        lateness=_ms(rows, "written_ns", "due_ns"),
        delivery=_ms(rows, "received_ns", "written_ns"),
    )


def streams_of(frame: pd.DataFrame, chunks: pd.DataFrame, *, websocket: bool) -> pd.DataFrame:
    """A row per stream of the window, with the measures of a stream and the parts of `ttft_excess` (all ms).

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
    ready = np.where(cold, _ms(rows, "ready_ns", "started_ns"), 0.0)
    upgrade = np.where(cold, _ms(rows, "ready_ns", "connected_ns"), 0.0)
    return rows.assign(
        got_tokens=np.nan_to_num(tokens),
        ttft=floats(taken_ns) / 1e6,
        ttft_intended=_ms(rows, "received_ns", "intended_ns"),
        ttft_excess=floats(taken_ns - model_ns) / 1e6,
        ttfb=_ms(rows, "first_byte_ns", "started_ns"),
        connect=np.where(cold, _ms(rows, "connected_ns", "started_ns"), np.nan),
        upgrade=np.where(cold & websocket, upgrade, np.nan),
        tpot=np.where(tokens > 1, span / np.maximum(tokens - 1, 1), np.nan),
        max_stall=stall,
        e2e=np.where(complete, _ms(rows, "ended_ns", "started_ns"), np.nan),
        part_connect=np.where(cold, ready - upgrade, 0.0),
        part_upgrade=upgrade,
        part_send=_ms(rows, "requested_ns", "started_ns") - ready,
        part_takeup=_ms(rows, "taken_up_ns", "requested_ns"),
        part_late=_ms(rows, "written_ns", "due_ns"),
        part_delivery=_ms(rows, "received_ns", "written_ns"),
    )


def middle(streams: pd.DataFrame) -> dict[str, float] | None:
    """The parts of `ttft_excess` (ms), averaged over the middle tenth of the streams by that measure.

    A mean, because means of parts add up to the mean of the whole, which medians do not; of the middle tenth, so that
    it stays by the median. None when no stream has all its parts.
    """
    whole = streams.dropna(subset=["ttft_excess", *PARTS]).sort_values("ttft_excess")
    if whole.empty:
        return None
    n = len(whole)
    low, high = int(np.floor(n * 0.45)), int(np.ceil(n * 0.55))
    means = whole.iloc[low : max(high, low + 1)][list(PARTS)].mean()
    return {part: float(cast(float, means[part])) for part in PARTS}
