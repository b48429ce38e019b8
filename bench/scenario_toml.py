"""Scenario files: find, read, override, check. Every fault is one line that says where, what, and what is allowed."""

from __future__ import annotations

import difflib
import itertools
import re
import tomllib
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from bench.measures import MEASURES
from bench.network.between import is_loopback
from bench.network.profiles import NETWORKS, Network
from bench.scenario import (
    PRIME_PROFILE,
    AnyPhase,
    Arm,
    Closed,
    Contrast,
    Experiment,
    Open,
    Primary,
    Scenario,
    Steps,
    Timeouts,
)
from servers.emitter import Profile
from servers.faults import APPLIES, BROKEN, HANDSHAKE, Fault

TOP_LEVEL: dict[str, Any] = {
    "title": str,
    "experiment": Experiment,
    "timeouts": Timeouts,
    "arms": Arm,
    "profiles": Profile,
    "phases": AnyPhase,
    "contrasts": Contrast,
    "primary": Primary,
    "faults": Fault,
    "networks": Network,
}
"""What stands at the top of a file, and the type of it (of each of its sub-tables, for those in `NAMED`)."""

NAMED = ("arms", "profiles", "phases", "contrasts", "primary", "faults", "networks")
OPTIONAL = {"contrasts": 2, "primary": 3, "faults": 50, "networks": 50}
"""Named tables that may be missing, and how many of each there may be."""


class ScenarioError(Exception):
    """A scenario that cannot be used. The message is one line for the user."""


def shipped() -> dict[str, Path]:
    """The scenarios that come with the package: name -> file."""
    folder = Path(str(resources.files("scenarios")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(name_or_path: str) -> Path:
    """The file of a shipped scenario, or the given file. Raises `ScenarioError` when there is none."""
    known = shipped()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = ", ".join(known)
    close = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ScenarioError(
        f"{name_or_path}: no such scenario or file; {hint}give one of {names}, or the path of a TOML file"
    )


def load(name_or_path: str, overrides: typing.Sequence[str] = ()) -> Scenario:
    """Read a scenario, apply `KEY=VALUE` overrides (VALUE as TOML, or a bare string), and check it.

    Raises `ScenarioError`.
    """
    path = find(name_or_path)
    where = path.name if path in shipped().values() else str(path)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScenarioError(f"{where}: not a TOML file: {error}") from None
    except OSError as error:
        raise ScenarioError(f"{where}: cannot be read: {error.strerror}") from None
    for override in overrides:
        _override(raw, override)
    return check(raw, where, re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem))


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ScenarioError(f"--set {override}: expected KEY=VALUE, such as phases.chat.users=500")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text.strip()
    table = raw
    for depth, part in enumerate(parts[:-1]):
        # A missing table under a known name would only be reported later as incomplete: name it here.
        if part not in table and depth > 0:
            raise ScenarioError(
                f"--set {key}: no {'.'.join(parts[: depth + 1])!r} in the scenario; {choices(part, table)}"
            )
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ScenarioError(f"--set {key}: {'.'.join(parts[: depth + 1])!r} is a value, not a table")
    table[parts[-1]] = value


def check(raw: dict[str, Any], where: str, name: str) -> Scenario:
    """Turn decoded TOML into the `Scenario` called `name`. `where` names the file in errors. Raises `ScenarioError`."""
    for key in raw:
        if key not in TOP_LEVEL:
            raise ScenarioError(f"{where}: unknown key {key!r}; {choices(key, TOP_LEVEL)}")
    parts: dict[str, Any] = {"name": name}
    for key, kind in TOP_LEVEL.items():
        if key in NAMED:
            tables = raw.get(key, {})
            if not isinstance(tables, dict) and key in OPTIONAL:
                raise ScenarioError(f"{where}: {key} = {_show(tables)}: expected tables [{key}.NAME], or none")
            if not isinstance(tables, dict) or (not tables and key not in OPTIONAL):
                raise ScenarioError(f"{where}: {key}: at least one table [{key}.NAME] is needed")
            parts[key] = {n: convert(value, kind, where, f"{key}.{n}") for n, value in tables.items()}
        elif key in raw:
            parts[key] = convert(raw[key], kind, where, key)
        elif key == "title":
            raise ScenarioError(f"{where}: title: missing; one line that says what the scenario answers")
    if not parts["contrasts"]:
        parts["contrasts"] = neighbours(list(parts["arms"]))
    scenario = Scenario(**parts)
    _check_whole(scenario, where)
    return scenario


def neighbours(arms: typing.Sequence[str]) -> dict[str, Contrast]:
    """The contrasts of a scenario that names none: each arm against the one before it, the first two such pairs."""
    pairs = itertools.pairwise(arms)
    return {f"{b}-against-{a}": Contrast(a, b) for a, b in list(pairs)[: OPTIONAL["contrasts"]]}


def _check_whole(scenario: Scenario, where: str) -> None:
    for name in (*scenario.arms, *scenario.phases, *scenario.profiles, *scenario.faults, *scenario.networks):
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ScenarioError(
                f"{where}: {_show(name)}: names are 1 to 64 letters, digits, '-' and '_': files are named after them"
            )
    if not scenario.title.strip() or any(letter < " " for letter in scenario.title):
        raise ScenarioError(f"{where}: title = {_show(scenario.title)}: expected one line of text")
    _check_verdict(scenario, where)
    if PRIME_PROFILE in scenario.profiles:
        raise ScenarioError(
            f"{where}: profiles.{PRIME_PROFILE}: reserved for priming kept connections; take another name"
        )
    for name, phase in scenario.phases.items():
        if phase.profile not in scenario.profiles:
            raise ScenarioError(
                f"{where}: phases.{name}.profile: {phase.profile!r} is no profile here; "
                f"{choices(phase.profile, scenario.profiles)}"
            )
        _check_trouble(scenario, f"{where}: phases.{name}", name)
    check_commands(scenario, where)
    known = {**NETWORKS, **scenario.networks}
    for name in scenario.experiment.networks:
        if name not in known:
            raise ScenarioError(f"{where}: experiment.networks: {name!r} is no network; {choices(name, known)}")
    if len(set(scenario.experiment.networks)) < len(scenario.experiment.networks):
        raise ScenarioError(f"{where}: experiment.networks: one is named twice; name each once")
    for name, network in scenario.networks.items():
        every_ms = network.cut_every_s * 1000
        if (network.cut_ms or every_ms) and not 0 < network.cut_ms < every_ms:
            raise ScenarioError(
                f"{where}: networks.{name}: cut_every_s = {network.cut_every_s:g} and cut_ms = {network.cut_ms:g}: "
                "expected both or neither, and a cut that is over before the next one begins"
            )


def check_commands(scenario: Scenario, where: str) -> None:
    """Whether arms that are served by a command can be, in this scenario. Raises `ScenarioError`."""
    for name, arm in scenario.arms.items():
        if arm.command is None:
            continue
        at = f"{where}: arms.{name}.command"
        if scenario.tls(name):
            raise ScenarioError(
                f"{at}: tls = true: nothing hands a certificate to a command; give this arm tls = false"
            )
        for network in scenario.experiment.networks:
            if network not in NETWORKS | scenario.networks or not is_loopback(scenario.network(network)):
                raise ScenarioError(
                    f"{at}: experiment.networks has {network!r}: a command listens on 127.0.0.1, where nothing lies "
                    "between; leave networks out"
                )
        for phase_name, phase in scenario.phases.items():
            if phase.restart is not None:
                raise ScenarioError(
                    f"{at}: phases.{phase_name}.restart: no second one can wait to take over from a command; leave "
                    "restart out"
                )
            if not arm.mocked and (isinstance(phase, Steps) or phase.fault is not None):
                what = "load = 'steps'" if isinstance(phase, Steps) else "fault"
                raise ScenarioError(
                    f"{at}: phases.{phase_name}.{what}: needs a server of this project behind the command; give it "
                    "{upstream}"
                )


def _check_trouble(scenario: Scenario, at: str, name: str) -> None:
    """Whether what is to go wrong in a phase can, and the server can tell whom it is to meet."""
    phase = scenario.phases[name]
    for key in ("retry", "restart", "slow", "leave"):
        if getattr(phase, key) is not None and not isinstance(phase, Closed | Open):
            raise ScenarioError(f"{at}.{key}: only phases of load 'closed' or 'open' take it")
    if phase.retry is not None and phase.retry.delay_ms > phase.retry.most_ms:
        raise ScenarioError(
            f"{at}.retry: delay_ms = {phase.retry.delay_ms:g} is above most_ms = {phase.retry.most_ms:g}, which no "
            "wait passes"
        )
    if phase.restart is not None and isinstance(phase, Closed | Open) and phase.slices > 1:
        raise ScenarioError(f"{at}.slices = {phase.slices}: a phase with a restart is one slice")
    duration_s = getattr(phase, "duration_s", None)
    if phase.restart is not None and duration_s is not None and phase.restart.after_s >= duration_s:
        raise ScenarioError(
            f"{at}.restart.after_s = {phase.restart.after_s:g}: expected less than the phase's duration_s = "
            f"{duration_s:g}, so that streams are under way"
        )
    for other_name, other in scenario.phases.items():
        resumes = [one.retry is not None and one.retry.resume for one in (phase, other)]
        if other.profile == phase.profile and (other.fault != phase.fault or resumes[0] != resumes[1]):
            raise ScenarioError(
                f"{at}.profile = {phase.profile!r}: phase {other_name!r} uses it without the same fault and resuming; "
                "give one of them a profile of its own, by which the server tells their streams apart"
            )
    if phase.fault is None:
        return
    if phase.fault not in scenario.faults:
        known = choices(phase.fault, scenario.faults) if scenario.faults else f"give a table [faults.{phase.fault}]"
        raise ScenarioError(f"{at}.fault: {phase.fault!r} is no fault here; {known}")
    kind = scenario.faults[phase.fault].kind
    for arm_name, arm in scenario.arms.items():
        if kind in BROKEN and arm.stack != "faulty":
            raise ScenarioError(
                f"{at}.fault: {kind!r} needs stack 'faulty' on every arm, and {arm_name!r} has {arm.stack!r}: no "
                "library sends such bytes"
            )
    spoken = {arm.protocol for arm in scenario.arms.values()}
    if not spoken & set(APPLIES[kind]):
        raise ScenarioError(
            f"{at}.fault: {kind!r} only happens over {' and '.join(APPLIES[kind])}, which no arm speaks; take another "
            "kind, or add such an arm"
        )
    if kind in HANDSHAKE and any(other.fault != phase.fault for other in scenario.phases.values()):
        raise ScenarioError(
            f"{at}.fault: {kind!r} meets every WebSocket handshake of the server, in every phase; give the same fault "
            "to all phases, or this one a scenario of its own"
        )


def _check_verdict(scenario: Scenario, where: str) -> None:
    """Whether what decides can be measured at all."""
    for table, most in OPTIONAL.items():
        if len(getattr(scenario, table)) > most:
            because = ", because each one more makes all of them harder to decide" if most < 10 else ""
            raise ScenarioError(
                f"{where}: {table}: {len(getattr(scenario, table))} of them; at most {most} are allowed{because}"
            )
    for name, contrast in scenario.contrasts.items():
        for side in ("baseline", "other"):
            if (arm := getattr(contrast, side)) not in scenario.arms:
                raise ScenarioError(
                    f"{where}: contrasts.{name}.{side}: {arm!r} is no arm here; {choices(arm, scenario.arms)}"
                )
        if contrast.baseline == contrast.other:
            raise ScenarioError(f"{where}: contrasts.{name}: baseline and other are the same arm; name two")
    comparable = [key for key, measure in MEASURES.items() if measure.scale in ("difference", "ratio")]
    for name, primary in scenario.primary.items():
        at = f"{where}: primary.{name}"
        if primary.phase not in scenario.phases:
            raise ScenarioError(
                f"{at}.phase: {primary.phase!r} is no phase here; {choices(primary.phase, scenario.phases)}"
            )
        if primary.measure not in comparable:
            raise ScenarioError(f"{at}.measure = {primary.measure!r}: {choices(primary.measure, comparable)}")
        allowed = MEASURES[primary.measure].statistics
        if primary.statistic not in allowed:
            raise ScenarioError(f"{at}.statistic = {primary.statistic!r}: allowed: {', '.join(map(repr, allowed))}")
        if MEASURES[primary.measure].level == "outage" and scenario.phases[primary.phase].retry is None:
            raise ScenarioError(
                f"{at}.measure = {primary.measure!r}: phase {primary.phase!r} has no retry, so that no stream of it "
                f"comes back; give it a table [phases.{primary.phase}.retry]"
            )
        steps = isinstance(scenario.phases[primary.phase], Steps)
        if steps != (primary.measure == "capacity"):
            raise ScenarioError(
                f"{at}.measure = {primary.measure!r}: a phase of load 'steps' is decided by 'capacity', and only such"
            )


def convert(value: Any, kind: Any, where: str, key: str) -> Any:
    """Decoded TOML as a `kind`. `where` and `key` name the file and the table in errors. Raises `ScenarioError`."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ScenarioError(_explain(str(error), value, kind, where, key)) from None


def _explain(message: str, value: Any, kind: Any, where: str, key: str) -> str:
    """Rewrite a msgspec message (`text - at `$.a.b``) as one line with file, key, value, and what is allowed."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    text = text.replace("`", "")
    bad, owner = value, _pick(kind, value)
    steps = [step for step in path.split(".") if step]
    for step in steps:
        field, _, index = step.partition("[")
        if isinstance(bad, dict):
            bad = bad.get(field)
        if index and isinstance(bad, list):
            bad = bad[int(index.rstrip("]"))]
        kind = _field_type(owner, field) or kind
        owner = _pick(kind, bad)
    full = ".".join([key, *steps])
    fields = _fields(owner)
    if text.startswith("Object contains unknown field "):
        unknown = text.removeprefix("Object contains unknown field ")
        return f"{where}: {full}: unknown key {unknown!r}; {choices(unknown, fields)}"
    if text.startswith("Object missing required field "):
        missing = text.removeprefix("Object missing required field ")
        return f"{where}: {full}.{missing}: missing; it has to be given"
    if text.startswith("Invalid enum value") or text.startswith("Invalid value"):
        allowed = _literals(kind) or _tags(kind)
        shown = value.get(steps[-1]) if isinstance(value, dict) and not isinstance(bad, str) and steps else bad
        return (
            f"{where}: {full} = {_show(shown)}: allowed: {', '.join(allowed)}"
            if allowed
            else f"{where}: {full}: {text}"
        )
    if text.startswith("Expected "):
        expected = text[0].lower() + text[1:].replace(" | null", "").replace("object", "a table [...]")
        return f"{where}: {full} = {_show(bad)}: {expected}"
    return f"{where}: {full}: {text}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _variants(kind: Any) -> list[Any]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _variants(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [v for arg in typing.get_args(kind) for v in _variants(arg)]
    if isinstance(kind, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return _variants(kind.__value__)
    return [kind]


def _pick(kind: Any, value: Any) -> Any:
    """Of a tagged union, the struct that `value` names."""
    structs = [v for v in _variants(kind) if isinstance(v, type) and issubclass(v, msgspec.Struct)]
    for struct in structs:
        config = struct.__struct_config__
        if config.tag_field and isinstance(value, dict) and value.get(config.tag_field) == config.tag:
            return struct
    return structs[0] if structs else kind


def _fields(struct: Any) -> list[str]:
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return []
    tag = struct.__struct_config__.tag_field
    return ([tag] if tag else []) + [field.encode_name for field in msgspec.structs.fields(struct)]


def _field_type(struct: Any, name: str) -> Any:
    if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
        for field in msgspec.structs.fields(struct):
            if field.encode_name == name:
                return field.type
    return None


def _literals(kind: Any) -> list[str]:
    return [repr(a) for v in _variants(kind) if typing.get_origin(v) is typing.Literal for a in typing.get_args(v)]


def _tags(kind: Any) -> list[str]:
    structs = [v for v in _variants(kind) if isinstance(v, type) and issubclass(v, msgspec.Struct)]
    return [repr(s.__struct_config__.tag) for s in structs if s.__struct_config__.tag is not None]


def choices(word: str, allowed: typing.Iterable[str]) -> str:
    """What is allowed instead of `word`, for the end of an error."""
    names = list(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"allowed: {', '.join(names)}"
