"""What the master knows of its workers: who is there, what they sent, who is missing, and what is missing with them.

Pure: told what happens, with the master's own monotonic clock. Clocks of workers never meet: they send durations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from bench.swarm.taken import Counts

FORMAT = 1
"""Of a worker's report."""

State = Literal["there", "lost", "left"]


class ProtocolReport(msgspec.Struct, frozen=True):
    """What `bench.swarm.taken.Taken.report` gave."""

    seq: int
    open: int
    counts: Counts
    outcomes: dict[str, int]
    reasons: dict[str, int]
    histograms: dict[str, dict[str, Any]]
    """By measure, as `Histogram.decode` takes them."""


class WorkerReport(msgspec.Struct, frozen=True):
    """What a worker says of itself and its streams since the test began, or its figures were cleared."""

    format: int
    worker: str
    host: str
    seq: int
    elapsed_ns: int
    """Since the test's start, by this worker's own clock."""
    final: bool
    """No more comes after this."""
    users: int
    cpu_share: float
    """CPU time over the time in which it was used, 1 being one core; below 0 where it is not known."""
    cpu_ns: int
    loop_lag_p99_ns: int
    loop_lag_max_ns: int
    """Both below 0 where not known."""
    protocols: dict[str, ProtocolReport]
    fault: str = ""
    """What its machine could not do."""


class WorkerSeen(msgspec.Struct, frozen=True):
    """A worker as it stands. What comes from its report is 0, or None, before the first."""

    name: str
    host: str
    state: State
    joined_s: float
    """After the test's start; 0 where it was there before."""
    gone_s: float | None
    """After the test's start, for who is lost or left."""
    report_age_s: float | None
    """How long ago the last report came, or how long before it was gone."""
    final: bool
    users: int = 0
    open: int = 0
    ended: int = 0
    starts: int = 0
    """First attempts that ended, and starts that were dropped."""
    late: int = 0
    dropped: int = 0
    cpu_share: float | None = None
    loop_lag_p99_ms: float | None = None
    loop_lag_max_ms: float | None = None
    fault: str = ""


def read_report(report: Mapping[str, Any]) -> WorkerReport:
    """A report as it came. Raises `ValueError` with a line for people."""
    name = report.get("worker", "?")
    if report.get("format") != FORMAT:
        raise ValueError(
            f"worker {name}: its reports have format {report.get('format')}, and this master reads {FORMAT}; run the "
            "same version of tokenwire everywhere"
        )
    try:
        return msgspec.convert(report, WorkerReport)
    except msgspec.ValidationError as error:
        raise ValueError(f"worker {name}: its report cannot be read: {error}") from error


class _Worker:
    """One worker, as far as its master knows."""

    def __init__(self, name: str, now_ns: int) -> None:
        self.name = name
        self.state: State = "there"
        self.joined_ns = now_ns
        self.gone_ns: int | None = None
        self.reported_ns = 0
        self.report: WorkerReport | None = None
        self.all_users = 0
        """Of all workers that were there at its last report."""

    @property
    def open(self) -> int:
        return sum(one.open for one in self.report.protocols.values()) if self.report else 0

    def age_s(self, now_ns: int) -> float | None:
        """Of the last report: now, or when the worker was gone; one that came later than that has none."""
        until_ns = now_ns if self.gone_ns is None else self.gone_ns
        return max(0, until_ns - self.reported_ns) / 1e9 if self.report else None


class Workers:
    """The workers of one test at a time. Call `started` when a test starts."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._start_ns: int | None = None
        self._came_back: list[str] = []

    def started(self, now_ns: int) -> None:
        """A test starts: what was reported of the one before, and who has gone, is forgotten."""
        self._start_ns = now_ns
        self._came_back.clear()
        self._workers = {name: _Worker(name, w.joined_ns) for name, w in self._workers.items() if w.state == "there"}

    def joined(self, name: str, now_ns: int) -> None:
        """A worker is there, for the first time or again."""
        worker = self._workers.get(name)
        if worker is None:
            self._workers[name] = _Worker(name, now_ns)
        elif worker.state != "there":
            gone, back = self._at(worker.gone_ns or now_ns), self._at(now_ns)
            self._came_back.append(
                f"worker {name} was {'missed' if worker.state == 'lost' else 'gone'} after {gone:.1f} s and came back "
                f"after {back:.1f} s: the load was another meanwhile"
            )
            worker.state, worker.gone_ns = "there", None

    def reported(self, name: str, report: WorkerReport, now_ns: int) -> None:
        """A report came. Reports are cumulative: of all that come, however often and in whatever order, one counts.

        That is the one with the highest `seq`. Also from a worker that is already thought lost, which it stays.
        """
        worker = self._workers.setdefault(name, _Worker(name, now_ns))
        if worker.report is None or report.seq > worker.report.seq:
            worker.report, worker.reported_ns = report, now_ns

    def lost(self, name: str, now_ns: int) -> None:
        """A worker is not heard of any more."""
        self._go(name, now_ns, "lost")

    def left(self, name: str, now_ns: int) -> None:
        """A worker left in good order."""
        self._go(name, now_ns, "left")

    def _go(self, name: str, now_ns: int, state: State) -> None:
        worker = self._workers.get(name)
        if worker is None or worker.state != "there":
            return
        worker.state, worker.gone_ns = state, now_ns
        # Who has gone since then was there then: two that are lost at once are each a part of the same whole.
        worker.all_users = sum(
            other.report.users
            for other in self._workers.values()
            if other.report and (other.gone_ns is None or other.gone_ns >= worker.reported_ns)
        )

    @property
    def reports(self) -> dict[str, WorkerReport]:
        """The newest report of every worker that sent one, also of those that are gone."""
        return {name: worker.report for name, worker in self._workers.items() if worker.report}

    def seen(self, now_ns: int) -> list[WorkerSeen]:
        """Every worker, in the order in which they came."""
        return [self._seen(worker, now_ns) for worker in self._workers.values()]

    def missing(self, *, over: bool = False) -> list[str]:
        """What is in no figure, or was not as planned, a line for each worker that this is so of.

        While a test runs that can be said of those that are or were gone; when it is `over`, of all.
        """
        some = [w for w in self._workers.values() if over or w.state != "there"]
        return [text for worker in some if (text := self._missing(worker))] + self._came_back

    def remarks(self) -> list[str]:
        """Who came when the test was under way."""
        late = [w for w in self._workers.values() if self._at(w.joined_ns) > 0]
        return [f"worker {w.name} joined after {self._at(w.joined_ns):.1f} s" for w in late]

    def _at(self, ns: int) -> float:
        """Seconds after the test's start; 0 before."""
        return 0.0 if self._start_ns is None else max(0, ns - self._start_ns) / 1e9

    def _missing(self, worker: _Worker) -> str:
        report, open_ = worker.report, worker.open
        gone_s = None if worker.gone_ns is None else self._at(worker.gone_ns)
        who = f"worker {worker.name}" + ("" if gone_s is None else f" {worker.state} after {gone_s:.1f} s")
        if report is None:
            return f"{who}: it had sent no report; nothing that it did is in any figure"
        streams = f"{open_} {'stream was' if open_ == 1 else 'streams were'} open at its last report"
        if report.final:
            return f"{who}: {streams}; what became of them is in no figure" if open_ else ""
        if gone_s is None:
            return f"{who} sent no final report: {streams}; what it took up after that is in no figure"
        verb = "was missed" if worker.state == "lost" else "left"
        text = f"{who}: {streams}, {worker.age_s(0):.1f} s before it {verb}; what it took up after that is in no figure"
        share = f" ({100 * report.users / worker.all_users:.0f} %)" if worker.all_users else ""
        return f"{text}; it had {report.users} of {worker.all_users} users{share}"

    def _seen(self, worker: _Worker, now_ns: int) -> WorkerSeen:
        base = WorkerSeen(
            name=worker.name, host="", state=worker.state, joined_s=self._at(worker.joined_ns),
            gone_s=None if worker.gone_ns is None else self._at(worker.gone_ns),
            report_age_s=worker.age_s(now_ns), final=False,
        )  # fmt: skip
        report = worker.report
        if report is None:
            return base
        counts = [one.counts for one in report.protocols.values()]
        dropped = sum(c.dropped for c in counts)
        return msgspec.structs.replace(
            base, host=report.host, fault=report.fault, final=report.final, users=report.users, open=worker.open,
            dropped=dropped,
            ended=sum(c.ended for c in counts), starts=sum(c.ended - c.retried for c in counts) + dropped,
            late=sum(c.late for c in counts),
            cpu_share=report.cpu_share if report.cpu_share >= 0 else None,
            loop_lag_p99_ms=report.loop_lag_p99_ns / 1e6 if report.loop_lag_p99_ns >= 0 else None,
            loop_lag_max_ms=report.loop_lag_max_ns / 1e6 if report.loop_lag_max_ns >= 0 else None,
        )  # fmt: skip
