"""What was run, in words: phases, profiles, arms and settings, from what the run says of itself."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bench.metrics import Arm, Phase, Summary
from bench.report.numbers import count, listed

_MODES = {
    "equal": "equal settings on every arm",
    "as-deployed": "each library with its own default settings",
}


def library(arm: Arm) -> str:
    """`SSE on aiohttp 3.14.1`."""
    version = arm.server_versions.get(arm.stack)
    return arm.label.replace(f"on {arm.stack}", f"on {arm.stack} {version}") if version else arm.label


def what_was_run(summary: Summary) -> str:
    """One line: scenario, mode, arms, trials, machine, date."""
    arms = listed([library(a) for a in summary.arms])
    machine = summary.machine
    trials = count(summary.trials_finished, "trial")
    if summary.trials_finished < summary.trials_planned:
        trials = f"{summary.trials_finished} of {summary.trials_planned} trials"
    blocks = count(summary.blocks_planned, "block")
    return (
        f"Scenario {summary.scenario}, mode {summary.mode} ({_MODES.get(summary.mode, summary.mode)}): {arms}, "
        f"all over HTTP/1.1, {encryption(summary)}, {network(summary)}, {driven(summary)}; "
        f"{trials} in {blocks} of random order; "
        f"{machine.get('cpu', 'unknown CPU')}, {machine.get('cores', '?')} cores; {_date(summary.created)}."
    )


def network(summary: Summary) -> str:
    """What lay between driver and servers: `on loopback`, or the network by name, and how it was made."""
    kind, name = summary.network.get("kind", "none"), summary.network.get("name", "loopback")
    if kind == "none":
        return "on loopback"
    settings = summary.network.get("network", {})
    delay = f" ({settings['rtt_ms']:g} ms round trip)" if "rtt_ms" in settings else ""
    how = "delayed packet by packet" if kind == "packets" else "NETWORK MODELLED ON STREAMS, NOT PACKETS"
    return f"over network {name}{delay}, {how}"


def encryption(summary: Summary) -> str:
    """Which arms spoke TLS, as their servers say: `without TLS`, `over TLS 1.2 or newer`, or the arms that did."""
    known = [arm for arm in summary.arms if arm.server_settings]
    over = [arm for arm in known if arm.server_settings.get("tls")]
    least = listed(sorted({str(arm.server_settings["tls"].get("minimum", "")) for arm in over} - {""}))
    name = f"TLS {least} or newer" if least else "TLS"
    if not over:
        return "without TLS"
    return f"over {name}" if len(over) == len(known) else f"over {name} with {listed([arm.label for arm in over])}"


def driven(summary: Summary) -> str:
    """What made the load: `load by asyncio`, or which arms had theirs by what."""
    by: dict[str, list[str]] = {}
    for arm in summary.arms:
        if "loop" in arm.driver:
            name = f"Locust {arm.driver['versions']['locust']}" if "locust" in arm.driver["versions"] else "asyncio"
            by.setdefault(name, []).append(arm.label)
    if len(by) == 1:
        return f"load by {next(iter(by))}"
    return "load by " + ", and ".join(f"{name} on {listed(arms)}" for name, arms in by.items())


def _date(created: str) -> str:
    day = datetime.fromisoformat(created)
    return f"{day.day} {day:%B %Y}"


def delay(settings: dict[str, Any] | None) -> str:
    """`lognormal, median 18 ms, sigma 0.5`."""
    if not settings:
        return "not given"
    kind = settings.get("dist", "?")
    if kind == "constant":
        return f"{settings['ms']:g} ms each" if settings["ms"] else "none"
    parts = []
    for key, value in settings.items():
        if key == "dist":
            continue
        name, unit = (key.removesuffix("_ms"), " ms") if key.endswith("_ms") else (key, "")
        parts.append(f"{name} {value:g}{unit}" if isinstance(value, int | float) else f"{name} {value}")
    return ", ".join([str(kind), *parts])


def profile(phase: Phase) -> str:
    """The mock model of a phase: first token, gaps, length."""
    p = phase.profile
    if not phase.paced:
        return f"no delay between tokens; tokens per stream: {delay(p.get('length'))}"
    return (
        f"first token due after {delay(p.get('first'))}; gaps {delay(p.get('gap'))}; "
        f"tokens per stream: {delay(p.get('length'))}"
    )


def load(phase: Phase) -> str:
    """The load of a phase in a sentence's worth of words, and what is to go wrong."""
    return "; ".join([_load(phase.settings), *_trouble(phase.settings)])


def _trouble(s: Mapping[str, Any]) -> Iterator[str]:
    if s.get("fault"):
        yield f"fault {s['fault']}"
    if restart := s.get("restart"):
        how = "killed" if restart["signal"] == "kill" else "told to end"
        yield f"the server is {how} after {restart['after_s']:g} s and back {restart['down_s']:g} s later"
    if slow := s.get("slow"):
        yield f"{slow['share']:.0%} of the clients read {slow['bytes_per_s']:,} bytes per second".replace("%", " %")
    if leave := s.get("leave"):
        how = "cancelling" if leave["by"] == "cancel" else "closing"
        yield f"{leave['share']:.0%} of the clients leave by {how}".replace("%", " %")


def _load(s: Mapping[str, Any]) -> str:
    where = "a fresh connection for every stream" if s["connections"] == "cold" else "kept, primed connections"
    if s["load"] == "closed":
        until = f"{count(s['turns'], 'stream')} each" if s.get("turns") else f"for {s.get('duration_s', 0):g} s"
        return f"closed load, {count(s['users'], 'user')}, {until}, over {where}"
    if s["load"] == "open":
        arrivals = "Poisson arrivals" if s.get("arrivals") == "poisson" else "even arrivals"
        return f"open load, {s['rate']:g} streams per second for {s['duration_s']:g} s, {arrivals}, over {where}"
    if s["load"] == "crowd":
        sizes = ", ".join(f"{size:,}" for size in s["sizes"])
        return f"{sizes} streams open at a time, each size held for {s['hold_s']:g} s, over {where}"
    users = ", ".join(str(u) for u in s["users"])
    return f"steps of {users} users, {count(s['turns'], 'stream')} per user and step, over {where}"


def command(summary: Summary) -> str:
    """The command line that runs the same again."""
    sets = [part for override in summary.overrides for part in ("--set", override)]
    return shlex.join(["tokenwire", *summary.command, summary.source, *sets])


def setting(value: Any) -> str:
    """A setting's value for people."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{k} {setting(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(setting(v) for v in value)
    return str(value)
