"""Every rule with a case just inside and just outside its limit; and what is no fault of the instrument."""

from __future__ import annotations

from typing import Any

import pytest
from synthetic import PHASES, PROFILES

from bench.validity import RULES, Breach, breaches, reasons, seen, strained, voided_too_many

SCENARIO = {"phases": PHASES, "profiles": PROFILES}
S = 1_000_000_000
PHASE: dict[str, Any] = {
    "window_ns": 10 * S, "driver_cpu_ns": S, "server_cpu_ns": 2 * S, "driver_wait_ns": 0, "server_wait_ns": 0,
    "steal_ns": 0, "steal_cores": 2, "clock_raw_ns": 10 * S, "clock_boot_ns": 10 * S, "tokens": 1000,
    "tokens_due": 1000, "work": "aa", "unlogged": 0, "backwards": 0, "write_pace": 1.0, "starts": 200, "starts_late": 0,
    "dropped": 0, "loop_lag_p99_ns": 300_000, "loop_lag_max_ns": 900_000,
}  # fmt: skip


def trial(phases: dict[str, dict[str, Any]] | None = None, *, cpus: tuple[int, ...] = (0,), **changes: Any) -> Any:
    """A trial's facts: ordinary but for what `phases` and `changes` say."""
    died = changes.pop("died", None)
    facts = {
        "arm": "a", "block": 3, "schedule_mismatches": 0, "log_torn": False,
        "server": {"died": died, "settings": {"cpus": list(cpus)}},
        "phases": {name: PHASE | (phases or {}).get(name, {}) for name in PHASES},
    }  # fmt: skip
    return facts | changes


def broken(facts: Any, *siblings: Any) -> list[tuple[str, str]]:
    return [(b.rule, b.phase) for b in breaches(facts, SCENARIO, siblings)]


def test_ordinary_trial_breaks_no_rule_and_every_rule_looked() -> None:
    assert breaches(trial(), SCENARIO, [trial(), trial()]) == []
    # Through a relay a core each cannot be had for server and driver, and without one there is none to be late.
    far = trial(network={"kind": "packets", "late_us": {"p50": 20, "p99": 300, "max": 900}})
    assert breaches(far, SCENARIO, [far]) == []
    rules = {s.rule for facts in (trial(), far) for s in seen(facts, SCENARIO, [trial()])}
    assert rules == {rule.key for rule in RULES}


@pytest.mark.parametrize(
    ("rule", "phase", "inside", "outside"),
    [
        ("driver_cpu", "unpaced", {"driver_cpu_ns": 9 * S}, {"driver_cpu_ns": 9 * S + 1}),
        ("loop_lag", "warm", {"loop_lag_p99_ns": 10_000_000}, {"loop_lag_p99_ns": 10_000_001}),
        ("driver_wait", "warm", {"driver_wait_ns": 176_000_000}, {"driver_wait_ns": 177_000_000}),
        ("server_wait", "unpaced", {"server_wait_ns": 352_000_000}, {"server_wait_ns": 353_000_000}),
        ("steal", "cold", {"steal_ns": 400_000_000}, {"steal_ns": 410_000_000}),
        ("starts_late", "load", {"starts_late": 20}, {"starts_late": 21}),
        ("dropped", "load", {"dropped": 0}, {"dropped": 1}),
        ("unlogged", "cold", {"unlogged": 0}, {"unlogged": 1}),
        ("clock_drift", "cold", {"clock_raw_ns": 10 * S - 10_000_000}, {"clock_raw_ns": 10 * S - 10_001_000}),
        ("clock_drift", "cold", {"clock_raw_ns": 10 * S + 10_000_000}, {"clock_raw_ns": 10 * S + 10_001_000}),
        ("suspended", "cold", {"clock_boot_ns": 10 * S + 1_000_000}, {"clock_boot_ns": 10 * S + 1_100_000}),
        ("backwards", "cold", {"backwards": 0}, {"backwards": 1}),
    ],
)
def test_phase_rules(rule: str, phase: str, inside: dict[str, Any], outside: dict[str, Any]) -> None:
    assert broken(trial({phase: inside})) == []
    assert broken(trial({phase: outside})) == [(rule, phase)]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("schedule", {"schedule_mismatches": 1}),
        ("died", {"died": 0}),
        ("died", {"died": -9}),
        ("log_torn", {"log_torn": True}),
        ("relay_late", {"network": {"kind": "packets", "late_us": {"p50": 20, "p99": 2001, "max": 9000}}}),
    ],
)
def test_trial_rules(rule: str, changes: dict[str, Any]) -> None:
    assert broken(trial(**changes)) == [(rule, "")]


def test_who_shares_a_core_with_a_relay_may_wait() -> None:
    waits = {"driver_wait_ns": 5 * S, "server_wait_ns": 5 * S}
    assert {rule for rule, _ in broken(trial({"warm": waits}))} == {"driver_wait", "server_wait"}
    assert broken(trial({"warm": waits}, network={"kind": "packets", "late_us": None})) == []


def test_work_must_be_that_of_the_other_arms() -> None:
    other = trial({"warm": {"work": "bb"}})
    assert broken(trial(), other) == broken(other, trial()) == [("work", "warm")]
    assert broken(trial({"warm": {"work": ""}}), other) == []  # not fixed by the load
    without = trial()
    del without["phases"]["warm"]
    assert broken(trial(), without) == []


def test_dropped_starts_are_not_called_other_work() -> None:
    over = {"dropped": 3, "work": "bb", "server_cpu_ns": 10 * S}
    assert broken(trial(), trial({"load": over})) == broken(trial({"load": over}), trial()) == []


@pytest.mark.parametrize(
    "behind",
    [{"server_cpu_ns": 8_600_000_000}, {"write_pace": 0.94}, {"tokens": 940}],
    ids=["busy", "slower-than-due", "tokens-missing"],
)
def test_a_slow_server_is_a_result(behind: dict[str, Any]) -> None:
    suffers = {"dropped": 20, "starts_late": 100, "loop_lag_p99_ns": 40_000_000}
    assert {rule for rule, _ in broken(trial({"load": suffers}))} == {"dropped", "starts_late", "loop_lag"}
    assert strained(PHASE | behind)
    assert broken(trial({"load": suffers | behind})) == []
    # What no server can cause is refused all the same.
    at_its_end = suffers | behind | {"driver_cpu_ns": 95 * S // 10, "steal_ns": S}
    assert {rule for rule, _ in broken(trial({"load": at_its_end}))} == {"driver_cpu", "steal"}


@pytest.mark.parametrize("almost", [{"server_cpu_ns": 8_500_000_000}, {"write_pace": 0.95}, {"tokens": 950}, {}])
def test_an_ordinary_server_excuses_nothing(almost: dict[str, Any]) -> None:
    assert not strained(PHASE | almost)
    assert broken(trial({"load": almost | {"dropped": 1}})) == [("dropped", "load")]


@pytest.mark.parametrize(
    ("phase", "changes"),
    [
        ("unpaced", {"loop_lag_p99_ns": 50_000_000}),
        ("ladder", {"loop_lag_p99_ns": 50_000_000}),
        ("warm", {"starts_late": 200}),
        ("cold", {"steal_ns": 20_000_000, "window_ns": 100_000_000, "driver_cpu_ns": 1, "server_cpu_ns": 1}),
        ("cold", {"clock_raw_ns": 50_100_000, "clock_boot_ns": 50_000_000, "window_ns": 50_000_000}),
        ("cold", {"clock_raw_ns": 10 * S + 30_000_000, "clock_boot_ns": 10 * S + 30_000_000}),
    ],
    ids=[
        "lag-unpaced",
        "lag-at-the-end-of-a-ladder",
        "late-in-a-closed-load",
        "two-ticks",
        "clocks-read-one-by-one",
        "put-aside-at-the-edge",
    ],
)
def test_rules_that_do_not_apply(phase: str, changes: dict[str, Any]) -> None:
    clocks = {"clock_raw_ns": -1, "clock_boot_ns": -1} if "window_ns" in changes else {}
    assert broken(trial({phase: {"driver_cpu_ns": 1, "server_cpu_ns": 1} | clocks | changes})) == []


def test_waiting_is_judged_only_with_a_core_each() -> None:
    waits = {"warm": {"driver_wait_ns": 5 * S, "server_wait_ns": 5 * S}}
    assert broken(trial(waits)) == [("driver_wait", "warm"), ("server_wait", "warm")]
    assert broken(trial(waits, cpus=(0, 1))) == []
    assert broken(trial({"warm": waits["warm"] | {"steal_cores": 1}})) == []


def test_what_is_not_known_breaks_no_rule() -> None:
    unknown = dict.fromkeys(PHASE, -1) | {"work": "", "steal_cores": 0}
    assert breaches(trial(dict.fromkeys(PHASES, unknown)), SCENARIO, [trial()]) == []
    old = {"arm": "a", "block": 1, "phases": {name: {"window_ns": S} for name in PHASES}}
    assert breaches(old, SCENARIO, [old]) == []
    assert seen(old, SCENARIO) == []


def test_block_0_is_not_judged() -> None:
    assert breaches(trial({"cold": {"driver_cpu_ns": 10 * S}}, block=0, died=1), SCENARIO) == []


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (trial({"unpaced": {"driver_cpu_ns": 9_320_000_000}}),
         "a, unpaced: driver's share of its core, 93.2 %, where at most 90.0 % is allowed."),
        (trial({"cold": {"backwards": 7}}),
         "a, cold: chunks stamped before they can have been, 7, where none is allowed."),
        (trial({"load": {"dropped": 50}}), "a, load: starts dropped by the driver, 20.0 %, where none is allowed."),
        (trial(died=1), "a: server died."),
        (trial(log_torn=True), "a: server's log torn or missing."),
    ],
)  # fmt: skip
def test_wording(facts: Any, text: str) -> None:
    [breach] = breaches(facts, SCENARIO)
    assert breach.text == text
    assert breach.advice.endswith(".")
    assert (breach.arm, breach.block) == ("a", 3)


def test_reasons_give_the_worst_of_each_rule() -> None:
    found = breaches(trial({"cold": {"backwards": 2}, "warm": {"backwards": 5}}, died=1), SCENARIO)
    clock = next(rule.advice for rule in RULES if rule.key == "backwards")
    assert reasons(found) == [
        "a: server died. Look at what the server wrote last, and at the machine's memory.",
        f"a, warm: chunks stamped before they can have been, 5, where none is allowed. Likewise in 1 more. {clock}",
    ]
    assert reasons([]) == []


def test_clocks_without_one_another() -> None:
    slewed = {"clock_raw_ns": 10 * S + 20_000_000, "clock_boot_ns": -1}
    slept = {"clock_raw_ns": -1, "clock_boot_ns": 10 * S + 20_000_000}
    assert broken(trial({"cold": slewed})) == [("clock_drift", "cold")]
    assert broken(trial({"cold": slept})) == [("suspended", "cold")]
    assert broken(trial({"cold": slewed | {"clock_boot_ns": 10 * S}})) == [("clock_drift", "cold")]
    assert broken(trial({"cold": slept | {"clock_raw_ns": 10 * S}})) == [("suspended", "cold")]


def test_breach_carries_what_was_seen() -> None:
    [breach] = breaches(trial({"load": {"starts_late": 50}}), SCENARIO)
    assert breach == Breach(
        "starts_late", "a", 3, "load", 25.0, 10.0, "%",
        "a, load: starts over 1 ms late, 25.0 %, where at most 10.0 % is allowed.", breach.advice,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("voided", "planned", "too_many"),
    [(1, 1, False), (1, 2, False), (2, 4, True), (2, 8, False), (3, 8, True), (2, 2, True), (0, 10, False)],
)
def test_voided_too_many(voided: int, planned: int, too_many: bool) -> None:
    assert voided_too_many(voided, planned, 0.25) is too_many
    assert not voided_too_many(voided, planned, 1.0)


def test_rules_are_told_apart() -> None:
    assert len({rule.key for rule in RULES}) == len({rule.title for rule in RULES}) == len(RULES)
    assert all(rule.advice and rule.limit >= 0 for rule in RULES)
