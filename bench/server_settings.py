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
    """The settings of an arm's server: its emission log, if any, the cores it keeps to, and what it shows over TLS."""
    arm = scenario.arms[arm_name]
    profiles = {**scenario.profiles, PRIME_PROFILE: PRIME}
    faults = {phase.profile: scenario.fault(name) for name, phase in scenario.phases.items()}
    settings = {
        "mode": scenario.experiment.mode,
        "loop": arm.loop,
        "compression": arm.compression,
        "heartbeat_s": arm.heartbeat_s,
        "profiles": {name: msgspec.to_builtins(profile) for name, profile in profiles.items()},
        "faults": {name: msgspec.to_builtins(fault) for name, fault in faults.items() if fault is not None},
        "resumable": scenario.resumable,
        "log": None if log is None else str(log),
        "cpus": cpus,
        "plant": None if arm.plant is None else msgspec.to_builtins(arm.plant),
    }
    if certificate is not None and scenario.tls(arm_name):
        settings["tls"] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
    return settings
