"""Whether a trial's figures can be trusted: a faulty instrument is refused, a slow server is a result.

Each rule looks at one thing that the instrument itself, or the machine under it, did wrong. None looks at how well a
server did: what a server that cannot keep up does to the driver, late and dropped starts, bursts of reads, is no fault.
Limits come from some 100 trials on a 2-core virtual machine, quiet and with another process kept busy beside them; each
says what both showed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from servers import emitter

STRAINED_CPU = 0.85
"""Share of its core over a whole window, ramp and drain included, from which a server writes in bursts.

600 paced streams: 0.80 to 0.85 and at most 3 ms of lag in the driver. 1,000: from 0.87, and up to 38 ms, because a
thousand sockets turn readable at once.
"""
BEHIND = 0.95
"""Due span over written span, or tokens received over tokens due, below which a server did not keep to its schedule."""
FEW_TICKS_NS = 20_000_000
"""Steal time is counted in ticks of 10 ms: up to two in a window may be rounding."""
CLOCK_NOISE_NS = 100_000
"""What two clocks may be apart because they are not read in the same instant."""

Facts = Mapping[str, Any]


class Breach(msgspec.Struct, frozen=True):
    """A rule that a trial broke."""

    rule: str
    """A key of `RULES`."""
    arm: str
    block: int
    phase: str
    """Empty when it concerns the whole trial."""
    seen: float
    limit: float
    unit: str
    """Of both; empty for a count."""
    text: str
    """One sentence: where, what was seen, and the limit."""
    advice: str


class Seen(msgspec.Struct, frozen=True):
    """What a rule saw in one phase, or in the whole trial (`phase` empty), whether or not it is within the limit."""

    rule: str
    title: str
    phase: str
    seen: float
    limit: float
    unit: str


class _Place(NamedTuple):
    """What a rule may look at; for a rule about the whole trial `facts` and `load` are empty."""

    trial: Facts
    facts: Facts
    """Of the phase."""
    load: Facts
    """The phase's settings."""
    paced: bool
    siblings: Sequence[Facts]
    """The same phase of the block's other trials."""


class Rule(NamedTuple):
    """One way in which the instrument can fail."""

    key: str
    title: str
    limit: float
    unit: str
    advice: str
    seen: Callable[[_Place], float | None]
    """What is compared with the limit; None where the rule does not apply or the facts do not tell."""
    whole: bool = False
    """Whether it concerns the trial and not a phase."""
    flag: bool = False
    """Whether it is so or not, 1 or 0, with nothing to count."""


def strained(facts: Facts) -> bool:
    """Whether a phase's server was at the end of its strength: then what the driver shows may be the server's doing.

    Wider than `bench.metrics.cautions.over_capacity`, and from facts alone: it only keeps trials from being refused.
    """
    cpu, pace, due = _share(facts, "server_cpu_ns"), _known(facts, "write_pace"), _known(facts, "tokens_due")
    return (
        (cpu is not None and cpu > STRAINED_CPU)
        or (pace is not None and pace < BEHIND)
        or (bool(due) and facts.get("tokens", 0) / due < BEHIND)
    )


def _known(facts: Facts, key: str) -> float | None:
    """A fact, or None when it is missing or -1, unknown."""
    value = facts.get(key)
    return None if value is None or value < 0 else float(value)


def _share(facts: Facts, key: str) -> float | None:
    """A time as a share of the window."""
    time_ns, window_ns = _known(facts, key), _known(facts, "window_ns")
    return time_ns / window_ns if time_ns is not None and window_ns else None


def _pinned(place: _Place) -> bool:
    """Whether server and driver have a core each: the server keeps to one, and it is not the only one in use."""
    if place.trial.get("network", {}).get("kind", "none") != "none":
        return False  # the relay on the way needs a core, too
    cores = place.trial.get("server", {}).get("settings", {}).get("cpus") or ()
    return len(cores) == 1 and place.facts.get("steal_cores", 0) > 1


def _driver_cpu(place: _Place) -> float | None:
    share = _share(place.facts, "driver_cpu_ns")
    return None if share is None else 100 * share


def _lag(place: _Place) -> float | None:
    # A ladder ends at the step that is too much, and its lag is that step's: it belongs to the result. A driver that
    # is itself at its end shows in its CPU time.
    # When a server dies under all its clients, they all notice and ask again at once, which takes the driver its time.
    if not place.paced or place.load.get("load") == "steps" or place.load.get("restart") or strained(place.facts):
        return None
    lag = _known(place.facts, "loop_lag_p99_ns")
    return None if lag is None else lag / 1e6


def _waited(who: str) -> Callable[[_Place], float | None]:
    def seen(place: _Place) -> float | None:
        if who == "server" and place.load.get("restart"):
            return None  # of two processes, one of which waited most while it started
        if who == "server" and place.trial.get("server", {}).get("settings", {}).get("command"):
            return None  # its processes and threads wait for each other, and maybe for what is behind them
        wait, ran = _known(place.facts, f"{who}_wait_ns"), _known(place.facts, f"{who}_cpu_ns")
        return 100 * wait / (wait + ran) if wait is not None and ran and _pinned(place) else None

    return seen


def _stolen(place: _Place) -> float | None:
    steal, cores, window = (_known(place.facts, key) for key in ("steal_ns", "steal_cores", "window_ns"))
    if steal is None or not cores or not window:
        return None
    return 0.0 if steal <= FEW_TICKS_NS else 100 * steal / (cores * window)


def _of_starts(key: str) -> Callable[[_Place], float | None]:
    """Late or dropped starts as a share of those that were to be made; of open loads, where starts have a time."""

    def seen(place: _Place) -> float | None:
        count, starts = _known(place.facts, key), _known(place.facts, "starts")
        if place.load.get("load") != "open" or count is None or starts is None or strained(place.facts):
            return None
        planned = starts + place.facts.get("dropped", 0)
        return 100 * count / planned if planned else None

    return seen


def _other_work(place: _Place) -> float | None:
    phases = [place.facts, *place.siblings]
    mine = place.facts.get("work")
    # Starts that were dropped are missing from the work; whether that is a fault is for the rule about them.
    if not mine or any(phase.get("dropped") for phase in phases):
        return None
    others = [work for phase in place.siblings if (work := phase.get("work"))]
    return float(sum(work != mine for work in others)) if others else None


# The window's own edges are read before and after the three clocks are, and the driver may be put aside in between. So
# what one clock says against the window counts only as far as the other clock says the same.


def _drift(place: _Place) -> float | None:
    raw, boot, window = (_known(place.facts, key) for key in ("clock_raw_ns", "clock_boot_ns", "window_ns"))
    if raw is None or not window:
        return None
    apart = min(abs(raw - other) for other in (window, boot) if other is not None)
    return apart / window * 1e6 if apart > CLOCK_NOISE_NS else 0.0


def _suspended(place: _Place) -> float | None:
    raw, boot, window = (_known(place.facts, key) for key in ("clock_raw_ns", "clock_boot_ns", "window_ns"))
    if boot is None or not window:
        return None
    return max(0.0, min(boot - other for other in (window, raw) if other is not None)) / 1e6


def _count(key: str) -> Callable[[_Place], float | None]:
    return lambda place: _known(place.facts, key)


def _of_trial(key: str) -> Callable[[_Place], float | None]:
    return lambda place: _known(place.trial, key)


def _relay_late(place: _Place) -> float | None:
    late = place.trial.get("network", {}).get("late_us")
    return None if not late else float(late["p99"]) / 1000


def _died(place: _Place) -> float | None:
    server = place.trial.get("server", {})
    return float(server["died"] is not None) if "died" in server else None


_QUIET = "Close what else runs on this machine; `tokenwire doctor` names what would disturb."
_REPORT = "This is a fault of tokenwire, or of the machine's clock: please report it with the trial's file."

RULES: tuple[Rule, ...] = (
    Rule(
        # Quiet: up to 78 %, where nothing is paced. Above this, queues in front of the driver become the figures.
        "driver_cpu", "Driver's share of its core", 90.0, "%",
        "The driver is the bottleneck: use fewer users, a lower rate, or pace the tokens.",
        _driver_cpu,
    ),
    Rule(
        # Quiet: 0.2 to 3.4 ms. Three times the worst of those; a process that shares the core shows in its wait first.
        "loop_lag", "Driver's loop lag at p99", 10.0, "ms",
        _QUIET,
        _lag,
    ),
    Rule(
        # As a share of the time it wanted to run, so that it means the same for a process that is mostly idle.
        # Quiet: up to 8 %. Another process that keeps a core busy: 22 to 54 %.
        "driver_wait", "Driver waited for its core", 15.0, "%",
        _QUIET,
        _waited("driver"),
    ),
    Rule(
        "server_wait", "Server waited for its core", 15.0, "%",
        _QUIET,
        _waited("server"),
    ),
    Rule(
        # Quiet: up to 0.5 %.
        "steal", "Time stolen by the hypervisor", 2.0, "%",
        "Other virtual machines took the cores: run at a quieter time, or on a machine with cores of its own.",
        _stolen,
    ),
    Rule(
        # Quiet: up to 5 % of the starts. Disturbed: 5 to 14 %.
        "starts_late", "Starts over 1 ms late", 10.0, "%",
        _QUIET,
        _of_starts("starts_late"),
    ),
    Rule(
        "dropped", "Starts dropped by the driver", 0.0, "%",
        "The server kept up, so max_open is too low for this rate and length: raise max_open, or lower the rate.",
        _of_starts("dropped"),
    ),
    Rule(
        "work", "Arms with other streams than this one", 0.0, "",
        "Arms must get the same streams. " + _REPORT,
        _other_work,
    ),
    Rule(
        "schedule", "Streams off their schedule", 0.0, "",
        "The server drew other due times than the driver: run both from one installation.",
        _of_trial("schedule_mismatches"), whole=True,
    ),
    Rule(
        # On a machine with other work: 0.1 ms at p99 where the relay may go first, up to 5 ms where it may not.
        "relay_late", "Relay on the network path late at p99", 2.0, "ms",
        _QUIET,
        _relay_late, whole=True,
    ),
    Rule(
        "died", "Server died", 0.0, "",
        "Look at what the server wrote last, and at the machine's memory.",
        _died, whole=True, flag=True,
    ),
    Rule(
        "log_torn", "Server's log torn or missing", 0.0, "",
        "The server was killed or could not write: look at the free disk space and memory.",
        _of_trial("log_torn"), whole=True, flag=True,
    ),
    Rule(
        "unlogged", "Chunks received that the server did not log", 0.0, "",
        "The server's log is incomplete: look at the free disk space.",
        _count("unlogged"),
    ),
    Rule(
        # NTP slews a clock by 500 ppm at most, and steps do not reach CLOCK_MONOTONIC.
        "clock_drift", "Clock slewed", 1000.0, "ppm",
        "The clock is being corrected: wait until time synchronisation has settled.",
        _drift,
    ),
    Rule(
        "suspended", "Machine suspended", 1.0, "ms",
        "Keep the machine awake for as long as a run takes.",
        _suspended,
    ),
    Rule(
        "backwards", "Chunks stamped before they can have been", 0.0, "",
        "Received before written, or written before due. " + _REPORT,
        _count("backwards"),
    ),
)  # fmt: skip
"""Every rule, in the order in which a table shows them."""


def breaches(facts: Facts, scenario: Facts, siblings: Sequence[Facts] = ()) -> list[Breach]:
    """The rules that one trial broke, by its facts.

    `scenario` is that of run.json; `siblings` are the facts of the block's other trials, for the rule that their work
    is the same. Block 0, the machine's ceiling, is not judged; what facts do not tell breaks no rule.
    """
    return [
        Breach(
            rule.key, facts["arm"], facts["block"], phase, value, rule.limit, rule.unit,
            _text(rule, facts["arm"], phase, value), rule.advice,
        )
        for rule, phase, value in _looked_at(facts, scenario, siblings)
        if value > rule.limit
    ]  # fmt: skip


def reasons(found: Iterable[Breach]) -> list[str]:
    """Why a block does not count, for people: a line per rule, with the worst case, how many more, and what to do."""
    by_rule: dict[str, list[Breach]] = {}
    for breach in found:
        by_rule.setdefault(breach.rule, []).append(breach)
    lines = []
    for some in by_rule.values():
        worst = max(some, key=lambda breach: breach.seen)
        more = f" Likewise in {len(some) - 1} more." if len(some) > 1 else ""
        lines.append(f"{worst.text}{more} {worst.advice}")
    return lines


def seen(facts: Facts, scenario: Facts, siblings: Sequence[Facts] = ()) -> list[Seen]:
    """What every rule that applies saw in every phase of a trial, also where all is well."""
    return [
        Seen(rule.key, rule.title, phase, value, rule.limit, rule.unit)
        for rule, phase, value in _looked_at(facts, scenario, siblings)
    ]


def voided_too_many(voided: int, planned: int, share: float) -> bool:
    """Whether so many blocks were void that this machine cannot carry the run: over this share of those planned.

    One void block is bad luck, whatever the plan.
    """
    return voided > max(1.0, planned * share)


def shown(value: float, unit: str) -> str:
    """A value or a limit of a rule with its unit, for people; counts have none."""
    return f"{value:.1f} {unit}" if unit else f"{value:.0f}"


def _text(rule: Rule, arm: str, phase: str, value: float) -> str:
    where = f"{arm}, {phase}" if phase else arm
    title = rule.title[0].lower() + rule.title[1:]
    if rule.flag:
        return f"{where}: {title}."
    allowed = f"at most {shown(rule.limit, rule.unit)}" if rule.limit else "none"
    return f"{where}: {title}, {shown(value, rule.unit)}, where {allowed} is allowed."


def paced(scenario: Facts, phase: str) -> bool:
    """Whether any token of a phase has a delay; without, there is no due time to be early or late against.

    The very tables that delays are drawn from say it: a delay below a microsecond is none, one in lockstep is a step.
    """
    profile = msgspec.convert(scenario["profiles"][scenario["phases"][phase]["profile"]], emitter.Profile)
    tables = emitter.prepare(profile)
    return max(tables.first) > 0 or max(tables.gap) > 0


def _looked_at(facts: Facts, scenario: Facts, siblings: Sequence[Facts]) -> list[tuple[Rule, str, float]]:
    if facts["block"] == 0:
        return []
    trial = _Place(facts, {}, {}, False, ())
    phases = {
        name: _Place(
            facts,
            phase,
            scenario["phases"][name],
            paced(scenario, name),
            [other["phases"][name] for other in siblings if name in other["phases"]],
        )
        for name, phase in facts["phases"].items()
    }
    return [
        (rule, name, value)
        for rule in RULES
        for name, place in ({"": trial} if rule.whole else phases).items()
        if (value := rule.seen(place)) is not None
    ]
