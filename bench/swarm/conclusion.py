"""Whether the figures can be trusted, as a state and an exit code: a faulty instrument comes before a lost worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from bench.swarm.figures import Figures
from bench.swarm.workers import WorkerSeen
from bench.validity import RULES, shown

CODES = {"fine": 0, "invalid": 3, "degraded": 5}
_RULES = {rule.key: rule for rule in RULES}


class Conclusion(msgspec.Struct, frozen=True):
    """What the figures are worth."""

    state: Literal["fine", "invalid", "degraded"]
    """`invalid`: an instrument was at fault; `degraded`: a worker was lost, and the figures are of the others."""
    code: int
    """Exit code, of `CODES`."""
    reasons: list[str]
    """A line each, those of an invalid run first."""


def conclude(figures: Figures, *, open_loop: bool) -> Conclusion:
    """Judge every worker by the limits of `bench.validity`, also those that were lost, by their last report.

    Starts have times of their own only where the load is an `open_loop`; elsewhere none can be late or dropped.
    """
    faults = [text for worker in figures.workers for text in _faults(worker, open_loop)]
    state: Literal["fine", "invalid", "degraded"] = "invalid" if faults else "degraded" if figures.missing else "fine"
    return Conclusion(state, CODES[state], faults + figures.missing)


def _faults(worker: WorkerSeen, open_loop: bool) -> Iterator[str]:
    if worker.fault:
        yield f"worker {worker.name}: {worker.fault}"
    seen: dict[str, float | None] = {
        "driver_cpu": None if worker.cpu_share is None else 100 * worker.cpu_share,
        "loop_lag": worker.loop_lag_p99_ms,
    }
    if open_loop and worker.starts:
        seen["starts_late"] = 100 * worker.late / worker.starts
        seen["dropped"] = 100 * worker.dropped / worker.starts
    for key, value in seen.items():
        rule = _RULES[key]
        if value is not None and value > rule.limit:
            title = rule.title[0].lower() + rule.title[1:]
            allowed = f"at most {shown(rule.limit, rule.unit)}" if rule.limit else "none"
            advice = _ADVICE.get(key, rule.advice)
            yield f"worker {worker.name}: {title}, {shown(value, rule.unit)}, where {allowed} is allowed. {advice}"


_ADVICE = {
    "driver_cpu": "This worker is the bottleneck: use more workers, fewer users or a lower rate, or pace the tokens.",
    "loop_lag": "Close what else runs on its machine, or use more workers.",
    "dropped": "All users were busy: have more users, or a lower rate.",
    "starts_late": "Close what else runs on its machine, or use more workers.",
}
"""What helps where there can be several workers; else what the rule says."""
