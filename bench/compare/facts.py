"""What is not the same about two runs, by name and with both values, and how much of a comparison that leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.stored import Stored, hardware, software, work

NONE = "none"


class Fact(msgspec.Struct, frozen=True):
    """One thing that differs."""

    kind: Annotated[
        Literal["machine", "work", "arm", "scenario", "software"],
        Meta(
            description="machine, work: figures are of another kind; arm: those of one arm are; scenario, software: "
            "named only"
        ),
    ]
    name: Annotated[str, Meta(description="Such as machine.cpu, phases.chat.users, versions.aiohttp")]
    first: Annotated[str, Meta(description="Of the first run; none where it has no such thing")]
    second: Annotated[str, Meta(description="Of the second run")]
    arm: Annotated[str, Meta(description="The arm it is about, else empty")] = ""


_WORK = ("phases.", "faults.", "profiles.", "timeouts.", "networks.")
_HOW = ("mode", "tls", "driver", "networks", "network_by")
_NAMES = ("name", "title")


def facts(first: Stored, second: Stored) -> list[Fact]:
    """Everything that differs, what weighs most first."""
    return [
        *_machine(first, second),
        *_work(first, second),
        *_arms(first, second),
        *_software(first, second),
    ]


def _machine(first: Stored, second: Stored) -> Iterator[Fact]:
    for name, a, b in apart(hardware(first.results.machine), hardware(second.results.machine)):
        yield Fact("machine", f"machine.{name}", a, b)
    for name, a, b in apart(flat({"pinning": first.results.pinning}), flat({"pinning": second.results.pinning})):
        yield Fact("machine", name, a, b)


def _work(first: Stored, second: Stored) -> Iterator[Fact]:
    """Keys of the scenario but for its arms; those that say what is measured count only where that is not the same."""
    same = work(first.scenario) == work(second.scenario)
    for name, a, b in apart(_keys(first), _keys(second)):
        how = name.startswith(_WORK) or name.removeprefix("experiment.") in _HOW
        if name not in _NAMES and not name.startswith("arms."):
            yield Fact("work" if how and not same else "scenario", name, a, b)
    # As it really was: `auto` may have made packets here and a model there. Runs from before say nothing.
    between = [run.results.network for run in (first, second)]
    if all(between):
        for name, a, b in apart(*(flat({"network": found}) for found in between)):
            yield Fact("work", name, a, b)


def _arms(first: Stored, second: Stored) -> Iterator[Fact]:
    mine, theirs = first.scenario.arms, second.scenario.arms
    for arm in dict.fromkeys([*mine, *theirs]):
        if arm in mine and arm in theirs:
            a, b = (flat(msgspec.to_builtins(found[arm])) for found in (mine, theirs))
            for name, one, other in apart(a, b):
                yield Fact("arm", f"arms.{arm}.{name}", one, other, arm)
        else:
            one, other = ("there" if arm in found else NONE for found in (mine, theirs))
            yield Fact("arm", f"arms.{arm}", one, other, arm)


def _software(first: Stored, second: Stored) -> Iterator[Fact]:
    a, b = ({f"versions.{name}": v for name, v in software(run.info).items()} for run in (first, second))
    told = set()
    for name, one, other in apart(a, b):
        told.add((name, one, other))
        yield Fact("software", name, one, other)
    mine, theirs = ({arm.name: arm for arm in run.results.arms} for run in (first, second))
    common = [name for name in mine if name in theirs]
    seen: dict[tuple[str, str, str], list[str]] = {}
    for arm in common:
        for what in ("server_versions", "server_settings", "driver"):
            for name, one, other in apart(*(flat(getattr(found[arm], what), what) for found in (mine, theirs))):
                # What the parent process told of a library need not be said again.
                version = f"versions.{name.rpartition('versions.')[2]}"
                if (version, one, other) not in told:
                    seen.setdefault((name, one, other), []).append(arm)
    for (name, one, other), arms in seen.items():
        yield Fact("software", name if arms == common else f"{name} ({', '.join(arms)})", one, other)


def _keys(run: Stored) -> dict[str, str]:
    return flat(msgspec.to_builtins(run.scenario))


def flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested tables as one, with dotted names, and values as text."""
    if not isinstance(value, dict):
        return {
            name: NONE if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
        }
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{name}.{key}" if name else str(key))
    return found


def _text(value: Any) -> str:
    if value is None:
        return NONE
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def apart(first: dict[str, Any], second: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Names whose values are not the same, with both of them."""
    for name in dict.fromkeys([*first, *second]):
        a, b = (NONE if found.get(name) is None else str(found[name]) for found in (first, second))
        if a != b:
            yield name, a, b
