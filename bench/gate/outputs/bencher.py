"""gate-bencher.json: Bencher Metric Format, for `bencher run --adapter json`.

A benchmark is a row. Its measures are head's value, and the effect against base with its 95 % interval: blocks give an
interval of the effect, not of head alone. The effect depends less on the machine of the day than the value does. An
invalid gate leaves nothing: it would stay in a history.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bench.gate.outputs.figures import is_number, plain
from bench.gate.result import Gate, Row

_LONGEST_SLUG = 64
_LONGEST_NAME = 1024
_UNITS = {"µs": "us", "1/s": "per-s", "B": "bytes", "%": "percent"}


def render(gate: Gate) -> bytes:
    """A JSON object: benchmark to measure to `value`, `lower_value`, `upper_value`."""
    rows = [] if gate.decision == "invalid" else gate.rows
    metrics = {_name(row): metric for row in rows if (metric := _metrics(row))}
    return msgspec.json.format(msgspec.json.encode(metrics), indent=1) + b"\n"


def _name(row: Row) -> str:
    return plain(row.name).encode()[:_LONGEST_NAME].decode(errors="ignore")


def _metrics(row: Row) -> dict[str, Any]:
    # A measure of Bencher is one for all benchmarks of a project: hot paths share theirs, as arms do.
    measure = "micro" if row.kind == "micro" else row.measure
    metrics: dict[str, Any] = {}
    if is_number(row.head):
        metrics[_slug(measure, _UNITS.get(row.unit, row.unit))] = {"value": row.head}
    if is_number(row.effect) and row.kind != "count":
        unit = "ratio" if row.scale == "ratio" else _UNITS.get(row.unit, row.unit)
        bounds = {"lower_value": row.low, "upper_value": row.high}
        known = {name: bound for name, bound in bounds.items() if is_number(bound)}
        metrics[_slug(measure, "effect", unit)] = {"value": row.effect, **known}
    return metrics


def _slug(*parts: str) -> str:
    """`cpu-server-effect-ratio`: small letters, digits and single hyphens."""
    return re.sub("[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")[:_LONGEST_SLUG].rstrip("-")
