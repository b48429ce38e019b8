"""gate-benchmark.json: head's values for github-action-benchmark, tool `customSmallerIsBetter`.

That tool takes all of a file as smaller-is-better and alerts on the ratio of two values of one name. A measure of
which more is better therefore stands here as its reciprocal, which has the same ratio turned round, and says so in its
name. An invalid gate leaves no values: they would stay in a history.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.gate.outputs.figures import effect, interval, is_number, label, plain, subject, unit_of
from bench.gate.result import Gate, Row


def render(gate: Gate) -> bytes:
    """A JSON array of `name`, `unit`, `value`, and where they are known `range` and `extra`."""
    rows = [] if gate.decision == "invalid" else gate.rows
    entries = [entry for row in rows if (entry := _entry(row)) is not None]
    return msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"


def _entry(row: Row) -> dict[str, Any] | None:
    if not is_number(row.head) or (row.more_is_better and not row.head):
        return None
    told = [plain(subject(row)), f"base {row.base:g} {row.unit}".strip() if is_number(row.base) else "", _against(row)]
    if row.more_is_better:
        told.append(f"the reciprocal of {row.head:g} {row.unit}, of which more is better".replace(" ,", ","))
        return {
            "name": f"{plain(row.name)} (reciprocal)",
            "unit": row.unit.removeprefix("1/") if row.unit.startswith("1/") else f"1/{row.unit or 'count'}",
            "value": float(f"{1 / row.head:.12g}"),
            "extra": "\n".join(filter(None, told)),
        }
    entry = {"name": plain(row.name), "unit": row.unit or "count", "value": row.head}
    reach = _half_width(row)
    if reach is not None:
        # The tool reads a number behind the sign, and scales it along when it changes the unit.
        entry["range"] = f"± {reach:.3g}"
        told.append("range: half of that interval, in the unit of the value")
    return {**entry, "extra": "\n".join(filter(None, told))}


def _half_width(row: Row) -> float | None:
    """Half of the effect's interval in `unit`: blocks give a spread of the effect, not of head alone."""
    if not (is_number(row.low) and is_number(row.high)):
        return None
    if row.scale == "ratio":
        return abs(row.base) * (row.high - row.low) / 2 if is_number(row.base) else None
    return (row.high - row.low) / 2


def _against(row: Row) -> str:
    between = interval(row)
    reach = f", 95 % interval {between} {unit_of(row)}".rstrip() if between else ""
    return f"effect against base {effect(row)}{reach}: {label(row)}"
