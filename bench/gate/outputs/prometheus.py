"""gate.prom: Prometheus text format, for the textfile collector of node_exporter.

Base units (seconds, bytes, ratios), no timestamps on samples, as that collector refuses them: when the gate ran is a
gauge of its own. An invalid gate leaves no values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple, get_args

from bench.gate.outputs.figures import failed, is_number, plain, unclear
from bench.gate.result import Decision, Gate, Row, Side

_UNITS = {
    "": ("", 1.0),
    "s": ("seconds", 1.0),
    "ms": ("seconds", 1e-3),
    "µs": ("seconds", 1e-6),
    "ns": ("seconds", 1e-9),
    "B": ("bytes", 1.0),
    "KiB": ("bytes", 1024.0),
    "MiB": ("bytes", 1024.0**2),
    "× reference": ("ratio", 1.0),
    "1/s": ("per_second", 1.0),
}
"""Unit of a row to the end of a metric's name, and what turns a value into that unit."""


class _Sample(NamedTuple):
    """One line, and the help of the metric that it belongs to."""

    metric: str
    help: str
    labels: dict[str, str]
    value: float


def render(gate: Gate) -> str:
    """Every metric with its HELP and TYPE once, all of them gauges, a line feed at the end."""
    samples = [*_of_gate(gate)]
    if gate.decision != "invalid":
        samples += [sample for row in gate.rows for sample in _of_row(row)]
    families: dict[str, list[_Sample]] = {}
    for sample in samples:
        families.setdefault(sample.metric, []).append(sample)
    lines = []
    for name, members in families.items():
        lines += [f"# HELP {name} {members[0].help}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(member.labels)} {member.value:.12g}" for member in members]
    return "\n".join(lines) + "\n"


def _of_gate(gate: Gate) -> Iterator[_Sample]:
    what = "What the gate came to: 1 for that decision, 0 for the others."
    for decision in get_args(Decision):
        yield _Sample("tokenwire_gate_decision", what, {"decision": decision}, float(gate.decision == decision))
    told = {
        "tokenwire": gate.tokenwire,
        "size": gate.size,
        "base": _revision(gate.base),
        "head": _revision(gate.head),
        "head_changed": "true" if gate.head.changed else "false",
    }
    yield _Sample("tokenwire_gate_info", "What was compared: full hash of a commit, or a command.", told, 1)
    created = datetime.fromisoformat(gate.created).timestamp()
    yield _Sample("tokenwire_gate_timestamp_seconds", "When the gate ran, since the epoch.", {}, created)
    yield _Sample("tokenwire_gate_duration_seconds", "How long the gate took.", {}, gate.seconds)
    yield _Sample("tokenwire_gate_exit_code", "0 pass, 1 regression, 3 invalid, 4 inconclusive.", {}, gate.exit_code)
    yield _Sample("tokenwire_gate_blocks", "Valid blocks of the first run.", {}, gate.blocks)
    yield _Sample("tokenwire_gate_void_blocks", "Blocks that did not count.", {}, len(gate.voids))


def _of_row(row: Row) -> Iterator[_Sample]:
    labels = {"name": row.name, "kind": row.kind, "measure": row.measure, "arm": row.arm, "where": row.where}
    if row.decides:
        yield _Sample("tokenwire_gate_regression", "Whether this measure fails the gate.", labels, failed(row))
        yield _Sample("tokenwire_gate_inconclusive", "Whether this measure was left open.", labels, unclear(row))
    unit, factor = _unit(row.unit)
    for side, value in (("base", row.base), ("head", row.head)):
        if is_number(value):
            what = "What was measured: median over blocks, or a count."
            yield _Sample(_named("tokenwire_gate_value", unit), what, {**labels, "side": side}, value * factor)
    if row.scale == "ratio":
        unit, factor = "ratio", 1.0
    how = "head / base - 1" if row.scale == "ratio" else "head - base"
    for part, value, what in (
        ("effect", row.effect, f"Effect, {how}."),
        ("effect_low", row.low, f"95 % interval of the effect, {how}, lower end."),
        ("effect_high", row.high, f"95 % interval of the effect, {how}, upper end."),
        ("effect_smallest", row.smallest_effect, f"Smallest effect, {how}, that counts as worse."),
    ):
        if is_number(value):
            yield _Sample(_named(f"tokenwire_gate_{part}", unit), what, labels, value * factor)


def _revision(side: Side) -> str:
    return side.command or side.revision or side.what


def _unit(unit: str) -> tuple[str, float]:
    return _UNITS[unit] if unit in _UNITS else (re.sub("[^a-z0-9]+", "_", unit.lower()).strip("_"), 1.0)


def _named(metric: str, unit: str) -> str:
    return f"{metric}_{unit}" if unit else metric


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    # GitLab's metrics report takes all from # on for a comment, in a label too.
    return plain(text).replace("#", "").replace("\\", "\\\\").replace('"', '\\"')
