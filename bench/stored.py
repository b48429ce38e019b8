"""Stored runs as others take them up: what run.json says of the conditions, and summary.json of the figures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.metrics.summary import FORMAT, Results
from bench.netset import is_set
from bench.record import RUN_FILE, RecordError
from bench.scenario import Scenario

SUMMARY_FILE = "summary.json"
_OF_THE_MACHINE = ("cpu", "cores", "memory", "os", "arch")


class Stored(NamedTuple):
    """A run that was reported."""

    path: Path
    info: dict[str, Any]
    """run.json."""
    scenario: Scenario
    results: Results
    """summary.json."""


def read_stored(folder: Path) -> Stored:
    """Read a run's run.json and summary.json. Raises `RecordError`."""
    if is_set(folder):
        raise RecordError(f"{folder}: a set of runs over several networks; give one of the runs inside it")
    info = read_info(folder)
    try:
        scenario = scenario_of(info)
    except msgspec.ValidationError as error:
        raise RecordError(f"{folder / RUN_FILE}: its scenario is not one that this version knows: {error}") from None
    return Stored(folder, info, scenario, read_results(folder))


def read_info(folder: Path) -> dict[str, Any]:
    """run.json as it is. Raises `RecordError`."""
    file = folder / RUN_FILE
    info = _json(file, f"{folder}: no run here ({RUN_FILE}: {{}}); give a folder that `run` made")
    if not isinstance(info, dict) or not isinstance(info.get("scenario"), dict):
        raise RecordError(f"{file}: not of a run: it has no scenario")
    return info


def read_results(folder: Path) -> Results:
    """summary.json of a run. Raises `RecordError`."""
    file = folder / SUMMARY_FILE
    again = f"`tokenwire report {folder}` makes it anew"
    found = _json(file, f"{file}: cannot be read: {{}}; {again}")
    if isinstance(found, dict) and found.get("format") != FORMAT:
        raise RecordError(f"{file}: format {found.get('format')!r}; this version reads format {FORMAT}; {again}")
    try:
        return msgspec.convert(found, Results)
    except msgspec.ValidationError as error:
        raise RecordError(f"{file}: {error}; {again}") from None


def _json(file: Path, missing: str) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise RecordError(missing.format(error.strerror)) from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{file}: not JSON: {error}") from None


def scenario_of(info: dict[str, Any]) -> Scenario:
    """The scenario in run.json; runs from before there were contrasts have none. Raises `msgspec.ValidationError`."""
    return msgspec.convert({"contrasts": {}} | info["scenario"], Scenario)


def hardware(machine: dict[str, Any]) -> dict[str, Any]:
    """What makes it this machine, of run.json's `machine`; kernel and Python come and go on it.

    Memory is in whole GiB: what a kernel keeps for itself differs from one to the next.
    """
    kept = machine | {"memory": f"{round(machine.get('memory_bytes', 0) / 2**30)} GiB"}
    return {key: kept.get(key) for key in _OF_THE_MACHINE}


def software(info: dict[str, Any]) -> dict[str, str]:
    """Versions of what a run's machine and parent process had, by name."""
    machine = info.get("machine", {})
    found = {"tokenwire": info.get("tokenwire"), "kernel": machine.get("kernel"), "python": machine.get("python")}
    found |= {name: number for name, number in info.get("versions", {}).items() if name != "python"}
    return {name: str(number) for name, number in found.items() if number is not None}


def work(scenario: Scenario) -> str:
    """A fingerprint of what is measured and how, as `bench.floor.work_of`, that outlives versions of tokenwire.

    What has its default is left out of it, so that a key which a later version adds changes nothing.
    """
    wanted = scenario.experiment
    parts = (scenario.phases, scenario.faults, scenario.profiles, scenario.timeouts)
    own = (wanted.mode, wanted.tls, wanted.driver, wanted.network_by, scenario.network(wanted.networks[0]))
    return fingerprint(lean(parts), lean(own))


def lean(value: Any) -> Any:
    """Structs as dicts of what is not its default, with their tags; all else as it is."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        kept = {
            field.name: lean(found)
            for field in msgspec.structs.fields(value)
            if (found := getattr(value, field.name)) != _default(field)
        }
        return kept if tag is None else {"": tag, **kept}
    if isinstance(value, dict):
        return {key: lean(found) for key, found in value.items()}
    return [lean(found) for found in value] if isinstance(value, list | tuple) else value


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


def fingerprint(*parts: Any) -> str:
    """Sixteen hexadecimal digits that are the same where all parts are."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:16]
