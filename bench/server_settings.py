"""How the server of an arm is to be: what `python -m servers STACK --config` reads, from a scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.scenario import PRIME, PRIME_PROFILE, Scenario

if TYPE_CHECKING:
    from bench.certificate import Certificate


def server_settings(
    scenario: Scenario,
    arm_name: str,
    log: Path | None,
    cpus: Sequence[int] | None = None,
    certificate: Certificate | None = None,
) -> dict[str, Any]:
    """The settings of an arm's server: its emission log, if any, the cores it keeps to, and what it shows over TLS.

    What is as if it were left out is left out, so that the servers of a revision that does not know it start, too.
    """
    arm = scenario.arms[arm_name]
    profiles = {**scenario.profiles, PRIME_PROFILE: PRIME}
    faults = {phase.profile: scenario.fault(name) for name, phase in scenario.phases.items()}
    settings = {
        "mode": scenario.experiment.mode,
        "loop": arm.loop,
        "compression": arm.compression,
        "heartbeat_s": arm.heartbeat_s,
        "profiles": {name: _told(profile) for name, profile in profiles.items()},
        "faults": {name: _told(fault) for name, fault in faults.items() if fault is not None},
        "resumable": scenario.resumable,
        "log": None if log is None else str(log),
        "cpus": cpus,
        "plant": None if arm.plant is None else _told(arm.plant),
    }
    if certificate is not None and scenario.tls(arm_name):
        settings["tls"] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
    # A plant of nothing is a plant all the same, with what its presence costs: the control of experiments.
    return {
        key: value for key, value in settings.items() if value is not None and (key == "plant" or value not in ([], {}))
    }


def _told(struct: msgspec.Struct) -> dict[str, Any]:
    """A struct as plain data, without the fields that have their defaults; its tag is kept."""
    config = struct.__struct_config__
    tag = {config.tag_field: config.tag} if config.tag_field else {}
    values = [(field, getattr(struct, field.name)) for field in msgspec.structs.fields(struct)]
    return tag | {
        field.encode_name: _told(value) if isinstance(value, msgspec.Struct) else msgspec.to_builtins(value)
        for field, value in values
        if value != field.default
    }
