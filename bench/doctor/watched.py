"""What a second of watching says: other work on the cores, clocks, and how late a process is woken."""

from __future__ import annotations

from bench.doctor.finding import UNREADABLE, Check, Seen, Status, ok
from bench.doctor.sampling import Sample

UNMEASURED = Seen(Status.UNKNOWN, "not measured: its process failed")
BUSY, TOO_BUSY = 0.2, 0.5
"""Cores that others use. A trial needs two to itself; half of one taken from it is half of what it measures."""
STEAL, TOO_MUCH_STEAL = 1.0, 5.0
"""Per cent of the time of the usable cores."""
STAMP_NS = 200
LATE_NS, TOO_LATE_NS = 1_000_000, 5_000_000
"""A driver counts a start as late from the first of these. From the second, a p99 of gaps is mostly the machine's."""
DRIFT_PPM = 100
"""Usual crystals are within this; NTP that catches up goes to 500 (adjtimex(2))."""


def _ticks(sample: Sample) -> list[tuple[int, int, int]]:
    """Per usable core what passed between both readings of /proc/stat, in ticks: (busy, stolen, all)."""
    before, after = ({} if text is None else _cores(text) for text in sample.stat)
    passed = []
    for core in sample.cores:
        if core in before and core in after:
            change = [max(0, late - early) for early, late in zip(before[core], after[core], strict=False)]
            user, nice, system, _idle, _wait, interrupts, soft, stolen = change[:8]
            if sum(change[:8]):
                passed.append((user + nice + system + interrupts + soft, stolen, sum(change[:8])))
    return passed


def _cores(stat: str) -> dict[int, list[int]]:
    """The counters of each core, from user to guest time (proc_stat(5))."""
    found = {}
    for line in stat.splitlines():
        name, *counters = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and len(counters) >= 8:
            found[int(name[3:])] = [int(counter) for counter in counters]
    return found


def _in_use(sample: Sample) -> Seen:
    ticks = _ticks(sample)
    # What ran for less than the second shows in the ticks of the cores, and not among the processes.
    used = sum(busy / total for busy, _, total in ticks) if ticks else sum(sample.others.values()) / sample.seconds
    if ticks:
        used = max(0.0, used - sample.own_cpu_s / sample.seconds)
    if not ticks and not sample.others:
        return UNREADABLE
    seen = f"{used:.2f} of {len(sample.cores)} cores"
    if used < BUSY:
        return ok(seen)
    name, spent_s = max(sample.others.items(), key=lambda item: item[1], default=("", 0.0))
    who = f" Most of it by {name}." if spent_s / sample.seconds > used / 2 else ""
    crowded = used >= TOO_BUSY and len(sample.cores) - used < 2
    advice = f"Other processes take time from server and driver.{who} Stop them, or wait until they have ended:"
    return Seen(Status.PROBLEM if crowded else Status.ADVICE, seen, advice, "top -o %CPU")


def _steal(sample: Sample) -> Seen:
    ticks = _ticks(sample)
    if not ticks:
        return UNREADABLE
    share = 100 * sum(stolen for _, stolen, _ in ticks) / sum(total for _, _, total in ticks)
    seen = f"{share:.1f} %"
    if share <= STEAL:
        return ok(seen)
    advice = "The host gives this virtual machine's cores to others. Use one with cores of its own, or another hour."
    return Seen(Status.PROBLEM if share > TOO_MUCH_STEAL else Status.ADVICE, seen, advice)


def _stamp(sample: Sample) -> Seen:
    seen = f"{sample.call_ns:.0f} ns"
    if sample.call_ns <= STAMP_NS:
        return ok(seen)
    return Seen(Status.ADVICE, seen, "Every stamp costs this much on every arm; see the clock source.")


def _drift(sample: Sample) -> Seen:
    if sample.raw_ns is None or not sample.raw_ns:
        return UNREADABLE
    ppm = (sample.monotonic_ns / sample.raw_ns - 1) * 1e6
    seen = f"{ppm:+.0f} ppm"
    if abs(ppm) <= DRIFT_PPM:
        return ok(seen)
    advice = "The clock is being set right, and every duration is off by this. Wait until it is done:"
    return Seen(Status.ADVICE, seen, advice, "chronyc tracking")


def _late(seen: str, p99_ns: int) -> Seen:
    if p99_ns <= LATE_NS:
        return ok(seen)
    advice = (
        "With nothing to do, a process already runs this late. Stop other work; on a virtual machine, use one with "
        "cores of its own."
    )
    return Seen(Status.PROBLEM if p99_ns > TOO_LATE_NS else Status.ADVICE, seen, advice)


def _wake(sample: Sample) -> Seen:
    wakes = sample.wakes
    if wakes is None:
        return UNMEASURED
    return _late(f"p50 {wakes.wake_p50_ns / 1e6:.2f}, p99 {wakes.wake_p99_ns / 1e6:.2f} ms", wakes.wake_p99_ns)


def _lag(sample: Sample) -> Seen:
    wakes = sample.wakes
    if wakes is None:
        return UNMEASURED
    return _late(f"p99 {wakes.lag_p99_ns / 1e6:.2f}, max {wakes.lag_max_ns / 1e6:.2f} ms", wakes.lag_p99_ns)


CHECKS: tuple[Check[Sample], ...] = (
    Check("CPU in use now", f"under {BUSY:g} cores", _in_use),
    Check("steal time", f"{STEAL:g} % or less", _steal),
    Check("wake-up, late by", f"p99 {LATE_NS / 1e6:g} ms or less", _wake),
    Check("event loop lag", f"p99 {LATE_NS / 1e6:g} ms or less", _lag),
    Check("cost of a stamp", f"{STAMP_NS} ns or less", _stamp),
    Check("clock adjustment", f"{DRIFT_PPM} ppm or less", _drift),
)
