"""The master's figures: the newest reports of all workers, added up. Pure; no clock but what the reports tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench import measures
from bench.measures import FEWEST_BEYOND
from bench.swarm.histogram import Histogram
from bench.swarm.taken import Counts
from bench.swarm.workers import WorkerReport, Workers, WorkerSeen

PROTOCOLS = {"sse": "SSE", "websocket": "WS"}
CURVE = (0, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
"""Percentiles of a row's curve, as far as there are samples beyond."""


class Measure(NamedTuple):
    """What a row is about."""

    title: str
    meaning: str


def _known(key: str, title: str = "") -> Measure:
    known = measures.MEASURES[key]
    return Measure(title or known.title, known.meaning)


_EXCESS = (
    "time to first token less the model's own delay (due offset of the first token after the server takes the request "
    "up); first attempts only"
)
_TTFT = measures.MEASURES["ttft"].meaning
MEASURES: dict[str, Measure] = {
    "ttft_excess_cold": Measure("First token, excess, cold", _EXCESS),
    "ttft_excess_warm": Measure("First token, excess, warm", _EXCESS),
    "gap_excess": _known("gap_excess"),
    "ttft_cold": Measure("First token, cold", _TTFT),
    "ttft_warm": Measure("First token, warm", _TTFT),
    "icl": _known("icl"),
    "stream": _known("e2e"),
    "connect": _known("connect"),
    "tls": _known("tls"),
    "late": Measure("Start after its time", "clock start less the time at which the attempt should have started"),
}
"""In the order in which they are shown; all in ms. They mean what they mean in every other report."""


class Row(msgspec.Struct, frozen=True):
    """One measure of one protocol, over the samples of all workers. Durations in ms, with all digits there are.

    None stands for a percentile beyond which there are too few samples (`bench.measures.FEWEST_BEYOND`).
    """

    protocol: str
    measure: str
    count: int
    clamped: int
    """How many of those are longer than an hour, and count as an hour."""
    mean_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p99_9_ms: float | None
    max_ms: float
    curve: list[tuple[float, float]]
    """Percentile and value, of `CURVE`."""


class Tally(msgspec.Struct, frozen=True):
    """The counts of one protocol over all workers."""

    protocol: str
    open: int
    """At each worker's last report."""
    counts: Counts
    outcomes: dict[str, int]
    reasons: dict[str, int]


class Figures(msgspec.Struct, frozen=True):
    """What all workers together have measured so far, and what of it is missing."""

    elapsed_s: float
    """Since the test's start, of the worker that says most."""
    rows: list[Row]
    tallies: list[Tally]
    workers: list[WorkerSeen]
    missing: list[str]
    """What is in no figure, or was not as planned: `Workers.missing`."""
    remarks: list[str]

    @classmethod
    def of(
        cls,
        reports: Mapping[str, WorkerReport],
        workers: Sequence[WorkerSeen] = (),
        missing: Sequence[str] = (),
        remarks: Sequence[str] = (),
    ) -> Figures:
        """Add up the newest report of every worker. Raises `ValueError` for a histogram that cannot be read."""
        found = {protocol for report in reports.values() for protocol in report.protocols}
        protocols = sorted(found, key=lambda key: (list(PROTOCOLS).index(key) if key in PROTOCOLS else 9, key))
        rows = [row for protocol in protocols for row in _rows(protocol, reports)]
        tallies = [_tally(protocol, reports.values()) for protocol in protocols]
        return cls(
            elapsed_s=max((report.elapsed_ns for report in reports.values()), default=0) / 1e9,
            rows=rows,
            tallies=tallies,
            workers=list(workers),
            missing=list(missing),
            remarks=[*remarks, *_remarks(rows, tallies)],
        )

    @classmethod
    def now(cls, workers: Workers, now_ns: int, *, over: bool = False) -> Figures:
        """The same of all that the master knows; `over` when the test is over and no further report is to come."""
        return cls.of(workers.reports, workers.seen(now_ns), workers.missing(over=over), workers.remarks())

    def row(self, protocol: str, measure: str) -> Row | None:
        """A row, if there is one."""
        return next((row for row in self.rows if (row.protocol, row.measure) == (protocol, measure)), None)


def title_of(protocol: str) -> str:
    """A protocol as it is shown."""
    return PROTOCOLS.get(protocol, protocol)


def merged(protocol: str, measure: str, reports: Iterable[WorkerReport]) -> Histogram:
    """One measure of one protocol, of all workers. Raises `ValueError` with the worker that cannot be read."""
    whole = Histogram()
    for report in reports:
        encoded = report.protocols[protocol].histograms.get(measure) if protocol in report.protocols else None
        if encoded is not None:
            try:
                whole.merge(Histogram.decode(encoded))
            except ValueError as error:
                raise ValueError(f"worker {report.worker}: {protocol}, {measure}: {error}") from error
    return whole


def _rows(protocol: str, reports: Mapping[str, WorkerReport]) -> list[Row]:
    wholes = {measure: merged(protocol, measure, reports.values()) for measure in MEASURES}
    return [_row(protocol, measure, whole) for measure, whole in wholes.items() if whole.total]


def _row(protocol: str, measure: str, whole: Histogram) -> Row:
    # The median always, another only with samples beyond it: as in every other report.
    some = [p for p in CURVE if p in (0, 50) or min(p, 100 - p) / 100 * whole.total >= FEWEST_BEYOND - 1e-9]
    curve = {
        float(p): value for p, us in zip(some, whole.percentiles(some), strict=True) if (value := _ms(us)) is not None
    }
    return Row(
        protocol=protocol, measure=measure, count=whole.total, clamped=whole.clamped,
        mean_ms=_ms(whole.mean_us) or 0.0, min_ms=_ms(whole.min_us) or 0.0, max_ms=_ms(whole.max_us) or 0.0,
        p50_ms=curve[50], p90_ms=curve.get(90), p99_ms=curve.get(99), p99_9_ms=curve.get(99.9),
        curve=list(curve.items()),
    )  # fmt: skip


def _ms(us: float | None) -> float | None:
    """Milliseconds to the nanosecond, which no clock here is better than."""
    return None if us is None else round(us / 1000, 6)


def _tally(protocol: str, reports: Iterable[WorkerReport]) -> Tally:
    parts = [report.protocols[protocol] for report in reports if protocol in report.protocols]
    total = {name: sum(getattr(part.counts, name) for part in parts) for name in Counts.__struct_fields__}
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for part in parts:
        outcomes.update(part.outcomes)
        reasons.update(part.reasons)
    return Tally(
        protocol,
        sum(part.open for part in parts),
        Counts(**total),
        dict(outcomes.most_common()),
        dict(reasons.most_common()),
    )


def _remarks(rows: Iterable[Row], tallies: Iterable[Tally]) -> list[str]:
    """What a reader of the figures must know besides what is missing."""
    found = []
    for row in rows:
        if row.clamped:
            values = f"{row.clamped} value{'s' if row.clamped > 1 else ''} beyond an hour"
            what = f"{title_of(row.protocol)}, {MEASURES[row.measure].title}"
            found.append(f"{what}: {values} count{'' if row.clamped > 1 else 's'} as an hour")
    for tally in tallies:
        title, carried, misfits = title_of(tally.protocol), tally.counts.carried, tally.counts.misfits
        if carried:
            many = f"{carried} streams were" if carried > 1 else "1 stream was"
            ends = "each counts" if carried > 1 else "it counts"
            found.append(f"{title}: {many} open when the figures were cleared; {ends} when it ends")
        if misfits:
            many, whose = (f"{misfits} streams", "their") if misfits > 1 else ("1 stream", "its")
            found.append(f"{title}: {many} had other chunks than {whose} schedule; {whose} excess is not known")
    return found
